"""What a run leaves in MLflow, read back by MLflow's own client."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from reelscribe.pipeline.errors import ConfigError
from reelscribe.pipeline.tracking.provenance import repeat_command
from reelscribe.pipeline.tracking.runs import RunTracker, flatten


def test_a_run_in_full(uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a b.txt").write_text("inside")
    (tmp_path / "curve ä.txt").write_text("curve")
    with RunTracker(uri=uri, experiment="full", run_name="first", seed=17, tags={"team": "ops"}) as run:
        run.log_params({"model": {"recurrent": "gru", "layers": 2}, "flags": [1, None], "on": True, "rate": 1e-3})
        run.log_params({f"many.{i}": i for i in range(250)})
        for epoch in range(3):
            run.log_metrics({"val/loss": 1.0 / (epoch + 1), "recall(left)": math.nan}, epoch)
        run.log_artifact(tmp_path / "curve ä.txt", "pictures")
        run.log_artifact(tmp_path / "folder")
        run.log_dataset(name="gestures", source="some/labels.csv", digest="ab" * 32, context="training", num_rows=132)
        run.set_tags({"late": "yes"})
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")

    client = MlflowClient(tracking_uri=uri)
    found = client.get_run(run.run_id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert found.info.end_time is not None
    assert found.data.params["model.recurrent"] == "gru"
    assert {k: v for k, v in found.data.params.items() if k in ("flags", "on", "rate", "many.249")} == {
        "flags": "[1, null]",
        "on": "true",
        "rate": "0.001",
        "many.249": "249",
    }
    history = client.get_metric_history(run.run_id, "val/loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, 1.0 / 3.0)]
    assert math.isnan(found.data.metrics["recall_left_"])
    assert found.data.tags["reelscribe.seed"] == "17"
    assert found.data.tags["team"] == "ops"
    assert found.data.tags["late"] == "yes"
    assert found.data.tags["reelscribe.version.mlflow"]
    assert found.data.tags["reelscribe.command"] == repeat_command()
    assert len(found.data.tags["mlflow.source.git.commit"]) == 40
    assert found.data.tags["reelscribe.git_dirty"] in ("true", "false")
    (data,) = found.inputs.dataset_inputs
    assert data.dataset.digest == ("ab" * 32)[:36]
    assert json.loads(data.dataset.profile) == {"num_rows": 132}
    assert {tag.key: tag.value for tag in data.tags} == {"mlflow.data.context": "training", "reelscribe.digest": "ab" * 32}
    files = {file.path for folder in (None, "pictures", "folder") for file in client.list_artifacts(run.run_id, folder)}
    assert {"environment.txt", "pictures/curve ä.txt", "folder/a b.txt"} <= files


def test_the_files_of_a_sqlite_store_lie_beside_it(sqlite_uri: str) -> None:
    with RunTracker(uri=sqlite_uri, experiment="beside") as run:
        pass
    store = Path(sqlite_uri.removeprefix("sqlite:///"))
    assert [file.read_text()[:0] for file in store.parent.glob(f"artifacts/beside/{run.run_id}/artifacts/environment.txt")] == [""]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("loss is not finite"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "FAILED"), (SystemExit(0), "FINISHED")],
)
def test_how_a_run_ended(sqlite_uri: str, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), RunTracker(uri=sqlite_uri, experiment="ends") as run:
        raise error
    found = MlflowClient(tracking_uri=sqlite_uri).get_run(run.run_id)
    assert found.info.status == status
    assert found.data.tags.get("reelscribe.error", "") == ("" if status == "FINISHED" else f"{type(error).__name__}: {error}")


def test_child_runs(sqlite_uri: str) -> None:
    with RunTracker(uri=sqlite_uri, experiment="folds", run_name="all") as parent:
        ids = []
        for fold in range(2):
            with RunTracker(uri=sqlite_uri, experiment="folds", run_name=f"fold {fold}", parent_run_id=parent.run_id) as child:
                ids.append(child.run_id)
    client = MlflowClient(tracking_uri=sqlite_uri)
    experiment = client.get_experiment_by_name("folds")
    children = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent.run_id}'")
    assert sorted(run.info.run_id for run in children) == sorted(ids)


def test_a_deleted_experiment_is_said(sqlite_uri: str) -> None:
    client = MlflowClient(tracking_uri=sqlite_uri)
    with RunTracker(uri=sqlite_uri, experiment="binned"):
        pass
    client.delete_experiment(client.search_experiments(ViewType.ACTIVE_ONLY, filter_string="name = 'binned'")[0].experiment_id)
    with pytest.raises(ConfigError, match=r"binned.*deleted.*restore"):
        RunTracker(uri=sqlite_uri, experiment="binned").__enter__()


def test_a_closed_tracker_refuses_to_log(sqlite_uri: str) -> None:
    with pytest.raises(RuntimeError, match="with statement"):
        RunTracker(uri=sqlite_uri, experiment="x").log_metrics({"a": 1.0})


def test_flatten_keeps_text_and_writes_the_rest_as_json() -> None:
    assert flatten({"a": {"b": {"c": "x"}}, "d": None, "e": (1, 2), "f": False}) == {"a.b.c": "x", "d": "null", "e": "[1, 2]", "f": "false"}


def test_the_command_that_repeats_a_run_is_the_one_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text("from reelscribe.pipeline.tracking.provenance import repeat_command\nprint(repeat_command())\n")
    arguments = ["a b", "http://me:secret@store/x"]

    def said(*program: str) -> str:
        command = [sys.executable, *program, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    for program, words in ((("-m", "said"), "python -m said 'a b' "), (("said.py",), "said.py 'a b' ")):
        assert said(*program).startswith(words)
        assert "secret" not in said(*program)
