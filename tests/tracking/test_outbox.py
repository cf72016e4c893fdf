"""A server that is away for a while: nothing lost, nothing doubled, nothing out of order."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_server import free_port, running_server

from reelscribe.pipeline.errors import ServiceUnavailableError, TrackingLostError
from reelscribe.pipeline.tracking import outbox
from reelscribe.pipeline.tracking.connection import connect
from reelscribe.pipeline.tracking.runs import RunTracker


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_LAST_WAIT_S", 0.0)
    monkeypatch.setattr(outbox, "_PROBE_S", 1.0)


class Switch:
    """Makes a store answer or not, as its tasks see it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away = False
        self.break_after: str | None = None
        self._carry_out = outbox.carry_out
        monkeypatch.setattr(outbox, "check_reachable", self._check)
        monkeypatch.setattr(outbox, "carry_out", self._carry)

    def _check(self, *_: object, **__: object) -> None:
        if self.away:
            raise ServiceUnavailableError("away")

    def _carry(self, client: MlflowClient, run_id: str, task: outbox.Task) -> None:
        self._carry_out(client, run_id, task)
        if task["kind"] == self.break_after:  # the server has done it, and nobody hears of it
            self.away, self.break_after = True, None
            raise ServiceUnavailableError("the connection broke")


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Switch:
    return Switch(monkeypatch)


def steps(uri: str, run_id: str, key: str = "loss") -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in MlflowClient(tracking_uri=uri).get_metric_history(run_id, key)]


def test_nothing_is_lost_doubled_or_out_of_order(sqlite_uri: str, switch: Switch, tmp_path: Path) -> None:
    picture = tmp_path / "curve.txt"
    with RunTracker(uri=sqlite_uri, experiment="away") as run:
        run.log_metrics({"loss": 0.0}, 0)
        switch.break_after = "metrics"
        run.log_metrics({"loss": 1.0}, 1)
        for epoch in range(2, 5):
            picture.write_text(f"epoch {epoch}")
            run.log_artifact(picture)
            run.log_metrics({"loss": float(epoch)}, epoch)
            run.set_tags({"last": str(epoch)})
        picture.unlink()
        assert steps(sqlite_uri, run.run_id) == [(0, 0.0), (1, 1.0)]
        kept = outbox.outbox_folder() / run.run_id / "tasks.jsonl"
        assert [json.loads(line)["kind"] for line in kept.read_text().splitlines()] == ["metrics", *["file", "metrics", "tags"] * 3]
        switch.away = False
        run.log_params({"late": True})
        assert not kept.exists()
    assert steps(sqlite_uri, run.run_id) == [(i, float(i)) for i in range(5)]
    found = MlflowClient(tracking_uri=sqlite_uri).get_run(run.run_id)
    assert (found.info.status, found.data.tags["last"], found.data.params["late"]) == ("FINISHED", "4", "true")
    assert Path(MlflowClient(tracking_uri=sqlite_uri).download_artifacts(run.run_id, "curve.txt")).read_text() == "epoch 4"


