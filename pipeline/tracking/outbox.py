"""What a run says while its server is away: kept on disk, delivered once and in order when the server is back.

Every task may be carried out twice with the result of once (MLflow keeps one row of a metric for each key, step, time and value), so a
connection that breaks after the server has done its work, and a process that is killed in mid-delivery, double nothing. What is left
when the process ends is delivered by the next run at the same store. A task that a server refuses is named and left out; one that it never
carries out, while it does those behind it, is named and set aside in a file: neither holds up the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from reelscribe.pipeline.console import note
from reelscribe.pipeline.errors import ServiceUnavailableError, TrackingLostError
from reelscribe.pipeline.tracking.connection import check_reachable, first_line, refusals, tracking_errors
from reelscribe.pipeline.tracking.fetch import cache_folder
from reelscribe.pipeline.tracking.uri import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_BYTES = 512 * 2**20
_PROBE_S = 2.0  # that a task waits for a server that does not answer
_TRIES = 3  # of a task that a server answers with an error, before those behind it are tried
_LAST_WAIT_S = 60.0  # that the end of a run waits
_TASKS = "tasks.jsonl"
_OWNER = "run.json"
_LOCK = "lock"
_ASIDE = "aside"
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"

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
        self._failures = 0  # of the first that waits, while the server answered
        self._last_words = ""  # why it failed
        self._named: set[str] = set()  # refusals that were told
        self._lock = FileLock(self._folder / _LOCK)

    def put(self, task: Task) -> None:
        """Carry a task out after all that wait, or keep it. Raises TrackingLostError where MAX_BYTES wait already."""
        if not (self.flush() and self._deliver(task)):
            self._keep(task)

    def flush(self) -> bool:
        """Deliver what waits, in order; whether all of it is delivered."""
        before = len(self._waiting)
        while self._waiting and (self._deliver(self._waiting[0]) or self._passed_by()):
            self._waiting.popleft()
            self._failures = 0
        if not self._waiting:
            self._forget()
        elif len(self._waiting) < before:
            self._write()
        return not self._waiting

    def _deliver(self, task: Task) -> bool:
        """Whether the store has carried a task out, or refused it."""
        try:
            check_reachable(self._uri, wait_s=_PROBE_S)  # MLflow itself would try for minutes
        except ServiceUnavailableError:
            return False
        try:
            with tracking_errors(self._uri), _no_patience():
                carry_out(self._client, self._run_id, task)
        except ServiceUnavailableError as error:
            self._failures += 1
            self._last_words = first_line(error)
            return False
        except refusals() as error:
            rows = task.get("rows", [])
            if len(rows) > 1:  # only what is wrong is left out
                return all(self._deliver({**task, "rows": [row]}) for row in rows)
            self._tell_once(f"refuses {_name(task)} of run {self._run_id}: {first_line(error)}; it is left out")
        return True

    def _passed_by(self) -> bool:
        """Whether the first that waits was set aside: it fails each time, and the one behind it does not."""
        if self._failures < _TRIES or len(self._waiting) < 2 or not self._deliver(self._waiting[1]):
            return False
        first = self._waiting.popleft()  # the caller takes the delivered one
        folder = outbox_folder() / _ASIDE / self._run_id
        folder.mkdir(parents=True, exist_ok=True)
        if "path" in first:
            first["path"] = str(Path(shutil.move(Path(first["path"]).parent, folder)) / Path(first["path"]).name)
        with (folder / _TASKS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(first) + "\n")
        self._tell_once(
            f"fails at {_name(first)} of run {self._run_id} each time ({self._last_words}); it is set aside in {folder / _TASKS}, and "
            "the rest goes on"
        )
        return True

    def _tell_once(self, what: str) -> None:
        if what not in self._named:
            self._named.add(what)
            note(f"the tracking server {redact(self._uri)} {what}")

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
            raise TrackingLostError(
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
        if not outbox.flush():
            outbox._lock.release()


@contextmanager
def _no_patience() -> Iterator[None]:
    """One attempt a request: MLflow would try a server that answers with errors for minutes, and here the task can wait."""
    before = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = "0"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_RETRIES, None)
        else:
            os.environ[_RETRIES] = before


def _name(task: Task) -> str:
    """What a person would call a task."""
    match task["kind"]:
        case "metrics" | "params" | "tags" as kind:
            names = [str(row[0]) for row in task["rows"]]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return f"{kind} {', '.join(names[:3])}{more}" + (f" at step {task['rows'][0][3]}" if kind == "metrics" else "")
        case "file":
            return f"the file {Path(task['path']).name}"
        case "text":
            return f"the file {task['file']}"
        case "dataset":
            return f"the data set {task['dataset']['name']}"
        case _:
            return "the end"


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
