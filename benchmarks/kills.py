"""One training on several Ray nodes, with random kills: does it end as the undisturbed one does?

    python benchmarks/kills.py                         # 20 kills, over half an hour on two cores
    python benchmarks/kills.py --kills 3 --seed 1

A cluster of three nodes (raylets of their own) on this machine trains with three workers. From a seed, SIGKILL strikes a worker, a node
(raylet and all on it; another takes its place), or the command itself, which is then given again. At the end the weights and the
tracked epochs are compared with those of a training that nobody touched.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from machine import machine
from safetensors.torch import load_file

from reelscribe.pipeline.config_files import load_config
from reelscribe.pipeline.drawing.order import draw_order_dataset

KINDS = ("worker", "node", "command")


def training_workers() -> list[psutil.Process]:
    """Ray's, below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            found += [process] if "RayTrainWorker" in " ".join(process.cmdline()) else []
    return found


def command(folder: Path, address: str, epochs: int) -> list[str]:
    overrides = {
        "name": "kills",
        "output": folder / "runs",
        "data.manifest": folder / "drawn" / "manifest.csv",
        "training.epochs": epochs,
        "training.workers": 3,
        "training.checkpoint.every_steps": 2,
        "training.max_restarts": 100,
        "tracking.register_model": "false",
        "cluster.address": address,
    }
    return [sys.executable, "-m", "reelscribe", "train", "demo", *(f"{key}={value}" for key, value in overrides.items())]


def start(folder: Path, address: str, epochs: int) -> subprocess.Popen[bytes]:
    with (folder / "words.txt").open("ab") as words:
        return subprocess.Popen(command(folder, address, epochs), stdout=words, stderr=words)


class Killer:
    """Strikes one of the kinds, and puts right what the next strike needs."""

    def __init__(self, cluster: Any, folder: Path, epochs: int, seed: int) -> None:
        self.cluster, self.folder, self.epochs = cluster, folder, epochs
        self.random = random.Random(seed)
        self.nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        self.training = start(folder, cluster.address, epochs)
        self.done: Counter[str] = Counter()

    def strike(self) -> None:
        kind = self.random.choice(KINDS)
        if kind == "worker":
            workers = training_workers()
            if not workers:
                return
            self.random.choice(workers).kill()
        elif kind == "node":
            node = self.nodes.pop(self.random.randrange(len(self.nodes)))
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=2))
        else:
            self.training.kill()
            self.training.wait()
            self.training = start(self.folder, self.cluster.address, self.epochs)
        self.done[kind] += 1


def last_checkpoint(folder: Path) -> str:
    return max((path.parent.name for path in folder.glob("runs/kills/*/checkpoints/*/checkpoint.json")), default="")


def disturbed(folder: Path, cluster: Any, *, kills: int, epochs: int, seed: int) -> tuple[Counter[str], float]:
    """Strike, let it make some steps, strike again; then let it end."""
    killer = Killer(cluster, folder, epochs, seed)
    began, before = time.monotonic(), ""
    while killer.training.poll() is None:
        time.sleep(killer.random.uniform(0.2, 3))
        now = last_checkpoint(folder)
        if sum(killer.done.values()) < kills and now > before:
            killer.strike()
            before = now
            print(f"{time.monotonic() - began:6.0f} s  {now or 'before any checkpoint'}  {dict(killer.done)}", file=sys.stderr, flush=True)
    if killer.training.returncode:
        raise SystemExit(f"the training ended with status {killer.training.returncode}, see {folder / 'words.txt'}")
    return killer.done, time.monotonic() - began


def result(folder: Path) -> tuple[dict[str, Any], dict[str, list[tuple[int, float]]], int]:
    """Weights, tracked figures by epoch, and runs that MLflow knows."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    runs = [run for experiment in client.search_experiments() for run in client.search_runs([experiment.experiment_id])]
    (finished,) = [run for run in runs if run.info.status == "FINISHED"]
    names = ("train_loss", "val_loss", "train_top1", "val_top1")
    figures = {name: sorted((m.step, m.value) for m in client.get_metric_history(finished.info.run_id, name)) for name in names}
    (weights,) = folder.glob(f"runs/kills/{finished.info.run_id}/model/weights.safetensors")
    return load_file(weights), figures, len(runs)


def main(kills: int, epochs: int, seed: int) -> None:
    from ray.cluster_utils import Cluster

    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{machine('torch', 'ray')}; {kills} kills from seed {seed}\n", flush=True)
    load_config("demo")
    with tempfile.TemporaryDirectory() as name:
        quiet, struck = Path(name) / "quiet", Path(name) / "struck"
        for folder in (quiet, struck):
            draw_order_dataset(folder / "drawn", num_videos=60, broken_share=0)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "node_ip_address": "127.0.0.1"})
        try:
            _, quiet_s = disturbed(quiet, cluster, kills=0, epochs=epochs, seed=seed)
            done, struck_s = disturbed(struck, cluster, kills=kills, epochs=epochs, seed=seed)
        finally:
            cluster.shutdown()
        weights, figures, _ = result(quiet)
        other_weights, other_figures, runs = result(struck)
        largest = max(float((weights[key].double() - other_weights[key].double()).abs().max()) for key in weights)
        print("| | undisturbed | killed |\n|---|---|---|")
        print(f"| kills: {', '.join(KINDS)} | 0 | {', '.join(str(done[kind]) for kind in KINDS)} |")
        print(f"| seconds | {quiet_s:.0f} | {struck_s:.0f} |")
        print(f"| epochs tracked | {len(figures['train_loss'])} | {len(other_figures['train_loss'])} |")
        print(f"| tracked figures that differ | | {sum(figures[key] != other_figures[key] for key in figures)} of {len(figures)} |")
        print(f"| largest difference of a weight | | {largest:.3g} |")
        print(f"| runs in MLflow, that died before their first checkpoint included | 1 | {runs} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    main(chosen.kills, chosen.epochs, chosen.seed)
