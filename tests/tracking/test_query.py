"""Queries of a real store: joined, pushed down, in pages, and equal to a filter in Python over all that MLflow's client gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from filled_store import fill
from mlflow import MlflowClient
from mlflow.entities import ViewType

from reelscribe.pipeline.errors import QueryError
from reelscribe.pipeline.tracking import query as query_module
from reelscribe.pipeline.tracking.connection import connect
from reelscribe.pipeline.tracking.query import query_versions, version_filter
from reelscribe.pipeline.tracking.query_evaluation import select
from reelscribe.pipeline.tracking.query_language import parse_query
from reelscribe.pipeline.tracking.versions import ModelVersion, to_version, with_run

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
    """The whole registry, read one by one by MLflow's client."""
    client = MlflowClient(tracking_uri=filled)
    runs = {run.info.run_id: run for run in client.search_runs(["0"], run_view_type=ViewType.ALL, max_results=50_000)}
    aliases = {model.name: model.aliases for model in client.search_registered_models()}
    found = client.search_model_versions()
    return [
        with_run(to_version(one, {a: int(v) for a, v in aliases[one.name].items()}), runs.get(one.run_id))
        for one in (client.get_model_version(version.name, version.version) for version in found)
    ]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_module, "_PAGE", 50)
    monkeypatch.setattr(query_module, "_CHUNK", 40)
    monkeypatch.setattr(query_module, "_BY_NUMBER", 3)


def facts(versions: list[ModelVersion]) -> list[tuple[object, ...]]:
    """All of each version, in words, as NaN equals nothing."""
    return [
        (
            v.name,
            v.version,
            v.aliases,
            v.created,
            v.run_id,
            repr(sorted(v.tags.items())),
            repr(sorted(v.params.items())),
            repr(sorted(v.metrics.items())),
        )
        for v in versions
    ]


def conditions(rng: random.Random) -> str:
    """A random condition over what the store holds, some of it in the words that the server is asked in."""
    simple = [
        lambda: f"metrics.top1 {rng.choice(['>=', '<', '>', '<=', '!='])} {rng.random():.3f}",
        lambda: f"metrics.val/loss < {rng.random() * 2:.2f}",
        lambda: f"params.model.recurrent {rng.choice(['=', '!='])} '{rng.choice(['gru', 'lstm'])}'",
        lambda: "params.model.recurrent in ('gru', 'mingru')",
        lambda: f"params.seed > {rng.randint(0, 9)}",
        lambda: "params.training.learning_rate = 0.001",
        lambda: f"tags.team {rng.choice(['=', '!='])} '{rng.choice(['ops', 'research'])}'",
        lambda: "tags.team = 'it''s 3 o''clock'",
        lambda: f"tags.priority >= {rng.randint(1, 12)}",
        lambda: f"alias {rng.choice(['=', '!='])} '{rng.choice(['champion', 'challenger'])}'",
        lambda: "alias in ('champion', 'previous')",
        lambda: f"created > 2026-{rng.randint(1, 11):02d}-15",
        lambda: f"name = 'model-{rng.randint(0, 8):02d}'",
        lambda: f"name in ('model-01', 'Model 07 ü', 'model-{rng.randint(2, 6):02d}')",
        lambda: f"name {rng.choice(['like', 'ilike', 'not like'])} '{rng.choice(['model-0%', 'M%', '%7 _'])}'",
        lambda: f"version <= {rng.randint(1, 30)}",
        lambda: f"run_id = '{rng.randint(0, 7):08x}{rng.randint(1, 30):024x}'",
    ]
    parts = [rng.choice(simple)() for _ in range(rng.randint(1, 4))]
    text = parts[0]
    for part in parts[1:]:
        text = rng.choice([f"{text} and {part}", f"{text} and {part}", f"({text} or {part})", f"{part} and not ({text})"])
    order = rng.choice(
        ["", "", " order by metrics.top1 desc", " order by created", " order by params.seed desc, version", " order by tags.team"]
    )
    return text + order + rng.choice(["", "", f" limit {rng.randint(1, 20)}"])


@pytest.mark.slow
def test_random_queries_equal_brute_force(filled: str, everything: list[ModelVersion], small_pages: None) -> None:
    rng = random.Random(11)
    sizes = []
    for _ in range(60):
        text = conditions(rng)
        found = query_versions(text, uri=filled)
        assert facts(found) == facts(select(parse_query(text), everything)), text
        sizes.append(len(found))
    assert sum(size > 0 for size in sizes) > 25


def test_the_query_of_the_book(filled: str, everything: list[ModelVersion]) -> None:
    found = query_versions(ISSUE, uri=filled)
    assert facts(found) == facts(select(parse_query(ISSUE), everything))
    assert 0 < len(found) <= 5
    tops = [version.metrics["top1"] for version in found]
    assert tops == sorted(tops, reverse=True)
    assert all(version.tags.get("team") == "ops" or "champion" in version.aliases for version in found)
    assert all(version.params["model.recurrent"] in ("gru", "mingru") for version in found)


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
    assert numbers("tags.team = 'ops' and params.model.recurrent in ('lstm') order by version limit 1") == [4]


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
    def pushed(text: str) -> str:
        return version_filter(parse_query(text).condition)

    assert pushed("name = 'a' and metrics.x > 1 and (run_id in ('r', 's') and tags.team = 'ops')") == (
        "name = 'a' AND run_id IN ('r', 's') AND tags.`team` = 'ops'"
    )
    assert pushed("name = 'a' or tags.team = 'ops'") == ""
    assert pushed("not name = 'a'") == ""
    assert pushed("tags.team = 3") == ""
    assert pushed("name = 'it''s'") == ""
    assert pushed("name like 'a%'") == "name ILIKE 'a%'"
