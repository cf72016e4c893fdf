"""A run in MLflow: parameters, metrics by step, files, the data it saw, and how it ended."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from reelscribe.pipeline.errors import ConfigError, StoppedError
from reelscribe.pipeline.tracking.connection import connect, model_errors, tracking_errors
from reelscribe.pipeline.tracking.outbox import Outbox, deliver_leftovers
from reelscribe.pipeline.tracking.provenance import environment_lock, run_tags
from reelscribe.pipeline.tracking.uri import artifact_location

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow's limits: a request holds so many parameters or metrics, a value so many characters
_PARAMS_PER_REQUEST = 100
_METRICS_PER_REQUEST = 1000
_PARAM_CHARACTERS = 6000
_TAG_CHARACTERS = 8000
_DIGEST_CHARACTERS = 36


class RunTracker:
    """One MLflow run, open inside ``with``.

    The run ends FINISHED; FAILED with the error as a tag when an exception leaves the block; KILLED on an interrupt. With
    ``parent_run_id`` it is a child run (a fold, a seed, a trial); with ``run_id`` it is that run, gone on with. ``on_begin`` is told the
    id of a new run at once, so that a process that is killed a moment later leaves a run that can be found.
    Nothing global of MLflow is touched, so several may be open.
    The store has to answer when the run begins. What is logged while it is away waits on disk, in order (``outbox``); a method raises
    ServiceUnavailableError only when too much waits.
    """

    def __init__(
        self,
        *,
        uri: str,
        experiment: str,
        run_name: str | None = None,
        seed: int | None = None,
        tags: Mapping[str, str] | None = None,
        parent_run_id: str | None = None,
        run_id: str = "",
        on_begin: Callable[[str], None] | None = None,
    ) -> None:
        self.uri = uri
        self.experiment = experiment
        self.run_name = run_name
        self._tags = run_tags(seed=seed) | dict(tags or {})
        if parent_run_id:
            self._tags["mlflow.parentRunId"] = parent_run_id
        self._client: MlflowClient | None = None
        self._outbox: Outbox | None = None
        self._run_id = run_id
        self._on_begin = on_begin
        self._params: Mapping[str, str] = {}

    def __enter__(self) -> Self:
        client = connect(self.uri, create=True)
        if self._run_id:
            with model_errors(self.uri, f"run '{self._run_id}'"):
                deliver_leftovers(client, self.uri)
                client.update_run(self._run_id, status="RUNNING")
                self._params = client.get_run(self._run_id).data.params
            self._client, self._outbox = client, Outbox(client, self.uri, self._run_id)
            return self
        with tracking_errors(self.uri):
            experiment_id = ensure_experiment(client, self.uri, self.experiment)
            tags = {key: value[:_TAG_CHARACTERS] for key, value in self._tags.items()}
            run = client.create_run(experiment_id, run_name=self.run_name, tags=tags)
            if self._on_begin:
                self._on_begin(run.info.run_id)
            deliver_leftovers(client, self.uri)
        self._client, self._run_id = client, run.info.run_id
        self._outbox = Outbox(client, self.uri, self._run_id)
        self.log_text(environment_lock(), "environment.txt")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        status = _status_of(error)
        try:
            if error is not None and status != "FINISHED":
                self.set_tags({"reelscribe.error": f"{type(error).__name__}: {error}"})
            self._put("end", status=status, time_ms=int(time.time() * 1000))
            if self._outbox is not None:
                self._outbox.close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"the run {self.run_id} could not be marked as {status}: {failure}")

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for this store; the run must be open."""
        if self._client is None:
            raise RuntimeError("the run is not open: use RunTracker in a with statement")
        return self._client

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""
        if not self._run_id:
            raise RuntimeError("the run is not open: use RunTracker in a with statement")
        return self._run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested parameters under dotted names (``model.recurrent=gru``); lists and None as JSON.

        MLflow never changes one: of a run that is gone on with, those that it has stay.
        """
        rows = [(key, value[:_PARAM_CHARACTERS]) for key, value in flatten(params).items() if key not in self._params]
        for start in range(0, len(rows), _PARAMS_PER_REQUEST):
            self._put("params", rows=rows[start : start + _PARAMS_PER_REQUEST])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log numbers at a step (the epoch). A character that MLflow forbids in a name becomes ``_``."""
        now_ms = int(time.time() * 1000)
        rows = [(re.sub(r"[^/\w.\- :]", "_", name), float(value), now_ms, step) for name, value in metrics.items()]
        for start in range(0, len(rows), _METRICS_PER_REQUEST):
            self._put("metrics", rows=rows[start : start + _METRICS_PER_REQUEST])

    def end_children(self) -> None:
        """Mark child runs whose process was ended, and so could not say it itself, as KILLED."""
        with tracking_errors(self.uri):
            experiment_id = self.client.get_run(self.run_id).info.experiment_id
            condition = f"tags.`mlflow.parentRunId` = '{self.run_id}' and attributes.status = 'RUNNING'"
            for run in self.client.search_runs([experiment_id], condition, max_results=1000):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def last_step(self, metric: str) -> int:
        """The largest step at which this metric was logged, 0 where it never was."""
        with tracking_errors(self.uri):
            return max((int(point.step) for point in self.client.get_metric_history(self.run_id, metric)), default=0)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, or of a folder with all in it, under ``folder`` of the run's artifacts."""
        self._put("file", path=str(path), folder=folder)

    def log_text(self, text: str, file: str) -> None:
        """Keep a text as an artifact (``file``: its path in the run's artifacts)."""
        self._put("text", text=text, file=file)

    def log_dataset(
        self,
        *,
        name: str,
        source: str,
        digest: str,
        context: Literal["training", "validation", "test"],
        num_rows: int | None = None,
    ) -> None:
        """Say which data the run saw: an MLflow dataset, found by its digest (its first 36 characters, MLflow's limit).

        ``source`` is the manifest's path or URI, ``digest`` the SHA-256 over its rows, kept whole in the tag ``reelscribe.digest``.
        """
        where = source if "://" in source else Path(source).absolute().as_uri()
        scheme = where.partition("://")[0]
        dataset = {
            "name": name,
            "digest": digest[:_DIGEST_CHARACTERS],
            "source_type": {"file": "local", "https": "http"}.get(scheme, scheme),
            "source": json.dumps({"url" if scheme in ("http", "https") else "uri": where}),
            "profile": json.dumps({} if num_rows is None else {"num_rows": num_rows}),
        }
        self._put("dataset", dataset=dataset, tags=[("mlflow.data.context", context), ("reelscribe.digest", digest)])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._put("tags", rows=[(key, value[:_TAG_CHARACTERS]) for key, value in tags.items()])

    def _put(self, kind: str, **content: Any) -> None:
        if self._outbox is None:
            raise RuntimeError("the run is not open: use RunTracker in a with statement")
        self._outbox.put({"kind": kind, **content})


def ensure_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment, made if it is not there; two processes may do so at once.

    Raises ConfigError for a name that MLflow refuses and for an experiment in the bin.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location(uri, name)))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise ConfigError(f"tracking.experiment '{name}': {error}") from error
    if found.lifecycle_stage == "deleted":
        raise ConfigError(
            f"tracking.experiment '{name}' was deleted; bring it back with `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}`, or choose another name"
        )
    return str(found.experiment_id)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as one level of dotted names; text stays as it is, everything else is written as JSON."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _status_of(error: BaseException | None) -> Literal["FINISHED", "FAILED", "KILLED"]:
    match error:
        case None | SystemExit(code=0 | None):
            return "FINISHED"
        case KeyboardInterrupt() | GeneratorExit() | StoppedError():
            return "KILLED"
        case _:
            return "FAILED"
