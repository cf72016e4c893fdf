"""The registered model as MLflow's pyfunc: the same answers as ours, and a row for every video."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model
from mlflow_server import free_port

from conftest import tiny_spec
from reelscribe.pipeline.answers import CaptionPrediction, FramesPrediction, LabelsPrediction, ValuePrediction
from reelscribe.pipeline.bundle import ModelBundle, new_captioner, new_recognizer, num_outputs, save_bundle
from reelscribe.pipeline.config import Task
from reelscribe.pipeline.predictor import Predictor
from reelscribe.pipeline.tracking.connection import quiet
from reelscribe.pipeline.tracking.pyfunc import VideoLabeller, columns, input_example, signature
from reelscribe.pipeline.tracking.registry import fetch_model, register_model
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.video.clip import read_clip
from reelscribe.pipeline.video.writer import write_video
from reelscribe.pipeline.vocabulary import SPECIAL


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two good files, one of noise that is no video, one that is not there."""
    folder = tmp_path_factory.mktemp("videos")
    for name, seed in (("a b.mp4", 1), ("ü.mp4", 2)):
        rng = np.random.default_rng(seed)
        write_video(folder / name, rng.integers(0, 255, (30, 32, 48, 3), np.uint8), frame_rate=10)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(3).bytes(5000))
    return [str(folder / name) for name in ("a b.mp4", "noise.mp4", "ü.mp4", "absent.mp4")]


@pytest.fixture(scope="session")
def registered(sqlite_uri: str, bundle: ModelBundle) -> str:
    """The folder that MLflow keeps for a registered model."""
    with RunTracker(uri=sqlite_uri, experiment="pyfunc") as run:
        version = register_model(bundle.folder, run_id=run.run_id, name="served", alias="champion", uri=sqlite_uri)
    return str(fetch_model(f"models:/served/{version.version}", uri=sqlite_uri).folder.parents[1])


def load_model(folder: str) -> Any:
    with quiet():
        import mlflow.pyfunc

        return mlflow.pyfunc.load_model(folder)


def expected(bundle: ModelBundle, uri: str, start_s: float | None = None, end_s: float | None = None) -> dict[str, Any]:
    (prediction,) = Predictor(bundle)([read_clip(bundle.request(uri, start_s, end_s))])
    return {"label": prediction.label, "confidence": prediction.confidence, "top_k": [list(pair) for pair in prediction.top_k]}


def test_mlflow_loads_it_and_answers_as_the_predictor_does(registered: str, bundle: ModelBundle, videos: list[str]) -> None:
    model = load_model(registered)
    answer = model.predict(pd.DataFrame({"uri": videos}))
    assert list(answer.columns) == list(columns("single_label"))
    assert answer["uri"].tolist() == videos
    for row in (0, 2):
        got = {"label": answer["label"][row], "confidence": answer["confidence"][row], "top_k": json.loads(answer["top_k"][row])}
        assert got == expected(bundle, videos[row])
        assert pd.isna(answer["failure"][row])
    assert answer["failure"].tolist()[1::2] == ["not_a_video", "not_found"]
    assert answer["label"].isna().tolist() == [False, True, False, True]
    assert all(answer["cause"][row] for row in (1, 3))


def test_a_part_of_a_file(registered: str, bundle: ModelBundle, videos: list[str]) -> None:
    model = load_model(registered)
    table = pd.DataFrame({"uri": [videos[0], videos[0]], "start_s": [1.0, None], "end_s": [2.0, None]})
    answer = model.predict(table)
    assert json.loads(answer["top_k"][0]) == expected(bundle, videos[0], 1.0, 2.0)["top_k"]
    assert json.loads(answer["top_k"][1]) == expected(bundle, videos[0])["top_k"]
    assert answer["top_k"][0] != answer["top_k"][1]


def test_an_empty_table(registered: str) -> None:
    empty = load_model(registered).predict(pd.DataFrame({"uri": pd.Series([], dtype=str)}))
    assert (list(empty.columns), len(empty)) == (list(columns("single_label")), 0)


