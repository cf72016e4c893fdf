"""Which run a command goes on with: the same command again finds the one that was stopped, and two processes never work on one run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from reelscribe.pipeline.config import Config
from reelscribe.pipeline.config_files import load_config
from reelscribe.pipeline.errors import ModelError, OutputConflictError, UsageError
from reelscribe.pipeline.stores import S3
from reelscribe.pipeline.tracking.connection import connect, model_errors
from reelscribe.pipeline.tracking.uri import redact, tracking_uri
from reelscribe.pipeline.training.checkpoints import CheckpointFacts, Checkpoints

CONFIG_FILE = "config.yaml"  # an artifact of the run: `reelscribe train` takes it again
LAUNCH_FILE = "launch.json"  # in the folder of a run that has not ended
_LOCK_FILE = "lock"


class Launch(BaseModel):
    """What makes two commands the same training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: dict[str, Any]
    table_digest: str
    tracking_uri: str

    @classmethod
    def of(cls, config: Config, table_digest: str, uri: str) -> Launch:
        """That of this config on this label file."""
        return cls(recipe=config.recipe, table_digest=table_digest, tracking_uri=redact(uri))

    def interrupted(self, folder: Path, config: Config) -> str:
        """The id of the newest run in ``folder`` that the same launch began, that has not ended, and that nobody is at work on.

        One that left a checkpoint goes before those that did not; empty where there is none.
        """
        begun = ""
        for file in sorted(folder.glob(f"*/{LAUNCH_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True):
            with suppress(ValidationError, OutputConflictError):
                if Launch.model_validate_json(file.read_text(encoding="utf-8")) == self:
                    with held(file.parent):
                        if checkpoints_of(config, file.parent).newest():
                            return file.parent.name
                        begun = begun or file.parent.name
        return begun

    def begin(self, folder: Path) -> None:
        """Say that the run in ``folder`` is under way."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LAUNCH_FILE).write_text(self.model_dump_json(), encoding="utf-8")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Be the only process at work on the run in ``folder``. Raises OutputConflictError where another one is.

    The kernel drops the lock with the process that holds it, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputConflictError(f"another process is training the run {folder.name}; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def ended(folder: Path) -> None:
    """Say that there is nothing left to go on with."""
    (folder / LAUNCH_FILE).unlink(missing_ok=True)


def checkpoints_of(config: Config, folder: Path, data_digest: str = "") -> Checkpoints:
    """Those of the run whose folder this is."""
    chosen = config.training.checkpoint.folder
    if chosen and not chosen.startswith(S3):
        chosen = str(Path(chosen).absolute())  # workers have working directories of their own
    root = f"{chosen.rstrip('/')}/{folder.name}" if chosen else str(folder / "checkpoints")
    return Checkpoints(root=root, config=config.training.checkpoint, recipe=config.recipe, data_digest=data_digest)


def resumed_config(run_id: str, overrides: list[str]) -> Config:
    """The config of a run that was stopped, with ``key=value`` changes of where it runs.

    The run is looked for in the store that ``tracking.uri=`` or ``output=`` among them names, else in the usual one.
    Raises ModelError where there is no such run, UsageError where it has ended.
    """
    chosen = dict(override.split("=", 1) for override in overrides if "=" in override)
    uri = tracking_uri(chosen.get("tracking.uri", ""), chosen.get("output", "runs"))
    client = connect(uri)
    with model_errors(uri, f"run '{run_id}' in {redact(uri)}"):
        run = client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise ModelError(f"run '{run_id}' was deleted; bring it back with `mlflow runs restore --run-id {run_id}`")
        if run.info.status == "FINISHED":
            raise UsageError(f"run '{run_id}' has ended: there is nothing to go on with")
        with tempfile.TemporaryDirectory() as folder:
            return load_config(client.download_artifacts(run_id, CONFIG_FILE, folder), overrides)


def checkpoint_to_go_on_with(config: Config, folder: Path) -> CheckpointFacts | None:
    """The newest checkpoint of the run in this folder; None where it was begun here and left none.

    Raises UsageError where no such run was begun here, OutputConflictError where the checkpoint is one of another training or a process
    is at work on it.
    """
    checkpoints = checkpoints_of(config, folder)
    found = checkpoints.newest()
    if found is None and (folder / LAUNCH_FILE).exists():
        with held(folder):
            return None
    if found is None:
        raise UsageError(
            f"run '{folder.name}' left no checkpoint in {checkpoints.root}; name the folder that it was started with by output=FOLDER, "
            "or start the training anew"
        )
    checkpoints.require_same(found)
    with held(folder):
        return found
