"""Training on a real Ray: the numbers of one process, also where a worker is killed, and wrong launches that end at once."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_job import changed, check_the_batch_that_was_kept, history, poisoned
from tiny_training import drawn_data

from reelscribe.pipeline.bundle import untrained
from reelscribe.pipeline.config import CheckpointConfig, Config, TrainingConfig
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import NotAVideoError, StoppedError, TrainingError, UsageError, VideoNotFoundError
from reelscribe.pipeline.features import ArrayRequest, FeatureCache, Spread
from reelscribe.pipeline.manifest import read_manifest
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.training.checkpoints import Checkpoints
from reelscribe.pipeline.training.data import TrainingData, prepare
from reelscribe.pipeline.training.job import TrainingResult, run_training
from reelscribe.pipeline.training.loop import World
from reelscribe.pipeline.training.ray_arrays import SpreadOnRay, _require_reached
from reelscribe.pipeline.training.ray_launch import _require_files, require_places
from reelscribe.pipeline.training.ray_relay import Relay, reachable
from reelscribe.pipeline.training.recipes.splits import split_rows
from reelscribe.pipeline.training.steps.bad_batch import BAD_BATCH_FILE
from reelscribe.pipeline.training.stopping import STOP_FILE
from reelscribe.pipeline.video.clip import ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import FrameSize

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.mark.parametrize(
    ("workers", "gpus", "nodes"),
    [
        (2, 0, [{"CPU": 2}]),
        (3, 0, [{"CPU": 2}, {"CPU": 1}]),
        (4, 0.5, [{"CPU": 8, "GPU": 2}]),
        (2, 1, [{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}, {"memory": 1}]),
    ],
)
def test_a_cluster_with_room(workers: int, gpus: float, nodes: list[dict[str, float]]) -> None:
    require_places(TrainingConfig(workers=workers, gpus_per_worker=gpus), nodes)


@pytest.mark.parametrize(
    ("workers", "gpus", "nodes", "words"),
    [
        (64, 1, [{"CPU": 2}], "64 workers need 1 CPU and 1 GPUs each, the cluster has 2 CPUs and 0 GPUs on 1 node"),
        (1, 2, [{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}], "has 2 CPUs and 2 GPUs on 2 node.s., room for 0 workers"),
        (3, 0, [{"CPU": 2}, {}], "room for 2 workers; lower training.workers"),
    ],
)
def test_a_cluster_without_room(workers: int, gpus: float, nodes: list[dict[str, float]], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        require_places(TrainingConfig(workers=workers, gpus_per_worker=gpus), nodes)
    assert caught.value.exit_status == 2


def on_two_workers(config: Config) -> Config:
    """Long enough to be disturbed before it ends."""
    config = changed(config, "training", workers=2, epochs=6)
    return config.model_copy(update={"name": "spread"})


def in_this_process(config: Config) -> Config:
    return changed(on_two_workers(config), "training", workers=1)


@pytest.fixture(scope="module")
def alone(tiny_config: Config) -> TrainingResult:
    return run_training(in_this_process(tiny_config), progress=progress)


@pytest.fixture(scope="module")
def spread(ray_cluster: None, tiny_config: Config) -> TrainingResult:
    """On two workers, undisturbed."""
    return run_training(on_two_workers(tiny_config), progress=progress)


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_this_process(alone: TrainingResult, spread: TrainingResult) -> None:
    for name in ("train_loss", "val_loss", "train_top1", "val_top1", "learning_rate"):
        mine, theirs = (history(alone.tracking_uri, run, name) for run in (alone.run_id, spread.run_id))
        assert mine == pytest.approx(theirs, abs=1e-5), name
    a, b = (load_file(result.bundle.folder / "weights.safetensors") for result in (alone, spread))
    assert max((a[name] - b[name]).abs().max().item() for name in a if a[name].is_floating_point()) < 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_stopped_by_ctrl_c_one_process_goes_on(alone: TrainingResult, tiny_config: Config) -> None:
    asked: list[int] = []

    @contextmanager
    def interrupting(what: str) -> Iterator[Callable[..., None]]:
        def advance(done: int, *_: Any) -> None:
            if what == "training" and not asked:
                asked.append(done)
                os.kill(os.getpid(), signal.SIGINT)

        yield advance

    rename = {"name": "stopped-on-ray"}
    with pytest.raises(StoppedError, match=r"stopped in epoch \d+ of 6.*reelscribe train --resume \w+") as caught:
        run_training(on_two_workers(tiny_config).model_copy(update=rename), progress=interrupting)
    resumed = run_training(in_this_process(tiny_config).model_copy(update=rename), progress=progress)
    assert resumed.run_id == str(caught.value).rpartition(" ")[2]
    mine, theirs = (history(alone.tracking_uri, run, "val_loss") for run in (alone.run_id, resumed.run_id))
    assert mine == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_that_diverges_says_the_same(tiny_config: Config) -> None:
    config = poisoned(tiny_config)
    config = config.model_copy(update={"training": config.training.model_copy(update={"workers": 2})})
    with pytest.raises(TrainingError, match=r"^epoch 1, step \d+: .* lower training\.learning_rate") as caught:
        run_training(config, progress=progress)
    check_the_batch_that_was_kept(config, str(caught.value))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_decodes_as_this_process_does(tiny_config: Config, tmp_path: Path) -> None:
    config = changed(tiny_config, "model", trainable_stages=0)
    table = read_manifest(config.data.manifest, require_labels=True)
    splits = split_rows(table, config.data)
    (tmp_path / "none.mp4").write_text("no video")
    splits = replace(splits, train=[*splits.train[:6], {**splits.train[6], "uri": str(tmp_path / "none.mp4")}, *splits.train[7:]])
    model = untrained(config, splits.labels).eval()
    done: list[tuple[int, int]] = []

    def prepared(name: str, pool: DecodePool | Spread) -> TrainingData:
        cache = FeatureCache(tmp_path / name)
        return prepare(splits, config, model, pool=pool, cache=cache, progress=lambda *shares: done.append(shares))

    with DecodePool(1, config.decode.limits) as pool:
        here = prepared("here", pool)
    done.clear()
    there = prepared("there", SpreadOnRay(config.decode.limits))
    assert done[-1][0] == done[-1][1] == len(done)
    assert there.digest == here.digest
    assert "not_a_video" in {failure.failure for failure in there.failures}  # beside the drawn folder's own
    assert there.failures == here.failures
    for mine, theirs in zip(here.train.files + here.val.files, there.train.files + there.val.files, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(np.load(one), np.load(other), atol=1e-2)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_node_without_the_folder_of_the_run(tmp_path: Path) -> None:
    """Checkpoints, a request to stop and a bad batch go through the relay, and so do its errors."""
    import ray

    data = drawn_data(tmp_path, train=3, val=1)
    run, elsewhere = tmp_path / "run", Path("/no/such/folder")
    run.mkdir()
    data = replace(data, train=replace(data.train, files=((elsewhere / "gone.npy",), *data.train.files[1:])))
    kept = Checkpoints(root=str(run / "checkpoints"), config=CheckpointConfig(), recipe={"a": 1}, data_digest="d")
    relay = ray.remote(Relay).options(num_cpus=0).remote(run, kept)

    def work() -> None:
        with reachable(relay, data, elsewhere, kept) as found:
            assert found.data.train.files == data.train.files  # what nobody has keeps its name
            checkpoints = found.checkpoints
            assert checkpoints
            assert checkpoints.newest() is None
            checkpoints.save({"weights": torch.arange(3)}, epoch=2, step=1, monitor="val_loss")
            newest = kept.newest()
            assert newest
            assert checkpoints.newest() == newest
            assert torch.equal(checkpoints.load(newest)["weights"], torch.arange(3))
            assert not (found.folder / STOP_FILE).exists()
            (run / STOP_FILE).touch()
            limit = time.monotonic() + 30
            while not (found.folder / STOP_FILE).exists():
                assert time.monotonic() < limit
                time.sleep(0.1)
            (found.folder / BAD_BATCH_FILE).write_bytes(b"batch")
            shutil.rmtree(run / "checkpoints")
            (run / "checkpoints").write_text("in the way")
            checkpoints.save({}, epoch=3, step=1, monitor="val_loss")

    with pytest.raises(TrainingError, match="cannot write a checkpoint"):
        work()
    assert (run / BAD_BATCH_FILE).read_bytes() == b"batch"
    (run / "checkpoints").unlink()
    (run / "checkpoints").mkdir()
    with reachable(relay, data, run, kept) as found:
        assert (found.data, found.folder, found.checkpoints) == (data, run, kept)


def test_stored_arrays_that_are_gone(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=4, val=2)
    data = replace(data, val=replace(data.val, files=((tmp_path / "elsewhere.npy",), *data.val.files[1:])))
    with pytest.raises(UsageError, match=r"worker 0 lacks 1 of 10 stored arrays, e\.g\. .*elsewhere\.npy: .* decodes it anew"):
        _require_files(data, World(), torch.device("cpu"))


def test_a_video_that_a_node_does_not_read() -> None:
    clip = ClipRequest(uri="/videos/a.mp4", sampling=UniformSampling(num_frames=2), size=FrameSize(height=8, width=8))
    request = ArrayRequest(clip=clip, recipe=())
    with pytest.raises(
        UsageError, match=r"the node 10\.0\.0\.2 does not read /videos/a\.mp4, which can be read here: .* or behind s3://"
    ) as caught:
        _require_reached(request, VideoNotFoundError("no such file"), "10.0.0.2")
    assert caught.value.exit_status == 2
    _require_reached(request, NotAVideoError("text"), "10.0.0.2")  # this one is the file's, and a failure of its clip
