"""What of a query the server can filter, in MLflow's words. Pure.

A condition is taken apart into alternatives: what meets it meets one of them, and each says what the server can look for. So
``a and (tags.team = 'ops' or alias = 'champion')`` is two small searches in place of one of everything. Nothing that meets the condition is
ever lost; the rest is decided by ``query_evaluation``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from reelscribe.pipeline.tracking.query_language import Comparison, Condition, Group

_MAX_ALTERNATIVES = 8
_SAFE_TEXT = re.compile(r"[\w .:/@+-]+")  # what needs no quoting rules in MLflow's filters, which differ by database
_PATTERN = re.compile(r"[a-zA-Z0-9 .:/@+_%-]+")  # ILIKE of other letters differs by database, too

Alternative = tuple[Comparison, ...]  # all of them hold


def alternatives(condition: Condition | None) -> list[Alternative]:
    """What meets the condition meets all comparisons of one of these, each of which the server can filter; ``[()]`` says nothing."""
    match condition:
        case Comparison() if condition.field.group == "alias" or version_filter((condition,)):
            return [()] if condition.field.group == "alias" and condition.operator not in ("=", "in") else [(condition,)]
        case Group(operator="and", parts=parts):
            found: list[Alternative] = [()]
            for part in parts:
                more = alternatives(part)
                if more != [()] and len(found) * len(more) <= _MAX_ALTERNATIVES:
                    found = [(*one, *other) for one in found for other in more]
            return found
        case Group(operator="or", parts=parts):
            either = [one for part in parts for one in alternatives(part)]
            return either if () not in either and len(either) <= _MAX_ALTERNATIVES else [()]
        case _:
            return [()]


def version_filter(demands: Sequence[Comparison]) -> str:
    """The comparisons that MLflow's search of versions can do, in its words; empty where it can do none."""
    return " AND ".join(filter(None, map(_version_words, demands)))


def is_narrow(demands: Sequence[Comparison]) -> bool:
    """Whether so few versions are left that their runs had better be asked for by id."""
    return any(demand.field.group in ("name", "run_id") and demand.operator in ("=", "in") for demand in demands)


def _version_words(demand: Comparison) -> str:
    values = [str(value) for value in demand.values]
    key, safe = demand.field.key, all(_SAFE_TEXT.fullmatch(value) for value in values)
    match demand.field.group, demand.operator:
        case ("name" | "run_id" as group, "=") if safe:
            return f"{group} = '{values[0]}'"
        case ("name" | "run_id" as group, "in") if safe:
            return f"{group} IN ('" + "', '".join(values) + "')"
        case ("name", "like" | "ilike") if _PATTERN.fullmatch(values[0]):
            return f"name ILIKE '{values[0]}'"  # LIKE minds case on some databases only; which is decided here
        case ("version", "=" | "<" | "<=" | ">" | ">=") if re.fullmatch(r"\d{1,9}\.0", values[0]):
            return f"version_number {demand.operator} {values[0][:-2]}"
        case ("tags", "=") if safe and isinstance(demand.values[0], str) and _SAFE_TEXT.fullmatch(key):
            return f"tags.`{key}` = '{values[0]}'"
        case ("tags", "like" | "ilike") if _PATTERN.fullmatch(values[0]) and _SAFE_TEXT.fullmatch(key):
            return f"tags.`{key}` ILIKE '{values[0]}'"
        case _:
            return ""


def run_filter(condition: Condition, own: frozenset[str]) -> str:
    """The part of a condition that one search of MLflow's runs can do. Metrics in ``own`` versions say themselves; they are not asked."""
    asked = [_run_words(demand) for demand in _demands(condition) if demand.field.key not in own or demand.field.group != "metrics"]
    return " AND ".join(words[0] for words in asked if len(words) == 1)


def run_filters(condition: Condition | None) -> list[str]:
    """Searches of runs that between them find each run that can make its version meet the condition; none where runs do not matter."""
    found = [""]
    for words in filter(None, map(_run_words, _demands(condition))):
        if len(found) * len(words) <= _MAX_ALTERNATIVES:
            found = [" AND ".join(filter(None, (one, other))) for one in found for other in words]
    return found if found != [""] else []


def _run_words(demand: Comparison) -> list[str]:
    """Filters of runs, one of which a run meets if it meets the demand; none where MLflow cannot say it."""
    key, values = demand.field.key, demand.values
    if not _SAFE_TEXT.fullmatch(key):
        return []
    match demand.field.group, demand.operator:
        case ("metrics", "=" | ">" | ">=" | "<" | "<=") if re.fullmatch(r"\d+\.\d+", repr(values[0])):
            return [f"metrics.`{key}` {demand.operator} {values[0]!r}"]
        case ("params", "=" | "in") if all(isinstance(value, str) and _SAFE_TEXT.fullmatch(value) for value in values):
            return [f"params.`{key}` = '{value}'" for value in values]
        case _:
            return []


def metrics_of_runs(condition: Condition | None) -> set[str]:
    """The metrics that ``run_filter`` may ask for."""
    return {demand.field.key for demand in _demands(condition) if demand.field.group == "metrics" and _run_words(demand)}


def is_safe(text: str) -> bool:
    """Whether a text may stand in a filter as it is."""
    return _SAFE_TEXT.fullmatch(text) is not None


def _demands(condition: Condition | None) -> Iterator[Comparison]:
    """Comparisons that every match must meet."""
    match condition:
        case Comparison():
            yield condition
        case Group(operator="and", parts=parts):
            for part in parts:
                yield from _demands(part)
