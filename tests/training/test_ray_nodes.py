"""A training on two nodes that share no folder: the other has the wheel, and reads videos from a store."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file
from test_job import changed

import s3_server
from reelscribe.pipeline.config import CheckpointConfig, Config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.training.job import run_training

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own


@dataclass
class TwoNodes:
    address: str
    here: Path  # a folder that the other node does not see
    there: Path  # the other node's cache
    other: int  # its process


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, s3_server_address: str) -> Iterator[TwoNodes]:
    """Of one CPU each; the second one in a mount namespace of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here (unshare --mount needs root)")
    import patient_ray  # before Ray: else that leaves the loopback

    patient_ray.be_patient()
    from ray.cluster_utils import Cluster

    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    store = {**s3_server.ENVIRONMENT, "AWS_ENDPOINT_URL": s3_server_address}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.items():
            patch.setenv(name, value)
        head = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False, **patient_ray.ports()}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        join = f"'{sys.executable}' '{patient_ray.__file__}' join {cluster.address}"
        with (there / "words.txt").open("wb") as words:
            other = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none '{here}' && exec {join}"],
                stdout=words,
                stderr=words,
                env={**os.environ, "REELSCRIBE_CACHE": str(there)},
            )
        try:
            _await_two(cluster)
            yield TwoNodes(cluster.address, here, there, other.pid)
        finally:
            below = psutil.Process(other.pid).children(recursive=True)
            other.terminate()
            try:
                other.wait(timeout=20)
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()
            for process in below:
                with suppress(psutil.NoSuchProcess):  # by psutil never another one of the same number
                    process.kill()
            cluster.shutdown()


def _await_two(cluster: Any) -> None:
    limit = time.monotonic() + 120
    while sum(node["Alive"] for node in cluster.global_state.node_table()) < 2:
        assert time.monotonic() < limit, "the other node does not join"
        time.sleep(0.2)


def on_s3(manifest: Path, folder: Path, address: str) -> Path:
    """The videos of a label file behind s3://videos, and the label file that says so."""
    store = s3_server.client(address)
    store.create_dir("videos")
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        with store.open_output_stream(f"videos/{Path(row['path']).name}") as stream:
            stream.write((manifest.parent / row["path"]).read_bytes())
        row["path"] = f"s3://videos/{Path(row['path']).name}"
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


def arrays(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*/*.npy")}


def train(config: Config, nodes: TwoNodes, name: str) -> subprocess.Popen[str]:
    file = nodes.here / f"{name}.yaml"
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", "reelscribe", "train", str(file), f"cluster.address={nodes.address}", "training.workers=2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_the_other_node(nodes: TwoNodes, training: subprocess.Popen[str], *, epoch: int) -> None:
    """SIGKILL to its raylet, with which its workers end, as soon as a checkpoint of this epoch or a later one is there."""
    limit = time.monotonic() + 300
    while not any(
        file.parent.name >= f"epoch-{epoch:04}" for file in nodes.here.glob("spread/spread/*/checkpoints/epoch-*/checkpoint.json")
    ):
        assert training.poll() is None, training.communicate()[1]
        assert time.monotonic() < limit, "no checkpoint"
        time.sleep(0.05)
    raylets = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "raylet"]
    (raylet,) = [process for process in raylets if psutil.Process(nodes.other) in process.parents()]
    raylet.kill()


@pytest.mark.timeout(700)
@pytest.mark.usefixtures("s3")
def test_nodes_without_a_shared_folder(nodes: TwoNodes, drawn: Path, tiny_config: Config, s3_server_address: str) -> None:
    """The other node is killed, and what is left of the workers goes on."""
    config = changed(tiny_config, "data", manifest=str(on_s3(drawn / "manifest.csv", nodes.here, s3_server_address)))
    config = changed(config, "training", epochs=10, min_workers=1, checkpoint=CheckpointConfig(every_steps=2))
    alone = run_training(config.model_copy(update={"name": "alone", "output": str(nodes.here / "alone")}), progress=progress)

    output = nodes.here / "spread"
    training = train(config.model_copy(update={"name": "spread", "output": str(output)}), nodes, "spread")
    kill_the_other_node(nodes, training, epoch=2)
    said = training.communicate(timeout=250)[1]
    assert training.returncode == 0, said

    sent = arrays(nodes.there / "arrays")
    assert sent
    assert sent.items() <= arrays(output / "cache").items()
    (folder,) = output.glob("spread/*/model")
    a, b = (load_file(place / "weights.safetensors") for place in (alone.bundle.folder, folder))
    assert max((a[name] - b[name]).abs().max().item() for name in a if a[name].is_floating_point()) < 1e-4
    history = MlflowClient(f"sqlite:///{output / 'mlflow.db'}").get_metric_history(folder.parent.name, "train_loss")
    assert [point.step for point in history] == list(range(1, 11))
