"""A registry of many versions, written straight into MLflow's SQLite tables: through its client 10,000 versions take half an hour."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import ViewType

from reelscribe.pipeline.tracking.versions import ModelVersion, to_version, with_run

FIRST_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
RECURRENT = ("gru", "lstm", "rnn_tanh", "mingru")
TEAMS = ("ops", "research", "it's 3 o'clock")


def fill(database: Path, *, models: int, versions: int, seed: int = 0) -> None:
    """As ``rows_of``, into the tables of MLflow's SQLite file."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, values in rows_of(models=models, versions=versions, seed=seed).items():
            marks = ", ".join("?" * len(values[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", values)


def rows_of(*, models: int, versions: int, seed: int = 0) -> dict[str, list[tuple[object, ...]]]:
    """The rows for each table (named with its columns) that hold ``models`` models with ``versions`` versions each.

    Every version has a run of its own; a few lost theirs.
    """
    rng = random.Random(seed)
    rows: dict[str, list[tuple[object, ...]]] = {}
    for m in range(models):
        name = f"model-{m:02d}" if m % 7 else f"Model {m:02d} ü"
        rows.setdefault("registered_models (name, creation_time, last_updated_time, description)", []).append(
            (name, FIRST_MS, FIRST_MS, "")
        )
        for alias in rng.sample(("champion", "challenger", "previous"), rng.randint(0, 3)):
            rows.setdefault("registered_model_aliases (alias, version, name)", []).append((alias, rng.randint(1, versions), name))
        for number in range(1, versions + 1):
            _version(rows, rng, name, number, f"{m:08x}{number:024x}")
    return rows


def _version(rows: dict[str, list[tuple[object, ...]]], rng: random.Random, name: str, number: int, run_id: str) -> None:
    created = FIRST_MS + rng.randrange(330 * 86_400_000)
    lost = rng.random() < 0.02
    version = (name, number, created, created, "", "None", f"s3://bucket/{run_id}", run_id, "READY")
    columns = "name, version, creation_time, last_updated_time, description, current_stage, source, run_id, status"
    rows.setdefault(f"model_versions ({columns})", []).append(version)
    tags = {"reelscribe.task": "single_label", "reelscribe.labels": '["a", "b", "c"]', "priority": str(rng.randint(1, 12))}
    if rng.random() < 0.7:
        tags["team"] = rng.choice(TEAMS)
    if rng.random() < 0.1:
        tags["reelscribe.metric.top1"] = repr(rng.random())
    rows.setdefault("model_version_tags (name, version, key, value)", []).extend((name, number, k, v) for k, v in tags.items())
    if lost:
        return
    columns = (
        "run_uuid, name, source_type, source_name, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id"
    )
    stage = "deleted" if rng.random() < 0.02 else "active"
    run = (run_id, f"run {number}", "LOCAL", "", "tester", "FINISHED", created, created, stage, f"s3://bucket/{run_id}", 0)
    rows.setdefault(f"runs ({columns})", []).append(run)
    metrics = {"top1": rng.random(), "val/loss": rng.expovariate(1.0)} | {f"recall/{label}": rng.random() for label in "abc"}
    if rng.random() < 0.1:
        del metrics["top1"]
    for key, value in metrics.items():
        broken = rng.random() < 0.02
        row = (key, 0.0 if broken else value, created, 10, broken, run_id)
        rows.setdefault("latest_metrics (key, value, timestamp, step, is_nan, run_uuid)", []).append(row)
    params = {
        "model.recurrent": rng.choice(RECURRENT),
        "training.learning_rate": rng.choice(("1e-3", "0.001", "0.01")),
        "seed": str(rng.randint(0, 9)),
    }
    params |= {f"other.{i}": str(i) for i in range(10)}
    rows.setdefault("params (key, value, run_uuid)", []).extend((key, value, run_id) for key, value in params.items())


def random_query(rng: random.Random) -> str:
    """A query over what ``fill`` wrote, some of it in words that the server can be asked in."""
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
        lambda: f"tags.team {rng.choice(['like', 'ilike'])} '{rng.choice(['o%', '%E%', '%clock'])}'",
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


def read_all(uri: str) -> list[ModelVersion]:
    """The whole registry with its runs, read by MLflow's client."""
    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments(ViewType.ALL)]
    runs = {run.info.run_id: run for run in client.search_runs(experiments, run_view_type=ViewType.ALL, max_results=50_000)}
    aliases = {model.name: {a: int(v) for a, v in model.aliases.items()} for model in client.search_registered_models(max_results=1000)}
    found = client.search_model_versions(max_results=200_000)
    return [with_run(to_version(one, aliases[one.name]), runs.get(one.run_id)) for one in found]


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