def test_what_is_left_at_the_end_goes_with_the_next_run(
    sqlite_uri: str, switch: Switch, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunTracker(uri=sqlite_uri, experiment="left") as run:
        switch.away = True
        run.log_metrics({"loss": 3.0}, 3)
    assert "the next training that is tracked there delivers them" in capsys.readouterr().err.replace("\n", " ")
    client = MlflowClient(tracking_uri=sqlite_uri)
    assert client.get_run(run.run_id).info.status == "RUNNING"
    switch.away = False
    with RunTracker(uri=sqlite_uri, experiment="left"):
        assert client.get_run(run.run_id).info.status == "FINISHED"
    assert steps(sqlite_uri, run.run_id) == [(3, 3.0)]
    assert list(outbox.outbox_folder().iterdir()) == []


def test_the_outbox_of_a_living_run_is_its_own(sqlite_uri: str, switch: Switch) -> None:
    with RunTracker(uri=sqlite_uri, experiment="own") as run:
        switch.away = True
        run.log_metrics({"loss": 1.0})
        switch.away = False
        outbox.deliver_leftovers(connect(sqlite_uri), sqlite_uri)
        assert steps(sqlite_uri, run.run_id) == []
    assert steps(sqlite_uri, run.run_id) == [(0, 1.0)]


def test_the_outbox_is_bounded(sqlite_uri: str, switch: Switch, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_BYTES", 2**20)
    with RunTracker(uri=sqlite_uri, experiment="full") as run:
        switch.away = True
        for i in range(15):
            run.log_text("x" * 2**16, f"{i}.txt")
        with pytest.raises(TrackingLostError, match="away for too long: 1 MB"):
            run.log_text("x" * 2**16, "16.txt")
        switch.away = False


def test_what_waits_for_a_run_that_is_gone_is_left_out(
    sqlite_uri: str, switch: Switch, impatient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunTracker(uri=sqlite_uri, experiment="gone") as run:
        switch.away = True
        run.log_metrics({"loss": 1.0})
    switch.away = False
    MlflowClient(tracking_uri=sqlite_uri).delete_run(run.run_id)
    outbox.deliver_leftovers(connect(sqlite_uri), sqlite_uri)
    assert f"metrics loss at step 0 of run {run.run_id}" in capsys.readouterr().err
    assert list(outbox.outbox_folder().iterdir()) == []


def test_what_a_server_refuses_is_named_and_left_out(sqlite_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with RunTracker(uri=sqlite_uri, experiment="refused") as run:
        run.log_params({"a": 1, "b": 2})
        run.log_params({"c": 3, "a": 7, "d": 4})  # MLflow takes no other value for a parameter
        run.log_metrics({"loss": 1.0}, 1)
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"refuses params a of run {run.run_id}" in said
    assert said.count("left out") == 1
    found = MlflowClient(tracking_uri=sqlite_uri).get_run(run.run_id)
    assert (found.info.status, found.data.params, found.data.metrics) == (
        "FINISHED",
        {"a": "1", "b": "2", "c": "3", "d": "4"},
        {"loss": 1.0},
    )


def test_a_record_that_always_fails_holds_up_nothing(server_uri: str, server_database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(server_database, timeout=30)) as database, database:
        database.execute("CREATE TRIGGER ill BEFORE INSERT ON metrics WHEN new.key = 'ill' BEGIN SELECT json('no JSON'); END")
    try:
        with RunTracker(uri=server_uri, experiment="ill") as run:
            run.log_metrics({"ill": 1.0})
            for step in range(6):
                run.log_metrics({"well": float(step)}, step)
            run.set_tags({"after": "yes"})
    finally:
        with closing(sqlite3.connect(server_database, timeout=30)) as database, database:
            database.execute("DROP TRIGGER ill")
    assert f"fails at metrics ill at step 0 of run {run.run_id} each time" in capsys.readouterr().err.replace("\n", " ")
    assert steps(server_uri, run.run_id, "well") == [(step, float(step)) for step in range(6)]
    found = MlflowClient(tracking_uri=server_uri).get_run(run.run_id)
    assert (found.info.status, found.data.tags["after"]) == ("FINISHED", "yes")
    (aside,) = (outbox.outbox_folder() / "aside" / run.run_id / "tasks.jsonl").read_text().splitlines()
    assert json.loads(aside)["rows"][0][:2] == ["ill", 1.0]


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again(tmp_path: Path, impatient: None) -> None:
    port = free_port()
    with running_server(tmp_path, port) as uri:
        run = RunTracker(uri=uri, experiment="killed").__enter__()
        run.log_metrics({"loss": 0.0}, 0)
    for epoch in range(1, 4):
        run.log_metrics({"loss": float(epoch)}, epoch)
    with running_server(tmp_path, port):
        run.log_metrics({"loss": 4.0}, 4)
        run.__exit__(None, None, None)
        assert steps(uri, run.run_id) == [(i, float(i)) for i in range(5)]
        assert MlflowClient(tracking_uri=uri).get_run(run.run_id).info.status == "FINISHED"
