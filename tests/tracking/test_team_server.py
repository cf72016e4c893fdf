"""A team's server: MLflow on PostgreSQL behind passwords, its files on S3. One is started for all tests, as it takes a while."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import pytest
import requests
import team_clients
from filled_store import facts, random_query, read_all, rows_of
from mlflow import MlflowClient
from mlflow_server import MlflowServer, free_port
from postgres import running_postgres
from registering import processes, register_and_die

import s3_server
from conftest import tiny_spec
from reelscribe.pipeline import cli
from reelscribe.pipeline.bundle import ModelBundle, load_bundle, save_bundle
from reelscribe.pipeline.config import Config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import ReelScribeError, TrackingLostError
from reelscribe.pipeline.tracking import outbox
from reelscribe.pipeline.tracking.lineage import lineage
from reelscribe.pipeline.tracking.query import query_versions
from reelscribe.pipeline.tracking.query_evaluation import select
from reelscribe.pipeline.tracking.query_language import parse_query
from reelscribe.pipeline.tracking.registry import alias_history, fetch_model, list_models, register_model, show_model
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.training.job import run_training
from reelscribe.pipeline.training.progress import EpochMetrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # on a busy machine a server alone takes minutes to start

PASSWORD = "correct horse battery"
USERS = ("trainer", "reader")
WAIT_S = 400


class Team(NamedTuple):
    server: MlflowServer
    database: str
    s3: str

    @property
    def uri(self) -> str:
        return self.server.uri


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    settings = {
        "default_permission": "READ",  # MLflow's own default: who made a model may change it
        "database_uri": f"sqlite:///{folder / 'users.db'}",
        "admin_username": "admin",
        "admin_password": PASSWORD,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "60",
    }
    (folder / "auth.ini").write_text("[mlflow]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    with running_postgres() as database, s3_server.serve(folder / "s3.log") as s3:
        requests.put(f"{s3}/models", timeout=30).raise_for_status()
        server = MlflowServer(
            folder,
            free_port(),
            backend=database,
            artifacts="s3://models/of the team",
            options=["--app-name", "basic-auth"],
            environment={
                **s3_server.ENVIRONMENT,
                "MLFLOW_S3_ENDPOINT_URL": s3,
                "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
            },
        )
        try:
            server.start()
            for user in USERS:
                made = {"username": user, "password": PASSWORD}
                address = f"{server.uri}/api/2.0/mlflow/users/create"
                requests.post(address, json=made, auth=("admin", PASSWORD), timeout=60).raise_for_status()
            yield Team(server, database, s3)
        finally:
            server.stop()


@pytest.fixture
def sign_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def sign_in(user: str, password: str = PASSWORD) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    sign_in("trainer")
    return sign_in


@pytest.fixture(scope="module")
def versions(team: Team, bundle: ModelBundle) -> str:
    """``shared``, with two versions; the second is the champion."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_USERNAME", "trainer")
        environment.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        for _ in range(2):
            register(team.uri, bundle, "shared")
    return "shared"


def register(uri: str, bundle: ModelBundle, name: str) -> str:
    with RunTracker(uri=uri, experiment="team") as run:
        run.log_metrics({"val/top1": 0.5})
        register_model(bundle.folder, run_id=run.run_id, name=name, alias="champion", uri=uri)
    return run.run_id


