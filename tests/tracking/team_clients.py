"""What members of a team do to their server: each function is the whole life of a process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registering import train_and_register

from reelscribe.pipeline.tracking.query import query_versions
from reelscribe.pipeline.tracking.registry import fetch_model, promote, rollback
from reelscribe.pipeline.tracking.runs import RunTracker


def with_environment(environment: dict[str, str], function: Callable[..., None], *arguments: object) -> None:
    """Carry a function out in an environment of its own."""
    os.environ.update(environment)
    function(*arguments)


def client(uri: str, folder: str, number: int) -> None:
    """Train, register under the name that all share, move an alias of its own there and back, ask, fetch."""
    alias = f"alias-{number}"
    train_and_register(uri, folder, "shared", "champion")
    for version in (1, 2):
        promote(f"shared/{version}", to=alias, uri=uri)
    rollback("shared", alias=alias, uri=uri)
    (found,) = query_versions(f"name = 'shared' and (alias = '{alias}' or version > 99)", uri=uri)
    assert (found.version, fetch_model(f"models:/shared@{alias}", uri=uri).version) == (1, "1")


def train_through_an_outage(uri: str, folder: str, begun: str, back: str) -> None:
    """Logs epochs that the server does not hear of, and one when it is back, then registers."""
    with RunTracker(uri=uri, experiment="outage", run_name="outage") as run:
        Path(begun).touch()
        for epoch in range(6):
            run.log_metrics({"loss": float(epoch)}, epoch)
            if epoch == 4:
                await_file(back)
    train_and_register(uri, folder, "outage", "champion")


def await_file(name: str) -> None:
    """Wait until somebody makes a file."""
    deadline = time.monotonic() + 400
    while not Path(name).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(name)
        time.sleep(0.1)


def promote_and_die(uri: str, model: str, at: str) -> None:
    """Killed as by the kernel, at the moment when MLflow's client is about to do ``at``."""
    from mlflow import MlflowClient

    def die(self: MlflowClient, *arguments: Any, **keywords: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(MlflowClient, at, die)
    promote(model, to="champion", uri=uri)
