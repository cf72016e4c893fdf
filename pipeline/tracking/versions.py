"""Versions and models of the registry as plain data, and how they are read from MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.errors import ModelError, ServiceUnavailableError, nearest
from reelscribe.pipeline.tracking.connection import is_forbidden, model_errors, refusals, tracking_errors
from reelscribe.pipeline.tracking.references import VersionReference

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from reelscribe.pipeline.tracking.rest import RestClient

    Reader = MlflowClient | RestClient

METRIC_TAG = "reelscribe.metric."
_PAGE = 1000
ALL_STAGES = 3  # mlflow.entities.ViewType.ALL, deleted runs and experiments too
_RUNS_PER_REQUEST = 500


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version of a registered model, joined with the run that made it."""

    name: str
    version: int
    aliases: tuple[str, ...]  # sorted
    created: datetime  # UTC
    status: str  # READY, PENDING_REGISTRATION or FAILED_REGISTRATION
    run_id: str | None
    source: str  # where its files are, as MLflow was told
    description: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]  # the run's last values; what was measured on these very weights goes first
    params: Mapping[str, str]  # the run's, dotted


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """One model of the registry."""

    name: str
    aliases: Mapping[str, int]  # alias -> version
    latest_version: int | None
    created: datetime  # UTC
    updated: datetime  # UTC
    description: str
    tags: Mapping[str, str]


def registered_model(client: Reader, uri: str, name: str) -> RegisteredModel:
    """The model of that name. Raises ModelError that names the nearest one and lists some."""
    try:
        with tracking_errors(uri):
            return to_model(client.get_registered_model(name))
    except refusals():
        names = [model.name for model in all_models(client, uri)]
    listed = ", ".join(sorted(names)[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    raise ModelError(f"no registered model '{name}'{nearest(name, names)} (registered: {listed or 'none yet'})")


def all_models(client: Reader, uri: str, filter_string: str | None = None) -> Iterator[RegisteredModel]:
    """Every registered model, page by page, by name."""
    token: str | None = None
    while True:
        with model_errors(uri, "the registry"):
            page = client.search_registered_models(filter_string, max_results=_PAGE, page_token=token)
        yield from (to_model(model) for model in page)
        token = page.token
        if not token:
            return


def resolve_version(client: Reader, uri: str, reference: VersionReference) -> ModelVersion:
    """The version that is meant, with its aliases and its run's facts.

    Raises ModelError for an unknown name, alias or version, and where none was chosen: "the newest" is no answer when somebody
    may register another one in the meantime.
    """
    model = registered_model(client, uri, reference.name)
    if reference.alias is not None:
        version = model.aliases.get(reference.alias)
        if version is None:
            hint = nearest(reference.alias, model.aliases)
            raise ModelError(f"model '{model.name}' has no alias '{reference.alias}'{hint} ({_existing(model)})")
    elif reference.version is None:
        raise ModelError(f"'{reference}' chooses no version; try {_examples(model)} ({_existing(model)})")
    else:
        version = reference.version
    return get_version(client, uri, model, version)


def get_version(client: Reader, uri: str, model: RegisteredModel, version: int) -> ModelVersion:
    """One version by number. Raises ModelError if it is not there."""
    try:
        with tracking_errors(uri):
            found = client.get_model_version(model.name, str(version))
    except refusals() as error:
        raise ModelError(f"model '{model.name}' has no version {version} ({_existing(model)})") from error
    joined = to_version(found, model.aliases)
    return with_run(joined, fetch_run(client, uri, joined.run_id)) if joined.run_id else joined


def with_run(version: ModelVersion, run: Any | None) -> ModelVersion:
    """The version with the facts of MLflow's run; what was measured on the version itself goes first."""
    if run is None:
        return version
    return replace(version, metrics=dict(run.data.metrics) | dict(version.metrics), params=dict(run.data.params))


def fetch_run(client: Reader, uri: str, run_id: str) -> Any | None:
    """MLflow's run; None where it is gone for good, or not for this user's eyes: the version stays usable."""
    try:
        with tracking_errors(uri):
            return client.get_run(run_id)
    except refusals():
        return None
    except ServiceUnavailableError as error:
        if isinstance(error.__cause__, Exception) and is_forbidden(error.__cause__):  # what MLflow's sign-in says of a run that is gone
            return None
        raise


def fetch_runs(client: Reader, uri: str, run_ids: set[str], *, experiments: list[str], only: str = "") -> dict[str, Any]:
    """MLflow's runs by id, some hundreds to a request, deleted ones too; a run that is gone for good is not there.

    ``experiments`` are the ids to look in; ``only`` is a further filter in MLflow's words that the server applies.
    """
    ordered = sorted(run_ids)
    runs: dict[str, Any] = {}
    for start in range(
        0, len(ordered), _RUNS_PER_REQUEST
    ):  # one by one: a server on Python 3.11 may fail when it reads two long INs at once
        batch = ordered[start : start + _RUNS_PER_REQUEST]
        quoted = ", ".join(f"'{run_id}'" for run_id in batch)
        condition = f"attributes.run_id IN ({quoted})" + (f" AND {only}" if only else "")
        with model_errors(uri, "the runs of the registry"):
            page = client.search_runs(experiments, condition, run_view_type=ALL_STAGES, max_results=len(batch))
        runs |= {run.info.run_id: run for run in page}
    return runs


def experiment_ids(client: Reader, uri: str) -> list[str]:
    """Ids of all experiments, deleted ones too: MLflow searches runs by experiment only."""
    ids: list[str] = []
    token: str | None = None
    while True:
        with model_errors(uri, "the experiments"):
            page = client.search_experiments(ALL_STAGES, max_results=_PAGE, page_token=token)
        ids += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return ids


def to_version(found: Any, aliases: Mapping[str, int]) -> ModelVersion:
    """MLflow's version as ours, before its run is joined. ``aliases`` are those of its model: MLflow's search leaves them out."""
    number = int(found.version)
    tags = dict(found.tags)
    measured = {key.removeprefix(METRIC_TAG): float(value) for key, value in tags.items() if key.startswith(METRIC_TAG) and _number(value)}
    return ModelVersion(
        name=found.name,
        version=number,
        aliases=tuple(sorted(alias for alias, version in aliases.items() if version == number)),
        created=_time(found.creation_timestamp),
        status=str(found.status),
        run_id=found.run_id or None,
        source=found.source or "",
        description=found.description or "",
        tags=tags,
        metrics=measured,
        params={},
    )


def to_model(found: Any) -> RegisteredModel:
    """MLflow's registered model as ours."""
    versions = [int(version.version) for version in found.latest_versions or []]
    return RegisteredModel(
        name=found.name,
        aliases={alias: int(version) for alias, version in sorted(found.aliases.items())},
        latest_version=max(versions, default=None),
        created=_time(found.creation_timestamp),
        updated=_time(found.last_updated_timestamp or found.creation_timestamp),
        description=found.description or "",
        tags=dict(found.tags),
    )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _existing(model: RegisteredModel) -> str:
    aliases = ", ".join(f"@{alias} -> {version}" for alias, version in model.aliases.items()) or "none"
    newest = f"newest version: {model.latest_version}" if model.latest_version is not None else "it has no version yet"
    return f"aliases: {aliases}; {newest}"


def _examples(model: RegisteredModel) -> str:
    named = [f"models:/{model.name}@{alias}" for alias in list(model.aliases)[:1]]
    if model.latest_version is not None:
        named.append(f"models:/{model.name}/{model.latest_version}")
    return " or ".join(named) or "registering a version first"