def test_the_model_says_what_goes_in_and_out(registered: str) -> None:
    info = Model.load(registered)
    assert info.signature == signature("single_label")
    assert info.flavors["python_function"]["loader_module"] == "reelscribe.pipeline.tracking.pyfunc"
    example = json.loads((Path(registered) / "input_example.json").read_text())
    assert example == {"columns": list(input_example().columns), "data": input_example().to_numpy().tolist()}


@pytest.mark.parametrize(
    ("task", "labels"),
    [("multi_label", ("rennen", "üben")), ("value", ()), ("dense", ("background", "üben")), ("caption", (*SPECIAL, "rennen", "üben"))],
)
def test_other_tasks_answer_as_the_predictor_does(task: Task, labels: tuple[str, ...], videos: list[str], tmp_path: Path) -> None:
    spec = tiny_spec(task=task, labels=labels)
    if task == "caption":
        state = new_captioner(spec.model, spec.transform, spec.caption, num_tokens=len(labels)).state_dict()
    else:
        state = new_recognizer(spec.model, spec.transform, num_classes=num_outputs(labels), per_frame=task == "dense").state_dict()
    bundle = save_bundle(tmp_path / "model", spec=spec, state=state, card="")
    (said,) = Predictor(bundle)([read_clip(bundle.request(videos[0]))])
    answer = VideoLabeller(bundle).predict(pd.DataFrame({"uri": videos[:2]}))
    assert tuple(answer.columns) == columns(task) == tuple(signature(task).outputs.input_names())
    assert answer["failure"].tolist() == [None, "not_a_video"]
    whole = answer.iloc[0]
    match said:
        case CaptionPrediction():
            assert (whole["label"], whole["confidence"]) == (said.label, said.confidence)
            assert json.loads(whole["top_k"]) == [list(pair) for pair in said.top_k]
        case LabelsPrediction():
            assert json.loads(whole["labels"]) == list(said.labels)
            assert json.loads(whole["top_k"]) == [list(pair) for pair in said.top_k]
        case ValuePrediction():
            assert whole["value"] == said.value
        case FramesPrediction():
            assert json.loads(whole["segments"]) == [list(segment) for segment in said.segments]
        case _:
            pytest.fail(f"{said} is of another task")


@pytest.mark.slow
def test_mlflow_serves_it_over_http(registered: str, bundle: ModelBundle, videos: list[str], tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", registered, "-h", "127.0.0.1", "-p", str(port)]
    command += ["--env-manager", "local", "--workers", "1"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        _wait(f"http://127.0.0.1:{port}/ping", server, tmp_path / "log")
        body = json.dumps({"dataframe_records": [{"uri": videos[0]}, {"uri": videos[3]}]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            text = response.read().decode()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
    assert "NaN" not in text  # which is no JSON
    rows = json.loads(text)["predictions"]
    assert (rows[0]["label"], rows[0]["failure"]) == (expected(bundle, videos[0])["label"], None)
    assert rows[0]["confidence"] == pytest.approx(expected(bundle, videos[0])["confidence"], abs=1e-6)
    assert (rows[1]["label"], rows[1]["confidence"], rows[1]["failure"]) == (None, None, "not_found")


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"mlflow models serve did not start:\n{log.read_text()[-2000:]}")


def test_a_users_own_mlflow_loads_it_by_alias_from_a_server(
    server_uri: str, bundle: ModelBundle, videos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunTracker(uri=server_uri, experiment="pyfunc") as run:
        register_model(bundle.folder, run_id=run.run_id, name="remote", alias="champion", uri=server_uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_uri)
    answer = load_model("models:/remote@champion").predict(pd.DataFrame({"uri": videos[:1]}))
    assert answer["confidence"][0] == expected(bundle, videos[0])["confidence"]
    # and MLflow's own pages find the model under its run
    with urllib.request.urlopen(f"{server_uri}/api/2.0/mlflow/runs/get?run_id={run.run_id}", timeout=30) as response:
        outputs = json.load(response)["run"]["outputs"]["model_outputs"]
    assert len(outputs) == 1
