"""Queries of a real store: joined, pushed down, in pages, and equal to a filter in Python over all that MLflow's client gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from filled_store import facts, fill, random_query, read_all
from mlflow import MlflowClient

import reelscribe
from reelscribe.pipeline.errors import QueryError
from reelscribe.pipeline.tracking import query as query_module
from reelscribe.pipeline.tracking.connection import connect
from reelscribe.pipeline.tracking.query import query_versions
from reelscribe.pipeline.tracking.query_evaluation import select
from reelscribe.pipeline.tracking.query_language import parse_query
from reelscribe.pipeline.tracking.query_pushdown import alternatives, run_filters, version_filter
from reelscribe.pipeline.tracking.versions import ModelVersion

ISSUE = (
    "metrics.top1 >= 0.7 and (tags.team = 'ops' or alias = 'champion') and params.model.recurrent in ('gru','mingru') "
    "and created > 2026-02-01 order by metrics.top1 desc limit 5"
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """240 versions in 8 models."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('filled')}/mlflow.db"
    connect(uri, create=True)
    fill(Path(uri.removeprefix("sqlite:///")), models=8, versions=30, seed=3)
    return uri


@pytest.fixture(scope="module")
def everything(filled: str) -> list[ModelVersion]:
    return read_all(filled)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_module, "_PAGE", 50)
    monkeypatch.setattr(query_module, "_CHUNK", 40)
    monkeypatch.setattr(query_module, "_BY_NUMBER", 3)
    monkeypatch.setattr(query_module, "_SHARES", 9)
    monkeypatch.setattr(query_module, "_FEW_RUNS", 60)
    monkeypatch.setattr(query_module, "_RUN_IDS", 7)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "server"])
def test_random_queries_equal_brute_force(store: str, request: pytest.FixtureRequest, small_pages: None) -> None:
    if store == "server":  # one that holds models of other tests, too
        uri = str(request.getfixturevalue("server_uri"))
        fill(request.getfixturevalue("server_database"), models=8, versions=30, seed=4)
    else:
        uri = str(request.getfixturevalue("filled"))
    everything = read_all(uri)
    rng = random.Random(11)
    sizes = []
    count = 15 if store == "server" else 30
    for _ in range(count):
        text = random_query(rng)
        found = query_versions(text, uri=uri)
        assert facts(found) == facts(select(parse_query(text), everything)), text
        sizes.append(len(found))
    assert sum(size > 0 for size in sizes) > count * 2 // 5


def test_the_query_of_the_book(filled: str, everything: list[ModelVersion]) -> None:
    found = query_versions(ISSUE, uri=filled)
    assert facts(found) == facts(select(parse_query(ISSUE), everything))
    assert 0 < len(found) <= 5
    tops = [version.metrics["top1"] for version in found]
    assert tops == sorted(tops, reverse=True)
    assert all(version.tags.get("team") == "ops" or "champion" in version.aliases for version in found)
    assert all(version.params["model.recurrent"] in ("gru", "mingru") for version in found)


