"""Ask the registry: versions joined with their runs, by the language of ``query_language``.

MLflow's server filters what it can without losing a match (``query_pushdown``), several requests at a time; the rest is decided here. A run
is read only where it matters. Pages are ordered by name and version, so a version registered meanwhile moves no other.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.tracking.connection import model_errors
from reelscribe.pipeline.tracking.parallel import at_once
from reelscribe.pipeline.tracking.query_evaluation import arrange, holds, needs_run
from reelscribe.pipeline.tracking.query_language import Condition, Field, Query, fail, fields_of, parse_query
from reelscribe.pipeline.tracking.query_pushdown import (
    Alternative,
    alternatives,
    is_narrow,
    is_safe,
    metrics_of_runs,
    run_filter,
    run_filters,
    version_filter,
)
from reelscribe.pipeline.tracking.rest import connect_to_read
from reelscribe.pipeline.tracking.versions import (
    ALL_STAGES,
    METRIC_TAG,
    ModelVersion,
    all_models,
    experiment_ids,
    fetch_runs,
    to_version,
    with_run,
)

if TYPE_CHECKING:
    from reelscribe.pipeline.tracking.versions import Reader

_PAGE = 2000
_CHUNK = 500  # versions whose runs are read together
_BY_NUMBER = 100  # up to so many versions are asked for one by one
_FEW_RUNS = 1000  # up to so many runs that meet a condition are read before the versions are
_RUN_IDS = 60  # in one search: it goes into a URL, of which some servers and proxies take 4 KB
_SAMPLE = 200  # versions whose fields are looked at when nothing was found
_SHARES = 200  # up to so many models are searched one by one

Aliases = Mapping[str, Mapping[str, int]]  # model -> alias -> version


def query_versions(text: str, *, uri: str) -> list[ModelVersion]:
    """The versions that a query finds, in its order; an empty query finds all of them.

    Raises QueryError for a text that does not parse, and for a query that finds nothing because it names a metric, parameter or tag
    that no version has while one is spelled nearly so. Raises ServiceUnavailableError.
    """
    query = parse_query(text)
    client = connect_to_read(uri)
    aliases: Aliases = {model.name: model.aliases for model in all_models(client, uri)}
    found = _Registry(client, uri).answer(query, aliases)
    if not found:
        _check_spelling(client, uri, query)
    return found


class _Registry:
    """Versions and their runs, each run read once and only where it matters."""

    def __init__(self, client: Reader, uri: str) -> None:
        self._client = client
        self._uri = uri
        self._runs: dict[str, Any] = {}
        self._experiments: list[str] | None = None

    def answer(self, query: Query, aliases: Aliases) -> list[ModelVersion]:
        """What the query finds."""
        versions = self._candidates(query.condition, aliases)
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
        wanted = {v.run_id for v in versions if v.run_id} - self._runs.keys()
        self._runs |= fetch_runs(self._client, self._uri, wanted, experiments=self._all_experiments() if wanted else [], only=only)
        return self._with_runs(versions)

    def _with_runs(self, versions: Iterable[ModelVersion]) -> list[ModelVersion]:
        """The same versions with those of their runs that are read."""
        return [with_run(version, self._runs.get(version.run_id or "")) for version in versions]

    def _all_experiments(self) -> list[str]:
        if self._experiments is None:
            self._experiments = experiment_ids(self._client, self._uri)
        return self._experiments

    def _candidates(self, condition: Condition | None, aliases: Aliases) -> list[ModelVersion]:
        """Every version that may meet the condition, with its run where that was read to find it."""
        wide: list[Alternative] = []
        holders: set[tuple[str, int]] = set()
        for alternative in alternatives(condition):
            held = _alias_holders(alternative, aliases)
            if held is not None and len(held) <= _BY_NUMBER:
                holders |= held
            else:
                wide.append(alternative)
        searches = [version_filter(alternative) for alternative in wide]
        if "" in searches:  # everything, so nothing else
            searches, holders = [""], set()
        by_runs = None if all(map(is_narrow, wide)) else self._by_runs(condition, searches)
        if by_runs is not None:
            searches = by_runs
        elif searches == [""]:
            searches = _shares(aliases)
        by_number = at_once(self._client, lambda holder: [_by_number(self._client, self._uri, *holder)], sorted(holders))
        by_search = at_once(self._client, lambda words: list(_search(self._client, self._uri, words)), searches)
        found = {(one.name, one.version): one for one in chain.from_iterable([*by_number, *by_search])}
        return self._with_runs(to_version(one, aliases.get(one.name, {})) for one in found.values())

    def _by_runs(self, condition: Condition | None, searches: Sequence[str]) -> list[str] | None:
        """The same searches, of those versions alone whose runs can meet the condition; None where that may be every run, or many."""
        filters = run_filters(condition)
        if not filters:
            return None
        self._all_experiments()  # once, before many threads need them
        pages = at_once(self._client, self._few_runs, filters)
        if None in pages:
            return None
        runs = {run.info.run_id: run for run in chain.from_iterable(filter(None, pages))}
        self._runs |= runs
        quoted = [f"'{run_id}'" for run_id in sorted(runs)]
        own = [f"run_id IN ({', '.join(quoted[start : start + _RUN_IDS])})" for start in range(0, len(quoted), _RUN_IDS)]
        # a metric that was measured on the version itself goes before its run's
        own += [f"tags.`{METRIC_TAG}{key}` LIKE '%'" for key in sorted(metrics_of_runs(condition))]
        return [" AND ".join(filter(None, (one, words))) for words in searches for one in own]

    def _few_runs(self, words: str) -> list[Any] | None:
        """The runs that MLflow's filter finds; None where they are many."""
        with model_errors(self._uri, "the runs of the registry"):
            page = self._client.search_runs(self._all_experiments(), words, run_view_type=ALL_STAGES, max_results=_FEW_RUNS)
        return None if page.token else list(page)

    def _keep(self, condition: Condition | None, versions: Sequence[ModelVersion]) -> list[ModelVersion]:
        if condition is None:
            return list(versions)
        truth = [(version, holds(condition, version, run_known=version.run_id in self._runs)) for version in versions]
        certain = [version for version, value in truth if value]
        undecided = [version for version, value in truth if value is None]
        asked = metrics_of_runs(condition)
        groups: dict[frozenset[str], list[ModelVersion]] = {}
        for version in undecided:  # a server's filter of runs must not refuse for what the version itself says
            groups.setdefault(frozenset(asked & version.metrics.keys()), []).append(version)
        joined = [version for own, group in groups.items() for version in self.join(group, only=run_filter(condition, own))]
        return certain + [version for version in joined if holds(condition, version)]


