"""Where a version comes from and what it was used for: data -> run -> version -> labelling jobs, asked from any end.

A labelling job is a run of its own experiment, found by the tags that ``record_labelling`` gives it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.tracking.connection import connect, model_errors, tracking_errors
from reelscribe.pipeline.tracking.references import RunReference, VersionReference, parse_name, parse_reference
from reelscribe.pipeline.tracking.rest import connect_to_read
from reelscribe.pipeline.tracking.runs import ensure_experiment
from reelscribe.pipeline.tracking.versions import (
    ALL_STAGES,
    ModelVersion,
    experiment_ids,
    fetch_run,
    get_version,
    registered_model,
    resolve_version,
)

if TYPE_CHECKING:
    from reelscribe.pipeline.tracking.versions import Reader

LABELLING_EXPERIMENT = "reelscribe labelling"
_JOB = "reelscribe.job."
_DATASET_DIGEST = 36  # characters that MLflow keeps of a digest
_AT_MOST = 1000  # runs or versions of one kind that are shown


@dataclass(frozen=True, kw_only=True)
class LabellingJob:
    """A labelling job and the version that it used."""

    job_id: str
    model: str  # registered name
    version: str
    state: str  # running, or how it ended
    out: str  # folder of the results
    input_digest: str = ""
    labelled: int = 0
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run saw."""

    name: str
    digest: str
    context: str  # training, validation or test
    source: str


@dataclass(frozen=True, kw_only=True)
class Use:
    """A version and the jobs that labelled with it."""

    version: ModelVersion
    jobs: tuple[LabellingJob, ...]


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """One run with what went in and what came of it."""

    run_id: str  # empty for a version without a run
    run_name: str = ""
    status: str = ""  # "gone" where the run was deleted for good, or may not be read
    command: str = ""
    git_commit: str = ""
    git_dirty: str = ""
    data: tuple[Data, ...] = ()
    uses: tuple[Use, ...] = field(default=())


def record_labelling(job: LabellingJob, *, uri: str) -> str:
    """Write a job down, or what became of it since; returns its run's id. The same job is always the same run.

    Raises ServiceUnavailableError.
    """
    client = connect(uri, create=True)
    with tracking_errors(uri):
        experiment = ensure_experiment(client, uri, LABELLING_EXPERIMENT)
        found = client.search_runs([experiment], f"tags.`{_JOB}job_id` = '{job.job_id}'", max_results=1)
        tags = {f"{_JOB}{key}": str(value) for key, value in asdict(job).items()}
        run = found[0] if found else client.create_run(experiment, run_name=job.job_id, tags=tags)
        for key, value in tags.items():
            if run.data.tags.get(key) != value:
                client.set_tag(run.info.run_id, key, value)
        if job.state != "running":
            client.set_terminated(run.info.run_id, "FINISHED")
    return str(run.info.run_id)


def lineage(what: str, *, uri: str) -> list[Lineage]:
    """Runs with their data, versions and jobs, from any end.

    ``what`` is ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, ``runs:/RUN_ID``, ``job:JOB_ID`` or ``data:DIGEST`` (at least 8 of its
    characters). Raises ModelError for what is not there.
    """
    client = connect_to_read(uri)
    kind, _, key = what.partition(":")
    if kind == "data":
        return [_of_run(client, uri, run) for run in _runs_on(client, uri, key)]
    if kind == "job":
        jobs = jobs_where(client, uri, "job_id", key)
        if not jobs:
            raise ModelError(f"no labelling job '{key}' is written down in this tracking store")
        return [lineage_of(client, uri, resolve_version(client, uri, parse_name(f"{jobs[0].model}/{jobs[0].version}")))]
    match parse_reference(what):
        case RunReference(run_id=run_id):
            run = fetch_run(client, uri, run_id)
            if run is None:
                raise ModelError(f"no run '{run_id}' in this tracking store")
            return [_of_run(client, uri, run)]
        case VersionReference() as reference:
            return [lineage_of(client, uri, resolve_version(client, uri, reference))]
        case _:
            raise ModelError(f"'{what}': expected models:/NAME/VERSION, runs:/RUN_ID, job:JOB_ID or data:DIGEST")


