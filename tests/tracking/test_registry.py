"""Register, find, fetch and promote, on SQLite and on a server, also while others do so or die."""

from __future__ import annotations

import getpass
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from registering import processes, register_and_die, train_and_register

from conftest import tiny_spec
from reelscribe.pipeline.bundle import ModelBundle, load_bundle, save_bundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.labeling.job import JobOptions
from reelscribe.pipeline.labeling.launch import label_videos
from reelscribe.pipeline.labeling.store import read_labels
from reelscribe.pipeline.labeling.work import JobSummary
from reelscribe.pipeline.tracking.lineage import lineage
from reelscribe.pipeline.tracking.query import query_versions
from reelscribe.pipeline.tracking.registry import (
    ModelVersion,
    alias_history,
    compare,
    fetch_model,
    list_models,
    promote,
    register_model,
    rollback,
    show_model,
)
from reelscribe.pipeline.tracking.runs import RunTracker

Register = Callable[..., ModelVersion]


@pytest.fixture
def register(uri: str, bundle: ModelBundle) -> Register:
    def register(name: str, alias: str = "champion") -> ModelVersion:
        with RunTracker(uri=uri, experiment="registry", run_name="maker") as run:
            run.log_params({"model": {"recurrent": "gru"}})
            run.log_metrics({"val/top1": 0.5})
            return register_model(bundle.folder, run_id=run.run_id, name=name, alias=alias, uri=uri)

    return register


def test_a_version_in_full(uri: str, register: Register, bundle: ModelBundle, capfd: pytest.CaptureFixture[str]) -> None:
    version = register("full")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert (version.name, version.version, version.aliases, version.status) == ("full", 1, ("champion",), "READY")
    assert version.metrics == {"val/top1": 0.5, "top1": 0.93}
    assert version.params == {"model.recurrent": "gru"}
    assert version.tags["reelscribe.weights_digest"] == bundle.weights_digest
    assert version.tags["reelscribe.data_digest"] == "d" * 64
    assert version.tags["reelscribe.labels"] == '["left", "right", "winken üben"]'

    again = register("full")
    assert (again.version, again.aliases) == (2, ("champion",))
    (model,) = [model for model in list_models(uri=uri) if model.name == "full"]
    assert (model.aliases, model.latest_version) == ({"champion": 2}, 2)
    details = show_model("full", uri=uri)
    assert (details.lineage.run_id, details.lineage.uses[0].version.version) == (again.run_id, 2)
    assert (details.version.version, details.card, details.problem) == (2, "# Tiny\n\nFor tests.\n", "")
    assert show_model("models:/full/1", uri=uri).version.aliases == ()


def test_every_name_leads_to_the_same_files(uri: str, register: Register, bundle: ModelBundle) -> None:
    version = register("names", "live")
    names = [f"models:/names/{version.version}", "models:/names@live", f"runs:/{version.run_id}", f"runs:/{version.run_id}/model"]
    for name in names:
        model = fetch_model(name, uri=uri)
        assert load_bundle(model.folder).weights_digest == bundle.weights_digest
        assert (model.run_id, model.name, model.alias) == (
            version.run_id,
            "names" if name.startswith("models") else None,
            "live" if "@" in name else None,
        )
    plain = fetch_model(str(bundle.folder), uri=uri)
    assert (plain.folder, plain.name, plain.run_id) == (bundle.folder, None, None)


def test_wrong_names_name_the_nearest_right_one(uri: str, register: Register, tmp_path: Path) -> None:
    version = register("gestures")
    wrong = {
        "models:/gesture@champion": "did you mean 'gestures'.*registered: .*gestures",
        "models:/gestures@champoin": "did you mean 'champion'.*@champion -> ",
        "models:/gestures/99": "no version 99.*newest version",
        "models:/gestures": "chooses no version.*models:/gestures@champion",
        "models:/gestures/latest": "did you mean 'models:/gestures@latest'",
        "models:/": "names no model",
        "models:/gestures@": "names no alias",
        "gestures@champion": "did you mean 'models:/gestures@champion'",
        "runs:/0123": "no run '0123'",
        f"runs:/{version.run_id}/modle": "did you mean 'model'",
        str(tmp_path): "holds no model",
        str(tmp_path / "absent"): "no model folder",
    }
    for name, says in wrong.items():
        with pytest.raises(ModelError, match=says):
            fetch_model(name, uri=uri)