def begin(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process with this one's environment, which the one that it comes from may lack."""
    process = processes().Process(target=team_clients.with_environment, args=(dict(os.environ), function, *arguments))
    process.start()
    return process


def end(*clients: BaseProcess) -> list[int | None]:
    """How they ended, all of them in time."""
    deadline = time.monotonic() + WAIT_S
    try:
        for client in clients:
            client.join(max(0.0, deadline - time.monotonic()))
        assert not any(client.is_alive() for client in clients), "a client did not end in time"
        return [client.exitcode for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.join()


def test_who_may_not_is_told_in_one_line(
    team: Team, versions: str, sign_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*arguments: str) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["reelscribe", *arguments, "--tracking-uri", team.uri])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    sign_in("trainer", "wrong")
    for arguments in (("registry", "list"), ("registry", "promote", "models:/shared/1")):
        status, said = says(*arguments)
        assert (status, said.count("\n")) == (2, 1)
        assert "refuses this user; check MLFLOW_TRACKING_USERNAME" in said
        assert "wrong" not in said
    sign_in("reader")
    assert [model.name for model in list_models(uri=team.uri)] == [versions]
    assert fetch_model("models:/shared@champion", uri=team.uri).version == "2"
    for arguments in (("registry", "promote", "models:/shared/1"), ("registry", "rm", "models:/shared/1")):
        status, said = says(*arguments)
        assert (status, said.count("\n")) == (2, 1)
        assert "does not allow this user to do that" in said
    with pytest.raises(ReelScribeError, match="does not allow this user"), RunTracker(uri=team.uri, experiment="team"):
        pass


def test_files_lie_on_s3_and_come_back_whole(team: Team, versions: str, sign_in: Callable[..., None], bundle: ModelBundle) -> None:
    assert load_bundle(fetch_model("models:/shared@champion", uri=team.uri).folder).weights_digest == bundle.weights_digest
    keys = requests.get(f"{team.s3}/models", timeout=30).text
    assert keys.count("weights.safetensors</Key>") >= 2


def test_eight_clients_at_once(team: Team, versions: str, sign_in: Callable[..., None], bundle: ModelBundle) -> None:
    clients = [begin(team_clients.client, team.uri, str(bundle.folder), number) for number in range(8)]
    assert end(*clients) == [0] * 8
    found = query_versions("name = 'shared'", uri=team.uri)
    assert [version.version for version in found] == list(range(10, 0, -1))
    moves = alias_history("shared", uri=team.uri)
    for number in range(8):
        assert [(m.before, m.after) for m in moves[::-1] if m.alias == f"alias-{number}"] == [(None, 1), (1, 2), (2, 1)]


def test_a_run_is_deleted_under_readers(team: Team, sign_in: Callable[..., None], bundle: ModelBundle) -> None:
    run_id = register(team.uri, bundle, "orphan")

    def read(_: int) -> tuple[int, float]:
        (found,) = query_versions("name = 'orphan' and metrics.top1 > 0.9", uri=team.uri)
        return show_model("orphan", uri=team.uri).version.version, found.metrics["top1"]

    with ThreadPoolExecutor(2) as readers:
        answers = [readers.submit(read, number) for number in range(6)]
        MlflowClient(tracking_uri=team.uri).delete_run(run_id)
        with closing(psycopg2.connect(team.database.replace("+psycopg2", ""))) as database, database, database.cursor() as cursor:
            for table in ("metrics", "latest_metrics", "params", "tags", "runs"):  # as `mlflow gc` does
                cursor.execute(f"DELETE FROM {table} WHERE run_uuid = %s", (run_id,))
        assert [answer.result(WAIT_S) for answer in answers] == [(1, 0.93)] * 6
    assert read(0) == (1, 0.93)
    assert lineage("models:/orphan@champion", uri=team.uri)[0].status == "gone"


def test_the_server_is_killed_while_two_train(
    team: Team,
    sign_in: Callable[..., None],
    bundle: ModelBundle,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For one of them it is back before the end; the other ends without it."""
    monkeypatch.setattr(outbox, "_LAST_WAIT_S", 0.0)
    monkeypatch.setattr(outbox, "_PROBE_S", 0.8)
    tracking = tiny_config.tracking.model_copy(update={"uri": team.uri})
    config = tiny_config.model_copy(update={"name": "late", "output": str(tmp_path / "runs"), "tracking": tracking})
    begun, back = str(tmp_path / "begun"), str(tmp_path / "back")
    client = begin(team_clients.train_through_an_outage, team.uri, str(bundle.folder), begun, back)
    team_clients.await_file(begun)

    def report(epoch: EpochMetrics) -> None:
        if epoch["epoch"] == config.training.epochs:
            team.server.kill()

    with pytest.raises(TrackingLostError, match=r"the training is done and its model is kept in .*/model.*the same command registers it"):
        run_training(config, progress=progress, report=report)
    team.server.start()
    Path(back).touch()
    assert end(client) == [0]
    late = run_training(config, progress=progress)
    assert late.version is not None
    assert (late.version.version, late.version.aliases) == (1, ("champion",))
    run = MlflowClient(tracking_uri=team.uri).get_run(late.run_id)
    assert (run.info.status, run.data.tags["reelscribe.checkpoints"]) == ("FINISHED", f"{tmp_path}/runs/late/{late.run_id}/checkpoints")
    assert [point.step for point in MlflowClient(tracking_uri=team.uri).get_metric_history(late.run_id, "val_loss")] == [1, 2, 3]

    (run,) = MlflowClient(tracking_uri=team.uri).search_runs(
        [MlflowClient(tracking_uri=team.uri).get_experiment_by_name("outage").experiment_id], max_results=10
    )
    history = MlflowClient(tracking_uri=team.uri).get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(epoch, float(epoch)) for epoch in range(6)]
    assert run.info.status == "FINISHED"
    assert fetch_model("models:/outage@champion", uri=team.uri).version == "1"


def test_a_client_is_killed_while_it_registers_or_promotes(
    team: Team, sign_in: Callable[..., None], bundle: ModelBundle, tmp_path: Path
) -> None:
    register(team.uri, bundle, "killed")
    other = save_bundle(tmp_path / "other", spec=tiny_spec(temperature=2.0), state=bundle.build().state_dict(), card="another\n")
    steps = ("log_model_artifacts", "create_model_version", "set_registered_model_alias")
    clients = [begin(register_and_die, team.uri, str(other.folder), "killed", step) for step in steps]
    assert end(*clients) == [-signal.SIGKILL] * 3
    assert load_bundle(fetch_model("models:/killed@champion", uri=team.uri).folder).spec.temperature == 1.0
    for version in query_versions("name = 'killed'", uri=team.uri):  # what is visible at all is complete
        fetch_model(f"models:/killed/{version.version}", uri=team.uri)
    clients = [begin(team_clients.promote_and_die, team.uri, "models:/killed/2", "set_registered_model_alias")]
    assert end(*clients) == [-signal.SIGKILL]
    assert fetch_model("models:/killed@champion", uri=team.uri).version == "1"
    assert end(begin(team_clients.promote_and_die, team.uri, "models:/killed/2", "set_registered_model_tag")) == [-signal.SIGKILL]
    assert fetch_model("models:/killed@champion", uri=team.uri).version == "2"  # moved, and its line of history lost
    assert [move.after for move in alias_history("killed", uri=team.uri)] == [1]


def test_random_queries_equal_brute_force(team: Team, sign_in: Callable[..., None]) -> None:
    with closing(psycopg2.connect(team.database.replace("+psycopg2", ""))) as database, database, database.cursor() as cursor:
        for table, rows in rows_of(models=6, versions=20, seed=7).items():
            cursor.executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)
    everything = read_all(team.uri)
    rng = random.Random(5)
    sizes = []
    for _ in range(10):
        text = random_query(rng)
        found = query_versions(text, uri=team.uri)
        assert facts(found) == facts(select(parse_query(text), everything)), text
        sizes.append(len(found))
    assert sum(size > 0 for size in sizes) > 4
