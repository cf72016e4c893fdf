"""What a query means for one version, and for a list of them. Pure.

Truth has three values while a version's run is not read yet: True, False, and None where the run decides. So runs are asked for only
where they matter.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from reelscribe.pipeline.tracking.query_language import Comparison, Condition, Field, Group, Negation, OrderKey, Query, Value
from reelscribe.pipeline.tracking.versions import ModelVersion

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def holds(condition: Condition, version: ModelVersion, *, run_known: bool = True) -> bool | None:
    """Whether a version meets a condition; None if that depends on its run, which was not read (``run_known=False``)."""
    match condition:
        case Comparison():
            return _compares(condition, version, run_known)
        case Negation(part=part):
            truth = holds(part, version, run_known=run_known)
            return None if truth is None else not truth
        case Group(operator=operator, parts=parts):
            decisive = operator == "or"  # one true part decides an "or", one false part an "and"
            open_part = False
            for part in parts:
                truth = holds(part, version, run_known=run_known)
                if truth is decisive:
                    return decisive
                open_part = open_part or truth is None
            return None if open_part else not decisive


def select(query: Query, versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    """The versions that meet the query, in its order, up to its limit; their runs are read."""
    kept = [version for version in versions if query.condition is None or holds(query.condition, version)]
    return arrange(query.order, kept)[: query.limit]


def arrange(order: Sequence[OrderKey], versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    """Versions in order; those without the field come last, equals by name and newest version."""
    arranged = sorted(versions, key=lambda version: (version.name, -version.version))
    for key in reversed(order):  # sorting is stable, so the first key goes last
        values = {id(version): _sortable(field_value(key.field, version)) for version in arranged}
        numeric = key.field.kind == "open" and all(_number(value) is not None for value in values.values() if value is not None)
        present = [version for version in arranged if values[id(version)] is not None]
        absent = [version for version in arranged if values[id(version)] is None]

        def rank(version: ModelVersion, values: dict[int, Any] = values, numeric: bool = numeric) -> Any:
            return _number(values[id(version)]) if numeric else values[id(version)]

        arranged = sorted(present, key=rank, reverse=key.descending) + absent
    return arranged


def field_value(field: Field, version: ModelVersion) -> Any:
    """What a version has in a field: text, float, datetime, a tuple of aliases, or None."""
    match field.group:
        case "name" | "created" | "run_id" | "status":
            return getattr(version, field.group)
        case "version":
            return float(version.version)
        case "alias":
            return version.aliases
        case _:
            return getattr(version, field.group).get(field.key)


def needs_run(field: Field) -> bool:
    """Whether a version's run is read for this field."""
    return field.group in ("metrics", "params")


def _compares(comparison: Comparison, version: ModelVersion, run_known: bool) -> bool | None:
    field, operator = comparison.field, comparison.operator
    value = field_value(field, version)
    if field.kind == "texts":
        return _any_alias(value, operator, comparison.values)
    if value is None:
        # what was measured on the version itself is known without its run
        return None if needs_run(field) and not run_known and version.run_id else False
    negated, _, bare = operator.rpartition(" ")
    matches = _matches(value, bare, comparison.values)
    return not matches if negated else matches


def _any_alias(aliases: tuple[str, ...], operator: str, values: tuple[Value, ...]) -> bool:
    negated = operator == "!=" or operator.startswith("not ")
    positive = "=" if operator == "!=" else operator.removeprefix("not ")
    return any(_matches(alias, positive, values) for alias in aliases) is not negated


def _matches(value: Any, operator: str, wanted: tuple[Value, ...]) -> bool:
    """One value against the literals of a comparison."""
    if operator == "in":
        return any(_matches(value, "=", (one,)) for one in wanted)
    (literal,) = wanted
    if operator in ("like", "ilike"):
        return _pattern(str(literal), ignore_case=operator == "ilike").fullmatch(str(value)) is not None
    if isinstance(value, str) and isinstance(literal, bool):
        known = value.lower() in ("true", "false")
        return known and _COMPARE[operator](value.lower() == "true", literal)
    if isinstance(value, str) and isinstance(literal, float):
        number = _number(value)
        return number is not None and _COMPARE[operator](number, literal)
    if isinstance(value, float) and math.isnan(value):
        return False
    return _COMPARE[operator](value, literal)


@functools.lru_cache(maxsize=64)
def _pattern(like: str, *, ignore_case: bool) -> re.Pattern[str]:
    """SQL's LIKE as a regular expression."""
    parts = {"%": ".*", "_": "."}
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    return re.compile("".join(parts.get(sign) or re.escape(sign) for sign in like), flags)


def _number(value: Any) -> float | None:
    """A finite or infinite number as MLflow's texts write it, None for anything else and for NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _sortable(value: Any) -> str | float | datetime | None:
    return None if isinstance(value, float) and math.isnan(value) else value