def test_promote_says_what_it_moved(uri: str, register: Register) -> None:
    register("moves")
    register("moves", "")
    assert [(p.before, p.after) for p in (promote("models:/moves/2", to="champion", uri=uri),)] == [(1, 2)]
    assert [(p.before, p.after) for p in (promote("moves@champion", to="previous", uri=uri),)] == [(None, 2)]
    assert [(p.before, p.after) for p in (promote("moves/2", to="champion", uri=uri),)] == [(2, 2)]
    assert MlflowClient(tracking_uri=uri).get_model_version_by_alias("moves", "champion").version in (2, "2")
    with pytest.raises(ModelError, match=r"alias 'v3'.*reserved"):
        promote("moves/2", to="v3", uri=uri)
    with pytest.raises(ModelError, match="no version 7"):
        promote("moves/7", to="champion", uri=uri)


def test_mlflow_holds_no_pickle_and_few_pins(uri: str, register: Register) -> None:
    folder = fetch_model(f"models:/safe/{register('safe').version}", uri=uri).folder.parents[1]
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    assert {"MLmodel", "requirements.txt", "data/bundle/model.json", "data/bundle/weights.safetensors", "data/bundle/README.md"} < set(
        files
    )
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".py"))]
    pins = (folder / "requirements.txt").read_text().splitlines()
    assert len(pins) <= 8
    assert all("==" in pin and "+" not in pin for pin in pins)


def test_a_changed_file_is_refused(uri: str, register: Register) -> None:
    name = f"models:/bent/{register('bent').version}"
    folder = fetch_model(name, uri=uri).folder
    card = folder / "README.md"
    card.write_text("another card")
    with pytest.raises(ModelError, match="not those that were registered"):
        fetch_model(name, uri=uri)