def _by_number(client: Reader, uri: str, name: str, version: int) -> Any:
    with model_errors(uri, f"{name} version {version}"):
        return client.get_model_version(name, str(version))


def _search(client: Reader, uri: str, words: str) -> Iterator[Any]:
    """Every version that MLflow's filter finds, page by page."""
    token: str | None = None
    while True:
        with model_errors(uri, "the registry"):
            page = client.search_model_versions(words, max_results=_PAGE, order_by=["name ASC", "version_number DESC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _shares(aliases: Aliases) -> list[str]:
    """Filters that find all versions between them: model by model, which a server with several workers answers side by side."""
    names = sorted(aliases)
    return [f"name = '{name}'" for name in names] if len(names) <= _SHARES and all(map(is_safe, names)) else [""]


def _alias_holders(alternative: Alternative, aliases: Aliases) -> set[tuple[str, int]] | None:
    """The versions under the aliases that an alternative demands; None where it demands none."""
    demanded = [comparison for comparison in alternative if comparison.field.group == "alias"]
    if not demanded:
        return None
    return {(name, version) for name, held in aliases.items() for alias, version in held.items() if alias in demanded[0].values}


def _check_spelling(client: Reader, uri: str, query: Query) -> None:
    """Raise QueryError for a key that is nearly one that the newest versions have, so that a typo never looks like an answer."""
    keyed = [field for field in fields_of(query.condition) if field.key]
    if not keyed:
        return
    with model_errors(uri, "the registry"):
        newest = client.search_model_versions(max_results=_SAMPLE, order_by=["creation_timestamp DESC"])
    sample = [to_version(found, {}) for found in newest]
    if any(needs_run(field) for field in keyed):
        sample = _Registry(client, uri).join(sample)
    for field in keyed:
        known = {key for version in sample for key in getattr(version, field.group)}
        close = difflib.get_close_matches(field.key, known, n=1, cutoff=0.75) if field.key not in known else []
        if close:
            there = Field(group=field.group, key=close[0], kind=field.kind, position=0)
            fail(query.text, field.position, f"nothing found, and none of the newest versions has {field}; did you mean {there}?")
