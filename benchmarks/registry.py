"""How long the registry takes to answer on a real MLflow server, and whether its answers are right.

    python benchmarks/registry.py                                 # 10,000 versions in 50 models, 500 random queries on a smaller registry
    python benchmarks/registry.py --models 5 --versions 40 --queries 20

Each line is a whole command, from the start of Python to its end; "processor" is what the command and the server used of it, which other
work on the machine hardly changes. MLflow's own client is beside it: importing it, and reading all that the question needs.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "tracking"))

from filled_store import facts, fill, random_query, read_all
from mlflow_server import DATABASE, free_port, running_server

from reelscribe.pipeline.tracking.query import query_versions
from reelscribe.pipeline.tracking.query_evaluation import select
from reelscribe.pipeline.tracking.query_language import parse_query

BOTH = (
    "metrics.top1 >= 0.9 and (tags.team = 'ops' or alias = 'champion') and params.model.recurrent in ('gru','mingru') "
    "and created > 2026-01-01 order by metrics.top1 desc limit 5"
)
QUESTIONS = {
    "list": ("list",),
    "query: tags or aliases, metrics and parameters": ("query", BOTH),
    "query: one alias": ("query", "alias = 'champion' and name = 'model-01'"),
    "query: metrics alone": ("query", "metrics.top1 >= 0.9 order by metrics.top1 desc limit 5"),
    "query: a tag compared as a number": ("query", "tags.priority >= 12 limit 5"),
}
BY_HAND = """
from mlflow import MlflowClient
client = MlflowClient(tracking_uri={uri!r})
models = list(client.search_registered_models(max_results=1000))
if {versions}:
    client.search_model_versions(max_results=200_000)
"""


def processor_s() -> float:
    """Seconds of processor that children of this process used and ended with."""
    used = os.times()
    return used.children_user + used.children_system


def server_s(port: str) -> float:
    """Seconds of processor of the processes that serve this port."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if port in (folder / "cmdline").read_text():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        except OSError:
            continue  # it has just ended
    return total / os.sysconf("SC_CLK_TCK")


def measured(command: list[str], port: str, rounds: int) -> tuple[float, float]:
    """Least seconds by the clock, and least of processor, over some rounds."""
    clock, processor = [], []
    for _ in range(rounds):
        began, used = time.perf_counter(), processor_s() + server_s(port)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        clock.append(time.perf_counter() - began)
        processor.append(processor_s() + server_s(port) - used)
    return min(clock), min(processor)


def speed(*, models: int, versions: int, rounds: int, workers: int) -> None:
    with served(models=models, versions=versions, workers=workers) as (uri, port):
        print(f"\n{models * versions} versions in {models} models; server with {workers} worker(s); the least of {rounds}\n")
        print("| command | seconds | processor seconds, command and server |\n|---|---|---|")
        for name, arguments in QUESTIONS.items():
            command = [sys.executable, "-m", "reelscribe", "registry", *arguments, "--tracking-uri", uri]
            clock, used = measured(command, port, rounds)
            print(f"| {name} | {clock:.1f} | {used:.1f} |", flush=True)
        for name, all_versions in (("all models", False), ("all models and versions", True)):
            command = [sys.executable, "-c", BY_HAND.format(uri=uri, versions=all_versions)]
            clock, used = measured(command, port, rounds)
            print(f"| MLflow's client: {name} | {clock:.1f} | {used:.1f} |", flush=True)


class served:  # noqa: N801 - a context
    """A server on a filled store: its URI, and its port as text."""

    def __init__(self, *, models: int, versions: int, workers: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._size = (models, versions)
        self._port = free_port()
        self._server = running_server(Path(self._folder.name), self._port, workers=workers)

    def __enter__(self) -> tuple[str, str]:
        uri = self._server.__enter__()
        models, versions = self._size
        fill(Path(self._folder.name) / DATABASE, models=models, versions=versions)
        return uri, str(self._port)

    def __exit__(self, *error: object) -> None:
        self._server.__exit__(None, None, None)
        self._folder.cleanup()


def equality(*, queries: int, seed: int) -> None:
    with served(models=12, versions=50, workers=1) as (uri, _):
        everything, rng = read_all(uri), random.Random(seed)
        sizes, wrong, seconds = [], 0, []
        for _ in range(queries):
            text = random_query(rng)
            began = time.perf_counter()
            found = query_versions(text, uri=uri)
            seconds.append(time.perf_counter() - began)
            wrong += facts(found) != facts(select(parse_query(text), everything))
            sizes.append(len(found))
    print(f"\n{queries} random queries (seed {seed}) of 600 versions, against a filter in Python: {wrong} differ;")
    print(f"{sum(size > 0 for size in sizes)} of them find something, {max(sizes)} at most; median {statistics.median(seconds):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--versions", type=int, default=200, help="in each model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes of the server; MLflow's default is 4")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(machine("mlflow", "sqlalchemy"))
    speed(models=chosen.models, versions=chosen.versions, rounds=chosen.rounds, workers=chosen.workers)
    equality(queries=chosen.queries, seed=chosen.seed)


if __name__ == "__main__":
    main()
