"""Ask the registry: versions joined with their runs, by the language of ``query_language``.

MLflow's server filters what it can without losing a match: names, run ids and tags of versions, and, where the truth hangs on runs
alone, their metrics and parameters. The rest is decided here. Pages are ordered by name and version, so a version registered
meanwhile moves no other.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from reelscribe.pipeline.tracking.connection import connect, model_errors
from reelscribe.pipeline.tracking.query_evaluation import arrange, holds, needs_run
from reelscribe.pipeline.tracking.query_language import Comparison, Condition, Field, Group, Query, fail, fields_of, parse_query
from reelscribe.pipeline.tracking.versions import ModelVersion, all_models, experiment_ids, fetch_runs, to_version, with_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 2000
_CHUNK = 500  # versions whose runs are read together
_BY_NUMBER = 100  # up to so many versions are asked for one by one
_SAMPLE = 200  # versions whose fields are looked at when nothing was found
_SAFE_TEXT = re.compile(r"[\w .:/@+-]+")  # what needs no quoting rules in MLflow's filters, which differ by database

Aliases = Mapping[str, Mapping[str, int]]  # model -> alias -> version


def query_versions(text: str, *, uri: str) -> list[ModelVersion]:
    """The versions that a query finds, in its order; an empty query finds all of them.

    Raises QueryError for a text that does not parse, and for a query that finds nothing because it names a metric, parameter or tag
    that no version has while one is spelled nearly so. Raises ServiceUnavailableError.
    """
    query = parse_query(text)
    client = connect(uri)
    aliases: Aliases = {model.name: model.aliases for model in all_models(client, uri)}
    found = _Joined(client, uri).answer(query, list(_candidates(client, uri, query.condition, aliases)))
    if not found:
        _check_spelling(client, uri, query)
    return found


class _Joined:
    """Versions with their runs, each run read once and only where it matters."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = uri
        self._read: set[tuple[str, int]] = set()
        self._experiments: list[str] | None = None

    def answer(self, query: Query, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
        """What the query finds among the candidates."""
        if any(needs_run(key.field) for key in query.order):
            kept = self.join(self._keep(query.condition, versions))
        else:  # the order is known without the runs, so they are read from the front until the limit is reached
            kept = []
            ordered = arrange(query.order, versions)
            for start in range(0, len(ordered), _CHUNK):
                kept += self._keep(query.condition, ordered[start : start + _CHUNK])
                if query.limit is not None and len(kept) >= query.limit:
                    break
        return self.join(arrange(query.order, kept)[: query.limit])

    def join(self, versions: Sequence[ModelVersion], only: str = "") -> list[ModelVersion]:
        """The same versions with what their runs say; with ``only``, runs that the server's filter refuses are as good as absent."""
        wanted = {v.run_id for v in versions if v.run_id and (v.name, v.version) not in self._read}
        if wanted and self._experiments is None:
            self._experiments = experiment_ids(self._client, self._uri)
        runs = fetch_runs(self._client, self._uri, wanted, experiments=self._experiments or [], only=only)
        joined = [with_run(v, runs.get(v.run_id)) if v.run_id in runs else v for v in versions]
        self._read |= {(v.name, v.version) for v in joined if v.run_id in runs}
        return joined

    def _keep(self, condition: Condition | None, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
        if condition is None:
            return list(versions)
        truth = [(version, holds(condition, version, run_known=False)) for version in versions]
        certain = [version for version, value in truth if value]
        undecided = [version for version, value in truth if value is None]
        joined = self.join(undecided, only=_run_filter(condition, undecided))
        return certain + [version for version in joined if holds(condition, version)]


def _candidates(client: MlflowClient, uri: str, condition: Condition | None, aliases: Aliases) -> Iterator[ModelVersion]:
    """Every version that may meet the condition, before its run is read."""
    holders = _alias_holders(condition, aliases)
    if holders is not None and len(holders) <= _BY_NUMBER:
        for name, version in holders:
            with model_errors(uri, f"{name} version {version}"):
                found = client.get_model_version(name, str(version))
            yield to_version(found, aliases.get(name, {}))
        return
    token: str | None = None
    while True:
        with model_errors(uri, "the registry"):
            page = client.search_model_versions(
                version_filter(condition), max_results=_PAGE, order_by=["name ASC", "version_number DESC"], page_token=token
            )
        yield from (to_version(found, aliases.get(found.name, {})) for found in page)
        token = page.token
        if not token:
            return


def _alias_holders(condition: Condition | None, aliases: Aliases) -> list[tuple[str, int]] | None:
    """The versions under the aliases that a condition demands; None where it demands none."""
    demanded = [c for c in _demands(condition) if c.field.group == "alias" and c.operator in ("=", "in")]
    if not demanded:
        return None
    pairs = {(n, version) for n, held in aliases.items() for alias, version in held.items() if alias in demanded[0].values}
    return sorted(pairs)


def version_filter(condition: Condition | None) -> str:
    """The part of a condition that MLflow's search of versions can do, in its words: never less than the condition lets through."""
    parts = []
    for demand in _demands(condition):
        values = [str(value) for value in demand.values]
        safe = all(_SAFE_TEXT.fullmatch(value) for value in values)
        match demand.field.group, demand.operator:
            case ("name" | "run_id" as group, "=") if safe:
                parts.append(f"{group} = '{values[0]}'")
            case ("name" | "run_id" as group, "in") if safe:
                parts.append(f"{group} IN ({_quoted(values)})")
            case ("tags", "=") if safe and isinstance(demand.values[0], str) and _SAFE_TEXT.fullmatch(demand.field.key):
                parts.append(f"tags.`{demand.field.key}` = '{values[0]}'")
            case ("name", "like" | "ilike") if _SAFE_TEXT.fullmatch(values[0].replace("%", "x")):
                parts.append(f"name ILIKE '{values[0]}'")  # LIKE minds case on some databases only; which is decided here
            case _:
                continue
    return " AND ".join(parts)


def _run_filter(condition: Condition, versions: Sequence[ModelVersion]) -> str:
    """The part of a condition that MLflow's search of runs can do. What versions say themselves is not asked of their runs."""
    own = {name for version in versions for name in version.metrics}
    parts = []
    for demand in _demands(condition):
        key, value = demand.field.key, demand.values[0]
        if not _SAFE_TEXT.fullmatch(key) or key in own:
            continue
        if demand.field.group == "metrics" and demand.operator in ("=", ">", ">=", "<", "<=") and re.fullmatch(r"\d+\.\d+", repr(value)):
            parts.append(f"metrics.`{key}` {demand.operator} {value!r}")
        elif demand.field.group == "params" and demand.operator == "=" and isinstance(value, str) and _SAFE_TEXT.fullmatch(value):
            parts.append(f"params.`{key}` = '{value}'")
    return " AND ".join(parts)


def _demands(condition: Condition | None) -> Iterator[Comparison]:
    """Comparisons that every match must meet."""
    match condition:
        case Comparison():
            yield condition
        case Group(operator="and", parts=parts):
            for part in parts:
                yield from _demands(part)


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _check_spelling(client: MlflowClient, uri: str, query: Query) -> None:
    """Raise QueryError for a key that is nearly one that the newest versions have, so that a typo never looks like an answer."""
    keyed = [field for field in fields_of(query.condition) if field.key]
    if not keyed:
        return
    with model_errors(uri, "the registry"):
        newest = client.search_model_versions(max_results=_SAMPLE, order_by=["creation_timestamp DESC"])
    sample = [to_version(found, {}) for found in newest]
    if any(needs_run(field) for field in keyed):
        sample = _Joined(client, uri).join(sample)
    for field in keyed:
        known = {key for version in sample for key in getattr(version, field.group)}
        close = difflib.get_close_matches(field.key, known, n=1, cutoff=0.75) if field.key not in known else []
        if close:
            there = Field(group=field.group, key=close[0], kind=field.kind, position=0)
            fail(query.text, field.position, f"nothing found, and none of the newest versions has {field}; did you mean {there}?")
