"""A registry of many versions, written straight into MLflow's SQLite tables: through its client 10,000 versions take half an hour."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

FIRST_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
RECURRENT = ("gru", "lstm", "rnn_tanh", "mingru")
TEAMS = ("ops", "research", "it's 3 o'clock")


def fill(database: Path, *, models: int, versions: int, seed: int = 0) -> None:
    """Add ``models`` models with ``versions`` versions each, every version with a run of its own (a few share one, a few lost theirs)."""
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
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, values in rows.items():
            marks = ", ".join("?" * len(values[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", values)


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