def jobs_where(client: Reader, uri: str, key: str, value: str, *others: tuple[str, str]) -> tuple[LabellingJob, ...]:
    """The jobs with these facts, newest first."""
    with model_errors(uri, "the labelling jobs"):
        found = client.search_experiments(ALL_STAGES, filter_string=f"name = '{LABELLING_EXPERIMENT}'", max_results=1)
        if not found:
            return ()
        words = " AND ".join(f"tags.`{_JOB}{k}` = '{_quotable(v)}'" for k, v in ((key, value), *others))
        runs = client.search_runs([found[0].experiment_id], words, max_results=_AT_MOST)
    return tuple(_job(run.data.tags) for run in runs)


def jobs_of(client: Reader, uri: str, version: ModelVersion) -> tuple[LabellingJob, ...]:
    """The jobs that used a version, newest first."""
    return jobs_where(client, uri, "model", version.name, ("version", str(version.version)))


def _job(tags: dict[str, str]) -> LabellingJob:
    facts: dict[str, Any] = {key.removeprefix(_JOB): value for key, value in tags.items() if key.startswith(_JOB)}
    return LabellingJob(**facts | {"labelled": int(facts["labelled"]), "failed": int(facts["failed"])})


def lineage_of(client: Reader, uri: str, version: ModelVersion) -> Lineage:
    """What a version was made from, and the jobs that used it."""
    uses = (Use(version=version, jobs=jobs_of(client, uri, version)),)
    if version.run_id is None:
        return Lineage(run_id="", uses=uses)
    run = fetch_run(client, uri, version.run_id)
    return Lineage(run_id=version.run_id, status="gone", uses=uses) if run is None else _with_run(run, uses)


def _of_run(client: Reader, uri: str, run: Any) -> Lineage:
    with model_errors(uri, "the registry"):
        found = client.search_model_versions(f"run_id = '{run.info.run_id}'", max_results=_AT_MOST)
    made = [get_version(client, uri, registered_model(client, uri, one.name), int(one.version)) for one in found]
    return _with_run(run, tuple(Use(version=version, jobs=jobs_of(client, uri, version)) for version in made))


def _with_run(run: Any, uses: tuple[Use, ...]) -> Lineage:
    tags = run.data.tags
    return Lineage(
        run_id=run.info.run_id,
        run_name=run.info.run_name or "",
        status=run.info.status,
        command=tags.get("reelscribe.command", ""),
        git_commit=tags.get("mlflow.source.git.commit", ""),
        git_dirty=tags.get("reelscribe.git_dirty", ""),
        data=tuple(_data(run)),
        uses=uses,
    )


def _data(run: Any) -> Iterator[Data]:
    for one in run.inputs.dataset_inputs if run.inputs else []:
        tags = {tag.key: tag.value for tag in one.tags}
        digest = tags.get("reelscribe.digest", one.dataset.digest)
        yield Data(name=one.dataset.name, digest=digest, context=tags.get("mlflow.data.context", ""), source=one.dataset.source)


def _runs_on(client: Reader, uri: str, digest: str) -> list[Any]:
    """The runs that saw data with this digest."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", digest):
        raise ModelError(f"'data:{digest}': expected at least 8 characters of a SHA-256 (0 to 9, a to f)")
    with model_errors(uri, "the runs"):
        words = f"dataset.digest LIKE '{digest[:_DATASET_DIGEST]}%'"
        found = list(client.search_runs(experiment_ids(client, uri), words, max_results=_AT_MOST))
    found = [run for run in found if any(data.digest.startswith(digest) for data in _data(run))]
    if not found:
        raise ModelError(f"no run in this tracking store saw data with the digest {digest}")
    return found


def _quotable(text: str) -> str:
    """Text that may stand in MLflow's quotes. Raises ModelError for one that MLflow has no way to write."""
    if "'" in text:
        raise ModelError(f"'{text}': MLflow cannot be asked for a name with a quote in it")
    return text