def test_a_download_is_kept_and_never_partial(
    server_uri: str, bundle: ModelBundle, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunTracker(uri=server_uri, experiment="cache") as run:
        register_model(bundle.folder, run_id=run.run_id, name="cached", alias="champion", uri=server_uri)
    first = fetch_model("models:/cached@champion", uri=server_uri).folder
    assert first.is_relative_to(own_cache)
    stamp = (first / "weights.safetensors").stat().st_mtime_ns
    assert fetch_model("models:/cached/1", uri=server_uri).folder == first
    assert (first / "weights.safetensors").stat().st_mtime_ns == stamp

    import mlflow.artifacts

    real = mlflow.artifacts.download_artifacts

    def cut(**keywords: str) -> str:
        folder = Path(real(**keywords))
        weights = next(folder.rglob("weights.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-100])
        return str(folder)

    shutil.rmtree(own_cache)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", cut)
    with pytest.raises(ModelError, match="only partly copied"):
        fetch_model("models:/cached/1", uri=server_uri)
    assert list(own_cache.iterdir()) == []


def test_files_that_are_gone_are_said(sqlite_uri: str, bundle: ModelBundle) -> None:
    with RunTracker(uri=sqlite_uri, experiment="gone") as run:
        register_model(bundle.folder, run_id=run.run_id, name="gone", alias="", uri=sqlite_uri)
    shutil.rmtree(fetch_model("models:/gone/1", uri=sqlite_uri).folder.parents[1])
    with pytest.raises(ModelError, match="were they moved"):
        fetch_model("models:/gone/1", uri=sqlite_uri)
    assert "were they moved" in show_model("gone", uri=sqlite_uri).problem


def test_a_model_of_another_tool_is_not_ours(sqlite_uri: str, tmp_path: Path) -> None:
    with RunTracker(uri=sqlite_uri, experiment="foreign") as run:
        run.log_text("flavors: {}", "other/MLmodel")
    with pytest.raises(ModelError, match="another tool"):
        fetch_model(f"runs:/{run.run_id}/other", uri=sqlite_uri)
    with pytest.raises(ModelError, match="holds no model"):
        fetch_model(f"runs:/{run.run_id}", uri=sqlite_uri)


@pytest.mark.slow
def test_two_processes_register_at_once_into_a_store_that_is_not_there_yet(tmp_path: Path, bundle: ModelBundle) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    context = processes()
    workers = [context.Process(target=train_and_register, args=(uri, str(bundle.folder), "shared", "champion")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    versions = MlflowClient(tracking_uri=uri).search_model_versions("name = 'shared'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    assert list_models(uri=uri)[0].aliases["champion"] in (1, 2)


@pytest.mark.slow
def test_a_process_killed_at_any_step_leaves_the_alias_on_the_old_complete_version(
    uri: str, register: Register, bundle: ModelBundle, tmp_path: Path
) -> None:
    register("killed")
    other = save_bundle(tmp_path / "other", spec=tiny_spec(temperature=2.0), state=bundle.build().state_dict(), card="another\n")
    context = processes()
    steps = ["log_model_artifacts", "finalize_logged_model", "create_model_version", "set_registered_model_alias"]
    for step in steps:
        worker = context.Process(target=register_and_die, args=(uri, str(other.folder), "killed", step))
        worker.start()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        model = fetch_model("models:/killed@champion", uri=uri)
        assert (model.version, load_bundle(model.folder).spec.temperature) == ("1", 1.0)
        # every version that is visible at all is complete
        for version in MlflowClient(tracking_uri=uri).search_model_versions("name = 'killed'"):
            fetch_model(f"models:/killed/{version.version}", uri=uri)
    assert register("killed").version == 3


def test_moves_are_written_down_and_taken_back_one_by_one(uri: str, register: Register) -> None:
    register("history")
    register("history")
    register("history", "")
    promote("history/3", to="champion", uri=uri, why="besser bei Nacht")
    moves = alias_history("history", uri=uri)
    assert [(move.alias, move.before, move.after) for move in moves] == [("champion", 2, 3), ("champion", 1, 2), ("champion", None, 1)]
    assert (moves[0].why, moves[0].undoes) == ("besser bei Nacht", None)
    assert moves[0].who == getpass.getuser()
    assert moves[0].when > moves[1].when > moves[2].when

    back = [rollback("models:/history", alias="champion", uri=uri) for _ in range(2)]
    assert [(move.before, move.after) for move in back] == [(3, 2), (2, 1)]
    assert fetch_model("models:/history@champion", uri=uri).version == "1"
    promote("history/3", to="champion", uri=uri)
    assert rollback("history", alias="champion", uri=uri).after == 1
    assert rollback("history", alias="champion", uri=uri).after is None
    assert show_model("history", uri=uri).model.aliases == {}
    with pytest.raises(ModelError, match="no recorded move"):
        rollback("history", alias="champion", uri=uri)

    promote("history/1", to="champion", uri=uri)
    MlflowClient(tracking_uri=uri).set_registered_model_alias("history", "champion", "2")
    with pytest.raises(ModelError, match="another tool"):
        rollback("history", alias="champion", uri=uri)


def test_two_versions_side_by_side(uri: str, register: Register, tmp_path: Path, bundle: ModelBundle) -> None:
    register("pair")
    recalls = {"left": 0.75, "right": 0.5, "stop": 1.0}
    spec = tiny_spec(labels=tuple(recalls), metrics={"top1": 0.95, "ece": 0.02}, label_measure="recall", label_scores=recalls)
    other = save_bundle(tmp_path / "other", spec=spec, state=bundle.build().state_dict(), card="")
    with RunTracker(uri=uri, experiment="registry") as run:
        run.log_params({"model": {"recurrent": "lstm"}, "seed": 1})
        register_model(other.folder, run_id=run.run_id, name="pair", alias="challenger", uri=uri)
    both = compare("models:/pair@champion", "models:/pair@challenger", uri=uri)
    assert {pair.name: (pair.first, pair.second) for pair in both.metrics} == {
        "ece": (None, 0.02),
        "top1": (0.93, 0.95),
        "val/top1": (0.5, None),
    }
    assert [pair.gain for pair in both.metrics] == [None, pytest.approx(0.02), None]
    assert [(pair.name, pair.first, pair.second) for pair in both.params] == [("model.recurrent", "gru", "lstm"), ("seed", None, "1")]
    assert (both.labels_lost, both.labels_gained, both.same_labels) == (("winken üben",), ("stop",), False)
    assert (both.same_data, both.same_weights) == (True, True)
    assert [(pair.label, pair.first, pair.second, pair.gain) for pair in both.label_scores] == [
        ("right", 1.0, 0.5, -0.5),
        ("left", 0.25, 0.75, 0.5),
    ]
    assert both.label_measure == "recall"


def test_eight_clients_at_once(server_uri: str, bundle: ModelBundle) -> None:
    with RunTracker(uri=server_uri, experiment="eight") as run:
        run.log_metrics({"eight": 8.0})
        for _ in range(2):
            register_model(bundle.folder, run_id=run.run_id, name="eight", alias="", uri=server_uri)

    def client(number: int) -> tuple[int, list[int]]:
        for version in (1, 2):
            promote(f"eight/{version}", to=f"alias-{number}", uri=server_uri)
        rollback("eight", alias=f"alias-{number}", uri=server_uri)
        found = query_versions(f"name = 'eight' and metrics.eight = 8 and (alias = 'alias-{number}' or version > 99)", uri=server_uri)
        return number, [version.version for version in found]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(client, range(8))) == [(number, [1]) for number in range(8)]
    assert len(alias_history("eight", uri=server_uri)) == 24


def test_a_run_that_is_deleted_under_a_reader(uri: str, register: Register, server_database: Path) -> None:
    version = register("orphan")
    client = MlflowClient(tracking_uri=uri)
    client.delete_run(str(version.run_id))
    assert show_model("orphan", uri=uri).version.metrics["top1"] == 0.93
    database = server_database if uri.startswith("http") else Path(uri.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:  # as `mlflow gc` does
        for table in ("metrics", "latest_metrics", "params", "tags", "inputs", "runs"):
            column = {"inputs": "destination_id"}.get(table, "run_uuid")
            connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (version.run_id,))
    for found in (show_model("orphan", uri=uri).version, query_versions("name = 'orphan' and metrics.top1 > 0.9", uri=uri)[0]):
        assert (found.version, dict(found.metrics), dict(found.params)) == (version.version, {"top1": 0.93}, {})
    assert lineage("models:/orphan@champion", uri=uri)[0].status == "gone"
    assert fetch_model("models:/orphan@champion", uri=uri).version == str(version.version)


def test_a_version_that_is_deleted_while_it_labels(uri: str, register: Register, drawn: Path, tmp_path: Path) -> None:
    """The job goes on to its end; a new one is told what is left, and the rows stay as they are."""
    register("leaving")
    register("leaving", alias="next")

    @contextmanager
    def deleting(_: str) -> Iterator[Callable[..., None]]:
        def advance(done: int, total: int, words: str) -> None:
            if done == 1:
                MlflowClient(tracking_uri=uri).delete_model_version("leaving", "1")

        yield advance

    def label() -> JobSummary:
        options = JobOptions(shard_size=2, decode=DecodeConfig(workers=1))
        out = str(tmp_path / "out")
        return label_videos("models:/leaving/1", str(drawn / "videos"), out=out, options=options, tracking=uri, progress=deleting)

    done = label()
    labels = read_labels(tmp_path / "out")
    assert done.labelled == labels.num_rows > 2
    assert set(labels["model_version"].to_pylist()) == {"1"}
    with pytest.raises(ModelError, match=r"'leaving' has no version 1 \(aliases: @next -> 2"):
        label()
    assert read_labels(tmp_path / "out").equals(labels)
