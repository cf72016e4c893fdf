"""What a run says while its server is away: kept on disk, delivered once and in order when the server is back.

Every task may be carried out twice with the result of once (MLflow keeps one row of a metric for each key, step, time and value), so a
connection that breaks after the server has done its work, and a process that is killed in mid-delivery, double nothing. What is left
when the process ends is delivered by the next run at the same store.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from reelscribe.pipeline.console import note
from reelscribe.pipeline.errors import ServiceUnavailableError
from reelscribe.pipeline.tracking.connection import check_reachable, refusals, tracking_errors
from reelscribe.pipeline.tracking.fetch import cache_folder
from reelscribe.pipeline.tracking.uri import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_BYTES = 512 * 2**20
_PROBE_S = 2.0  # that a task waits for a server that does not answer
_LAST_WAIT_S = 60.0  # that the end of a run waits
_TASKS = "tasks.jsonl"
_OWNER = "run.json"
_LOCK = "lock"

Task = dict[str, Any]


def outbox_folder() -> Path:
    """Where undelivered tasks wait, a folder for each run."""
    return cache_folder().parent / "outbox"


class Outbox:
    """The tasks of one run on their way to its server."""

    def __init__(self, client: MlflowClient, uri: str, run_id: str) -> None:
        self._client = client
        self._uri = uri
        self._run_id = run_id
        self._folder = outbox_folder() / run_id
        self._waiting: deque[Task] = deque()
        self._lock = FileLock(self._folder / _LOCK)

    def put(self, task: Task) -> None:
        """Carry a task out after all that wait, or keep it. Raises ServiceUnavailableError where MAX_BYTES wait already."""
        if not (self.flush() and self._deliver(task)):
            self._keep(task)

    def flush(self) -> bool:
        """Deliver what waits, in order; whether all of it is delivered."""
        before = len(self._waiting)
        while self._waiting and self._deliver(self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting:
            self._forget()
        elif len(self._waiting) < before:
            self._write()
        return not self._waiting

    def _deliver(self, task: Task) -> bool:
        try:
            check_reachable(self._uri, wait_s=_PROBE_S)  # MLflow itself would try for minutes
            with tracking_errors(self._uri):
                carry_out(self._client, self._run_id, task)
        except ServiceUnavailableError:
            return False
        return True

    def close(self) -> None:
        """Wait a while for the server; what is left then stays on disk."""
        deadline = time.monotonic() + _LAST_WAIT_S
        while not self.flush():
            if time.monotonic() > deadline:
                self._lock.release()
                note(
                    f"the tracking server {redact(self._uri)} is away: {len(self._waiting)} entries of run {self._run_id} wait in "
                    f"{self._folder}; the next training that is tracked there delivers them"
                )
                return
            time.sleep(_PROBE_S)

    def _keep(self, task: Task) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._lock.is_locked:
            self._lock.acquire()
            (self._folder / _OWNER).write_text(json.dumps({"uri": self._uri, "run_id": self._run_id}), encoding="utf-8")
        if "path" in task:  # a file may be gone or another one by then
            task["path"] = str(self._copy(Path(task["path"])))
        self._waiting.append(task)
        with (self._folder / _TASKS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(task) + "\n")
        if sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file()) > MAX_BYTES:
            raise ServiceUnavailableError(
                f"the tracking server {redact(self._uri)} has been away for too long: {MAX_BYTES >> 20} MB of run {self._run_id} wait in "
                f"{self._folder}; start it and train again, what waits is delivered then"
            )

    def _copy(self, path: Path) -> Path:
        kept = self._folder / f"files-{time.time_ns()}" / path.name
        kept.parent.mkdir()
        if path.is_dir():
            shutil.copytree(path, kept)
        else:
            shutil.copy2(path, kept)
        return kept

    def _write(self) -> None:
        """All that waits, whole or as it was."""
        new = self._folder / f"{_TASKS}.new"
        new.write_text("".join(json.dumps(task) + "\n" for task in self._waiting), encoding="utf-8")
        new.replace(self._folder / _TASKS)

    def _forget(self) -> None:
        if self._lock.is_locked:
            self._lock.release()
            shutil.rmtree(self._folder, ignore_errors=True)


def deliver_leftovers(client: MlflowClient, uri: str) -> None:
    """Deliver what runs that have ended left for this store; those of a process that lives are its own."""
    for owner in sorted(outbox_folder().glob(f"*/{_OWNER}")):
        about = json.loads(owner.read_text(encoding="utf-8"))
        if about["uri"] != uri:
            continue
        outbox = Outbox(client, uri, about["run_id"])
        try:
            outbox._lock.acquire(timeout=0)
        except Timeout:
            continue
        lines = (owner.parent / _TASKS).read_text(encoding="utf-8").splitlines()
        outbox._waiting.extend(json.loads(line) for line in lines)
        try:
            if not outbox.flush():
                outbox._lock.release()
        except refusals() as error:  # its run is gone: nothing to tell it
            note(f"what waited for run {about['run_id']} is dropped: {error}")
            outbox._forget()


def carry_out(client: MlflowClient, run_id: str, task: Task) -> None:
    """Tell the store."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    match task["kind"]:
        case "metrics":
            client.log_batch(run_id, metrics=[Metric(*row) for row in task["rows"]])
        case "params":
            client.log_batch(run_id, params=[Param(*row) for row in task["rows"]])
        case "tags":
            client.log_batch(run_id, tags=[RunTag(*row) for row in task["rows"]])
        case "file" if Path(task["path"]).is_dir():
            client.log_artifacts(run_id, task["path"], "/".join(filter(None, (task["folder"], Path(task["path"]).name))))
        case "file":
            client.log_artifact(run_id, task["path"], task["folder"])
        case "text":
            client.log_text(run_id, task["text"], task["file"])
        case "dataset":
            tags = [InputTag(*row) for row in task["tags"]]
            client.log_inputs(run_id, [DatasetInput(Dataset(**task["dataset"]), tags)])
        case "end":
            client.set_terminated(run_id, task["status"], task["time_ms"])
