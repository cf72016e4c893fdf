"""The language by itself: what parses, what it means, and where it points when it does not parse."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelscribe.pipeline.errors import QueryError
from reelscribe.pipeline.tracking.query_evaluation import holds, select
from reelscribe.pipeline.tracking.query_language import parse_query
from reelscribe.pipeline.tracking.versions import ModelVersion

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def version(number: int = 1, name: str = "gestures", **changes: Any) -> ModelVersion:
    fields: dict[str, Any] = {
        "name": name,
        "version": number,
        "aliases": (),
        "created": EPOCH,
        "status": "READY",
        "run_id": f"run{number}",
        "source": "",
        "description": "",
        "tags": {},
        "metrics": {},
        "params": {},
    }
    return ModelVersion(**(fields | changes))


ONE = version(
    3,
    aliases=("champion", "live"),
    created=EPOCH + timedelta(days=30, hours=12),
    tags={"team": "ops", "approved": "True", "note": "it's 100%"},
    metrics={"top1": 0.93, "val/loss": 0.4, "val loss": 2.0, "broken": math.nan},
    params={"model.recurrent": "gru", "training.learning_rate": "1e-3", "seed": "07"},
)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("metrics.top1 >= 0.93", True),
        ("metrics.top1 > 0.93", False),
        ("metrics.val/loss < .5 and metrics.`val loss` = 2", True),
        ("metrics.absent > 0 or metrics.absent <= 0 or metrics.absent != 0", False),
        ("not metrics.absent > 0", True),
        ("metrics.broken = 1 or metrics.broken != 1", False),
        ("metrics.top1 in (0.5, 0.93)", True),
        ("metrics.absent not in (0.5)", False),
        ("params.training.learning_rate = 0.001", True),
        ("params.training.learning_rate = '0.001'", False),
        ("params.training.learning_rate < 1e-2 and params.training.learning_rate > -1", True),
        ("params.model.recurrent > 0", False),
        ("params.seed = 7 and params.seed = '07'", True),
        ("params.model.recurrent in ('gru', 'mingru')", True),
        ("params.model.recurrent not in ('lstm')", True),
        ("tags.approved = true and tags.approved != false", True),
        ("tags.team = true", False),
        ("tags.note = 'it''s 100%'", True),
        ('tags.note = "it\'s 100%"', True),
        ("tags.note like 'it%'", True),
        ("tags.note like 'IT%'", False),
        ("tags.note ilike 'IT%'", True),
        ("tags.note not like '%x%'", True),
        ("name like 'gest_res' and name like '%'", True),
        ("name like 'gest.*'", False),
        ("alias = 'champion'", True),
        ("alias != 'champion'", False),
        ("alias in ('other', 'live')", True),
        ("alias not in ('other')", True),
        ("alias like 'cham%'", True),
        ("created > 2026-01-31 and created < '2026-02-01'", True),
        ("created = 2026-01-31T12:00", True),
        ("created = 2026-01-31T13:00:00+01:00", True),
        ("created > 2026-01-31T12:00:00Z", False),
        ("version = 3 and version in (1, 2, 3) and version < 4", True),
        ("STATUS = 'x' OR version = 3".replace("STATUS", "status"), True),
        ("run_id = 'run3'", True),
        # and binds closer than or; not binds closest
        ("version = 3 or version = 4 and version = 5", True),
        ("(version = 3 or version = 4) and version = 5", False),
        ("not version = 4 and version = 3", True),
        ("not (version = 4 and version = 3)", True),
        ("not not version = 3", True),
    ],
)
def test_what_a_condition_means(text: str, truth: bool) -> None:
    condition = parse_query(text).condition
    assert condition is not None
    assert holds(condition, ONE) is truth


@pytest.mark.parametrize(
    ("text", "spot", "says"),
    [
        ("metric.top1 > 3", 0, "did you mean 'metrics'"),
        ("versio = 3", 0, "did you mean 'version'"),
        ("name = 'a' and top1 > 3", 15, "metrics.top1"),
        ("metrics.top1 > 'high'", 15, "is a number"),
        ("name = 3", 7, "write '3'"),
        ("name = gestures", 7, "in quotes"),
        ("name == 'a'", 5, "written '='"),
        ("name = 'a' && version = 1", 11, "written 'and'"),
        ("name = 'a", 7, "no closing quote"),
        ("name = 'a' adn version = 1", 11, "did you mean 'and'"),
        ("(name = 'a'", 11, r"expected '\)'"),
        ("name = 'a')", 10, "expected 'and'"),
        ("name in ()", 9, "expected a text"),
        ("alias > 'a'", 6, "several aliases"),
        ("created > yesterday", 10, "expected a text"),
        ("created > 2026-02-30", 10, "no date"),
        ("created > 3", 10, "is a date"),
        ("metrics.top1 like '1%'", 13, "compares text"),
        ("tags.a like 3", 12, "compares text"),
        ("tags.a > true", 9, "use = or !="),
        ("tags.a = 2026-01-01", 9, "write '2026-01-01'"),
        ("metrics > 1", 0, "metrics.NAME"),
        ("name.x = 'a'", 0, "no name after a dot"),
        ("version = 1 limit 0", 18, "at least 1"),
        ("limit 2.5", 6, "whole number"),
        ("order version", 6, "expected 'by'"),
        ("order by alias", 9, "no order by alias"),
        ("order by created desk", 17, "did you mean 'desc'"),
        ("not", 3, "expected a field"),
        ("name = 'a' ~ 3", 11, "unexpected '~'"),
        ("(" * 60 + "version = 1" + ")" * 60, 50, "nested more than 50"),
    ],
)
def test_an_error_points_at_the_spot(text: str, spot: int, says: str) -> None:
    with pytest.raises(QueryError, match=says) as caught:
        parse_query(text)
    _, line, mark = str(caught.value).split("\n")
    assert line == f"  {text}"
    assert mark == f"  {' ' * spot}^"


def test_order_and_limit() -> None:
    table = [
        version(1, metrics={"top1": 0.5}, params={"layers": "10"}),
        version(2, metrics={"top1": 0.9}, params={"layers": "9"}),
        version(3, metrics={}, params={"layers": "1"}),
        version(4, metrics={"top1": math.nan}),
        version(1, "actions", metrics={"top1": 0.9}),
    ]

    def numbers(text: str) -> list[tuple[str, int]]:
        return [(found.name[0], found.version) for found in select(parse_query(text), table)]

    assert numbers("") == [("a", 1), ("g", 4), ("g", 3), ("g", 2), ("g", 1)]
    assert numbers("order by metrics.top1 desc limit 3") == [("a", 1), ("g", 2), ("g", 1)]
    assert numbers("order by metrics.top1") == [("g", 1), ("a", 1), ("g", 2), ("g", 4), ("g", 3)]
    assert numbers("order by metrics.top1 desc, version desc") == [("g", 2), ("a", 1), ("g", 1), ("g", 4), ("g", 3)]
    assert numbers("version < 4 and name = 'gestures' order by params.layers") == [("g", 3), ("g", 2), ("g", 1)]


# --- random conditions over a random table, against a direct reading of the rules in plain Python ---

KEYS = st.sampled_from(["a", "b"])
WORDS = st.sampled_from(["", "x", "Xy", "3", "0.5", "true", "1e3"])
NUMBERS = st.sampled_from([-1.0, 0.0, 0.5, 3.0, 1000.0])
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

versions = st.builds(
    version,
    st.integers(1, 5),
    st.sampled_from(["x", "Xy", "z"]),
    aliases=st.lists(st.sampled_from(["x", "Xy"]), unique=True).map(lambda found: tuple(sorted(found))),
    created=st.integers(0, 4).map(lambda days: EPOCH + timedelta(days=days)),
    metrics=st.dictionaries(KEYS, NUMBERS | st.just(math.nan)),
    params=st.dictionaries(KEYS, WORDS),
    tags=st.dictionaries(KEYS, WORDS),
)


def number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


Rule = tuple[str, Callable[[ModelVersion], bool]]  # a condition as text, and as Python


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    sign = draw(st.sampled_from(sorted(COMPARE)))
    key, word, figure = draw(KEYS), draw(WORDS), draw(NUMBERS)
    group = draw(st.sampled_from(["params", "tags"]))
    compare = COMPARE[sign]
    day = EPOCH + timedelta(days=draw(st.integers(0, 4)))
    chosen = draw(st.lists(WORDS, min_size=1, max_size=3))
    quoted = ", ".join(f"'{one}'" for one in chosen)

    def of(v: ModelVersion) -> str | None:
        return getattr(v, group).get(key)

    def as_number(v: ModelVersion) -> float | None:
        return number(of(v) or "")

    options: list[Rule] = [
        (
            f"metrics.{key} {sign} {figure}",
            lambda v: key in v.metrics and not math.isnan(v.metrics[key]) and compare(v.metrics[key], figure),
        ),
        (f"{group}.{key} {sign} '{word}'", lambda v: (text := of(v)) is not None and compare(text, word)),
        (f"{group}.{key} {sign} {figure}", lambda v: (value := as_number(v)) is not None and compare(value, figure)),
        (f"{group}.{key} in ({quoted})", lambda v: of(v) in chosen),
        (f"{group}.{key} not in ({quoted})", lambda v: of(v) is not None and of(v) not in chosen),
        (f"{group}.{key} = true", lambda v: (of(v) or "").lower() == "true"),
        (f"name {sign} '{word}'", lambda v: compare(v.name, word)),
        (f"version {sign} {figure}", lambda v: compare(v.version, figure)),
        (f"created {sign} {day:%Y-%m-%d}", lambda v: compare(v.created, day)),
        (f"alias = '{word}'", lambda v: word in v.aliases),
        (f"alias != '{word}'", lambda v: word not in v.aliases),
        (f"alias not in ({quoted})", lambda v: not set(chosen) & set(v.aliases)),
        (f"{group}.{key} ilike 'x%'", lambda v: (of(v) or "").lower().startswith("x")),
    ]
    return draw(st.sampled_from(options))


def both(left: Rule, right: Rule) -> Rule:
    return f"({left[0]}) and {right[0]}", lambda v: left[1](v) and right[1](v)


def either(left: Rule, right: Rule) -> Rule:
    return f"({left[0]} or {right[0]})", lambda v: left[1](v) or right[1](v)


def neither(rule: Rule) -> Rule:
    return f"not ({rule[0]})", lambda v: not rule[1](v)


conditions = st.recursive(
    rules(),
    lambda inner: st.one_of(st.builds(both, inner, inner), st.builds(either, inner, inner), st.builds(neither, inner)),
    max_leaves=6,
)


@settings(max_examples=500, deadline=None)
@given(conditions, st.lists(versions, max_size=8))
def test_a_query_equals_brute_force(rule: Rule, table: list[ModelVersion]) -> None:
    found = select(parse_query(rule[0]), table)
    wanted = sorted((v for v in table if rule[1](v)), key=lambda v: (v.name, -v.version))
    assert [id(v) for v in found] == [id(v) for v in wanted]


@settings(max_examples=300, deadline=None)
@given(conditions, versions)
def test_what_is_certain_without_the_run_stays_so_with_it(rule: Rule, full: ModelVersion) -> None:
    condition = parse_query(rule[0]).condition
    assert condition is not None
    bare = version(full.version, full.name, aliases=full.aliases, created=full.created, tags=full.tags)
    early = holds(condition, bare, run_known=False)
    assert early in (None, holds(condition, full))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="namevrsio.top1 ()<>='\"`,andorlike_%-é\n", max_size=40))
def test_any_text_parses_or_is_refused_politely(text: str) -> None:
    with contextlib.suppress(QueryError):
        parse_query(text)
