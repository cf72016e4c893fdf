"""What a training goes on from after a crash: a folder for each checkpoint, on this machine, on a shared disk, or behind s3://.

``epoch-0003-step-000120/state.pt``         tensors, numbers and text (``torch.save``; read with ``weights_only``)
``epoch-0003-step-000120/checkpoint.json``  its facts, among them the digest of the state; written last

A checkpoint counts only where both are there and the digest is right, so one that was cut off, by a crash or by a power cut, is none.
Both engines write this one form, and a run may go on on the other: Ray starts workers again, where they go on is said here.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import torch
from pyarrow import fs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reelscribe.pipeline.config import CheckpointConfig
from reelscribe.pipeline.errors import OutputConflictError, TrainingError, UsageError
from reelscribe.pipeline.stores import locate
from reelscribe.pipeline.training.steps.optimization import is_better

STATE_FILE = "state.pt"
FACTS_FILE = "checkpoint.json"
_NAME = re.compile(r"epoch-\d{4,}-step-\d{6,}")


class CheckpointFacts(BaseModel):
    """What ``checkpoint.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    epoch: int = Field(description="in progress, from 1")
    step: int = Field(description="optimizer steps of it that are done")
    monitored: float | None = Field(description="the monitored figure of the epoch that ended here; None within an epoch")
    monitor: str
    recipe: dict[str, Any] = Field(description="the keys of the config that decide the numbers")
    data_digest: str = Field(description="of the clips, their targets and their stored arrays")
    state_digest: str = Field(description="SHA-256 of the state, hex")
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def name(self) -> str:
        """Of the folder; in the order of time."""
        return f"epoch-{self.epoch:04}-step-{self.step:06}"


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Those of one run, under ``root``: a folder, or ``s3://bucket/prefix``. Plain facts, so that it travels to other processes."""

    root: str
    config: CheckpointConfig
    recipe: dict[str, Any]
    data_digest: str

    def check_writable(self) -> None:
        """Raises UsageError where nothing can be written."""
        try:
            system, root = locate(self.root)
            system.create_dir(root)
            with system.open_output_stream(f"{root}/.probe") as file:
                file.write(b"")
            system.delete_file(f"{root}/.probe")
        except OSError as error:
            raise UsageError(
                f"checkpoints cannot be written to {self.root}: {error}; choose another place by training.checkpoint.folder"
            ) from error

    def due(self, *, steps: int) -> bool:
        """Whether one is wanted within an epoch, so many optimizer steps after the beginning of the training."""
        return bool(self.config.every_steps) and steps % self.config.every_steps == 0

    def due_after(self, epoch: int) -> bool:
        """Whether one is wanted at the end of this epoch."""
        return bool(self.config.every_epochs) and epoch % self.config.every_epochs == 0

    def save(self, state: dict[str, Any], *, epoch: int, step: int, monitor: str, monitored: float | None = None) -> None:
        """Leave one. Raises TrainingError where it cannot be written."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        facts = CheckpointFacts(
            epoch=epoch,
            step=step,
            monitor=monitor,
            monitored=monitored,
            recipe=self.recipe,
            data_digest=self.data_digest,
            state_digest=hashlib.sha256(data).hexdigest(),
        )
        self.write(facts, data)

    def write(self, facts: CheckpointFacts, data: bytes) -> None:
        """Write one whole, then remove those that are neither among the newest nor the best. Raises TrainingError where that fails."""
        try:
            system, root = locate(self.root)
            folder = f"{root}/{facts.name}"
            system.create_dir(folder)
            system.delete_dir_contents(folder)  # of one that was cut off
            with system.open_output_stream(f"{folder}/{STATE_FILE}") as file:
                file.write(data)
            with system.open_output_stream(f"{folder}/{FACTS_FILE}") as file:
                file.write(facts.model_dump_json(indent=2).encode())
            self._prune(system, root)
        except OSError as error:
            raise TrainingError(
                f"cannot write a checkpoint to {self.root}: {error}; the same command goes on from the one before"
            ) from error

    def newest(self) -> CheckpointFacts | None:
        """The newest one that is whole; None where there is none. Raises UsageError where the store does not answer."""
        with self._reading() as (system, root):
            return next((facts for facts in reversed(_listed(system, root)) if self._state(system, root, facts) is not None), None)

    def load(self, facts: CheckpointFacts) -> dict[str, Any]:
        """The state of a checkpoint, on the CPU. Raises UsageError where it cannot be read."""
        data = self.read(facts)
        if data is None:
            raise UsageError(f"the checkpoint {facts.name} in {self.root} is damaged or gone")
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UsageError(f"the checkpoint {facts.name} in {self.root} holds more than tensors, numbers and text: not opened") from error
        return state

    def read(self, facts: CheckpointFacts) -> bytes | None:
        """The state as it was written; None where it is damaged or gone. Raises UsageError where the store does not answer."""
        with self._reading() as (system, root):
            return self._state(system, root, facts)

    def require_same(self, facts: CheckpointFacts) -> None:
        """Raises OutputConflictError for a checkpoint of another model, another recipe or other clips, with what differs."""
        if differing := differences(facts.recipe, self.recipe):
            raise OutputConflictError(
                f"the checkpoint {facts.name} in {self.root} is of another training: {'; '.join(differing)}; "
                "give it the same config, or start a new training"
            )
        if self.data_digest and facts.data_digest != self.data_digest:
            raise OutputConflictError(
                f"the checkpoint {facts.name} in {self.root} was made with other clips, labels or frames than there are now; "
                "start a new training"
            )

    @contextmanager
    def _reading(self) -> Iterator[tuple[fs.FileSystem, str]]:
        try:
            yield locate(self.root)
        except OSError as error:
            raise UsageError(f"checkpoints cannot be read from {self.root}: {error}") from error

    @staticmethod
    def _state(system: fs.FileSystem, root: str, facts: CheckpointFacts) -> bytes | None:
        """The bytes of the state; None where they are not those that were written."""
        data = _read(system, f"{root}/{facts.name}/{STATE_FILE}")
        return data if data is not None and hashlib.sha256(data).hexdigest() == facts.state_digest else None

    def _prune(self, system: fs.FileSystem, root: str) -> None:
        found = _listed(system, root)
        keep = {facts.name for facts in found[-self.config.keep :]}
        best: CheckpointFacts | None = None
        for facts in found:
            if facts.monitored is None:
                continue
            if best is None or best.monitored is None or is_better(facts.monitored, best.monitored, facts.monitor):
                best = facts
        for facts in found:
            if facts.name not in keep and facts is not best:
                system.delete_file(f"{root}/{facts.name}/{FACTS_FILE}")  # first: from here on it is none
                system.delete_dir(f"{root}/{facts.name}")


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys of two recipes that differ, in words."""
    words = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            words += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            words.append(f"{prefix}{key} was {old}, now it is {new}")
    return words


def _listed(system: fs.FileSystem, root: str) -> list[CheckpointFacts]:
    """All that were committed, the oldest first."""
    entries = system.get_file_info(fs.FileSelector(root, allow_not_found=True))
    names = sorted(entry.base_name for entry in entries if _NAME.fullmatch(entry.base_name))
    found = []
    for name in names:
        data = _read(system, f"{root}/{name}/{FACTS_FILE}")
        try:
            found += [CheckpointFacts.model_validate_json(data)] if data else []
        except ValidationError:
            continue  # cut off while it was written
    return found


def _read(system: fs.FileSystem, path: str) -> bytes | None:
    try:
        with system.open_input_file(path) as file:
            return bytes(file.read())
    except FileNotFoundError:
        return None
