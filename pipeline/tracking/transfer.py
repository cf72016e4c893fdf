"""Versions from one tracking store to another, and out of one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.tracking.aliases import move_alias
from reelscribe.pipeline.tracking.connection import connect, model_errors, tracking_errors
from reelscribe.pipeline.tracking.fetch import DIGEST_TAG, fetch_model
from reelscribe.pipeline.tracking.lineage import LabellingJob, jobs_of
from reelscribe.pipeline.tracking.references import parse_name
from reelscribe.pipeline.tracking.register import register_model
from reelscribe.pipeline.tracking.runs import ensure_experiment
from reelscribe.pipeline.tracking.uri import redact
from reelscribe.pipeline.tracking.versions import ModelVersion, fetch_run, resolve_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARAMS_AT_ONCE = 100  # MLflow's limit
COPIED_TAG = "reelscribe.copied_from"


@dataclass(frozen=True, kw_only=True)
class Copied:
    """A version and its copy."""

    source: ModelVersion
    copy: ModelVersion
    new: bool  # false: the same files were there already under this name


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A version that goes, and what hangs on it."""

    version: ModelVersion
    jobs: tuple[LabellingJob, ...]
    removed: bool


def copy_version(model: str, *, source: str, target: str) -> Copied:
    """Copy a version with its run's facts and files from one tracking store into another; no alias moves.

    Its files are checked against the digest that they were registered under, here and there. A target that has them already under this name
    gets no second copy. Raises ModelError, ServiceUnavailableError.
    """
    if source == target:
        raise ModelError(f"{redact(source)} is the source and the target; name two tracking stores")
    reading, writing = connect(source), connect(target, create=True)
    version = resolve_version(reading, source, parse_name(model))
    digest = version.tags.get(DIGEST_TAG)
    if digest is None:
        raise ModelError(f"{version.name} version {version.version} has no digest: it was not registered by reelscribe")
    with model_errors(target, f"copying {version.name} version {version.version}"):
        there = writing.search_model_versions(f"name = '{version.name}' AND tags.`{DIGEST_TAG}` = '{digest}'", max_results=1)
    if there:
        copy = resolve_version(writing, target, parse_name(f"{version.name}/{there[0].version}"))
        return Copied(source=version, copy=copy, new=False)
    folder = fetch_model(f"models:/{version.name}/{version.version}", uri=source).folder
    run_id = _copy_run(reading, writing, version, source, target)
    copy = register_model(folder, run_id=run_id, name=version.name, alias="", uri=target)
    fetch_model(f"models:/{copy.name}/{copy.version}", uri=target)  # reads the copy back, against its digest
    if copy.tags[DIGEST_TAG] != digest:
        raise ModelError(f"{copy.name} version {copy.version} in {redact(target)} is no true copy: its SHA-256 differs; remove it")
    return Copied(source=version, copy=copy, new=True)


def _copy_run(reading: MlflowClient, writing: MlflowClient, version: ModelVersion, source: str, target: str) -> str:
    """A run in the target with the parameters, last metrics, tags, data and files of the version's run; returns its id."""
    from mlflow.entities import Metric, Param

    run = fetch_run(reading, source, version.run_id) if version.run_id else None
    origin = {COPIED_TAG: f"{redact(source)} models:/{version.name}/{version.version}"}
    with tracking_errors(target):
        experiment = ensure_experiment(writing, target, "reelscribe")
        if run is None:
            copy = writing.create_run(experiment, run_name=version.name, tags=origin)
            writing.set_terminated(copy.info.run_id)
            return str(copy.info.run_id)
        tags = {key: value for key, value in run.data.tags.items() if key not in ("mlflow.log-model.history", "mlflow.parentRunId")}
        copy = writing.create_run(experiment, start_time=run.info.start_time, run_name=run.info.run_name, tags=tags | origin)
        run_id = str(copy.info.run_id)
        params = [Param(key, value) for key, value in run.data.params.items()]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            writing.log_batch(run_id, params=params[start : start + _PARAMS_AT_ONCE])
        metrics: list[Any] = [Metric(one.key, one.value, one.timestamp, one.step) for one in run.data._metric_objs]
        writing.log_batch(run_id, metrics=metrics)
        if run.inputs and run.inputs.dataset_inputs:
            writing.log_inputs(run_id, run.inputs.dataset_inputs)
        with tempfile.TemporaryDirectory(prefix="reelscribe-") as temporary:
            if reading.list_artifacts(run.info.run_id):
                writing.log_artifacts(run_id, str(Path(reading.download_artifacts(run.info.run_id, "", temporary))))
        writing.set_terminated(run_id, run.info.status, run.info.end_time)
    return run_id


def remove_version(model: str, *, uri: str, force: bool = False, dry_run: bool = False) -> Removal:
    """Take a version out of the registry; its run, and its files under that run, stay until ``mlflow gc``.

    Raises ModelError, and so for a version that has an alias, or that labelling jobs used, unless ``force``.
    """
    client = connect(uri)
    version = resolve_version(client, uri, parse_name(model))
    jobs = jobs_of(client, uri, version)
    reasons = [f"it is @{alias}" for alias in version.aliases] + [
        f"the labels in {job.out} come from it (job {job.job_id})" for job in jobs
    ]
    if reasons and not force and not dry_run:
        raise ModelError(f"{version.name} version {version.version} is in use: {'; '.join(reasons)}; --force removes it nevertheless")
    if not dry_run:
        for alias in version.aliases:
            move_alias(client, uri, name=version.name, alias=alias, to=None, why=f"version {version.version} was removed")
        with model_errors(uri, f"removing {version.name} version {version.version}"):
            client.delete_model_version(version.name, str(version.version))
    return Removal(version=version, jobs=jobs, removed=not dry_run)