def test_the_same_in_python(filled: str, everything: list[ModelVersion], monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts(reelscribe.registry.query(ISSUE, uri=filled)) == facts(select(parse_query(ISSUE), everything))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", filled)
    assert len(reelscribe.registry.query()) == 240
    with pytest.raises(QueryError, match="name"):
        reelscribe.registry.query("nmae = 'x'")


def test_an_empty_query_finds_all_with_their_aliases(filled: str, everything: list[ModelVersion]) -> None:
    found = query_versions("", uri=filled)
    assert len(found) == 240
    held = {(name, alias) for version in found for name, alias in ((version.name, alias) for alias in version.aliases)}
    client = MlflowClient(tracking_uri=filled)
    assert held == {(model.name, alias) for model in client.search_registered_models() for alias in model.aliases}


def test_a_server_gives_the_same(server_uri: str) -> None:
    client = MlflowClient(tracking_uri=server_uri)
    client.create_registered_model("asked é")
    experiment = client.create_experiment("asked")
    for i in range(6):
        run = client.create_run(experiment)
        client.log_metric(run.info.run_id, "acc", i / 10)
        client.log_param(run.info.run_id, "model.recurrent", ["gru", "lstm"][i % 2])
        client.create_model_version("asked é", run.info.artifact_uri, run_id=run.info.run_id, tags={"team": "ops" if i > 2 else "lab"})
    client.set_registered_model_alias("asked é", "champion", "2")

    def numbers(text: str) -> list[int]:
        return [version.version for version in query_versions(text, uri=server_uri)]

    assert numbers("name like 'asked%' and metrics.acc > 0.15 and params.model.recurrent = 'gru'") == [5, 3]
    assert numbers("name = 'asked é' and (alias = 'champion' or metrics.acc >= 0.5) order by metrics.acc desc") == [6, 2]
    assert numbers("alias = 'champion' and name = 'asked é'") == [2]
    assert numbers("name like 'asked%' and tags.team = 'ops' and params.model.recurrent in ('lstm') order by version limit 1") == [4]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metrics.topl >= 0.9", "none of the newest versions has metrics.topl; did you mean metrics.top1"),
        ("name = 'model-01' and params.model.recurent = 'gru'", "did you mean params.model.recurrent"),
        ("tags.taem = 'ops'", "did you mean tags.team"),
    ],
)
def test_a_misspelled_key_is_no_empty_answer(filled: str, text: str, says: str) -> None:
    with pytest.raises(QueryError, match=says):
        query_versions(text, uri=filled)


def test_a_key_that_nothing_resembles_is_an_empty_answer(filled: str) -> None:
    assert query_versions("tags.approved_by = 'somebody'", uri=filled) == []
    assert query_versions("metrics.top1 > 2", uri=filled) == []


def test_only_what_every_match_must_meet_goes_to_the_server() -> None:
    def pushed(text: str) -> list[str]:
        return [version_filter(demands) for demands in alternatives(parse_query(text).condition)]

    assert pushed("name = 'a' and metrics.x > 1 and (run_id in ('r', 's') and tags.team = 'ops')") == [
        "name = 'a' AND run_id IN ('r', 's') AND tags.`team` = 'ops'"
    ]
    assert pushed("name = 'a' or tags.team = 'ops'") == ["name = 'a'", "tags.`team` = 'ops'"]
    assert pushed("version < 3 and (name = 'a' or tags.team ilike 'o%') and metrics.x > 1") == [
        "version_number < 3 AND name = 'a'",
        "version_number < 3 AND tags.`team` ILIKE 'o%'",
    ]
    assert pushed("name like 'a%'") == ["name ILIKE 'a%'"]
    assert pushed(" and ".join(f"(name = 'a{i}' or name = 'b{i}')" for i in range(9)))[0] == "name = 'a0' AND name = 'a1' AND name = 'a2'"
    for nothing in ("not name = 'a'", "tags.team = 3", "name = 'it''s'", "name ilike 'ü%'", "version < 2.5", "name = 'a' or metrics.x > 1"):
        assert pushed(nothing) == [""], nothing


def test_runs_are_looked_for_by_what_every_match_says_of_its_run() -> None:
    def asked(text: str) -> list[str]:
        return run_filters(parse_query(text).condition)

    assert asked("metrics.x >= 0.5 and tags.team = 'ops' and params.core in ('gru', 'lstm')") == [
        "metrics.`x` >= 0.5 AND params.`core` = 'gru'",
        "metrics.`x` >= 0.5 AND params.`core` = 'lstm'",
    ]
    assert asked("(metrics.x > 1 or alias = 'a') and params.seed = '3'") == ["params.`seed` = '3'"]
    for nothing in (
        "metrics.x != 1",
        "metrics.x > 1 or params.seed = '3'",
        "not params.seed = '3'",
        "params.seed = 3",
        "params.a = 'it''s'",
    ):
        assert asked(nothing) == [], nothing
