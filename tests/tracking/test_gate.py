"""The gate on real models and a real store: what it refuses, what it moves, what it leaves behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient

from conftest import tiny_spec
from reelscribe.pipeline.answers import AnyPrediction, FramesPrediction, LabelsPrediction
from reelscribe.pipeline.bundle import ModelBundle, new_recognizer, save_bundle
from reelscribe.pipeline.config import Task
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import ConfigError, ManifestError, ModelError, PromotionError
from reelscribe.pipeline.promotion import GateResult, promote_by_gate
from reelscribe.pipeline.tracking import aliases
from reelscribe.pipeline.tracking.evidence import bootstrap_means
from reelscribe.pipeline.tracking.gate import Answers, GateConfig, judge, load_gate
from reelscribe.pipeline.tracking.registry import GATE_TAG, alias_history, promote, register_model, show_model, take_over
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.training.scores.by_clip import clip_scores
from reelscribe.pipeline.training.scores.evaluation import Evaluation
from reelscribe.pipeline.training.scores.metrics import ValueScores
from reelscribe.pipeline.video.writer import write_video

FILE = Path(__file__).resolve().parents[2] / "configs" / "gate.yaml"
LABELS = ("left", "right", "winken üben")


def always(bundle: ModelBundle, label: int, folder: Path) -> ModelBundle:
    """A model that names one label whatever it sees."""
    state = bundle.build().state_dict()
    bias = max((name for name in state if name.endswith("bias") and state[name].shape == (3,)), key=len)
    state[bias] = 100.0 * torch.eye(3)[label]
    return save_bundle(folder, spec=tiny_spec(), state=state, card="")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips: nine are 'right', three 'left'; one of these is no video."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(12):
        write_video(folder / f"{i}.mp4", np.random.default_rng(i).integers(0, 255, (5, 16, 16, 3), np.uint8), frame_rate=5)
    (folder / "11.mp4").write_text("broken")
    rows = [f"{i}.mp4,{'right' if i < 9 else 'left'},{'test' if i != 8 else 'train'}" for i in range(12)]
    (folder / "labels.csv").write_text("\n".join(["path,label,split", *rows, ""]))
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def two(sqlite_uri: str, bundle: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Version 1 always says left, version 2 always right, version 3 always left again; version 1 is the champion."""
    folder = tmp_path_factory.mktemp("versions")
    with RunTracker(uri=sqlite_uri, experiment="gate") as run:
        for number, label in enumerate((0, 1, 0)):
            made = always(bundle, label, folder / str(number))
            register_model(made.folder, run_id=run.run_id, name="gated", alias="" if number else "champion", uri=sqlite_uri)
    return sqlite_uri


def gate_of(manifest: Path, **changes: Any) -> GateConfig:
    return GateConfig.model_validate(
        {
            "data": {"manifest": str(manifest), "min_clips": 10, **changes.pop("data", {})},
            "gain": {"level": 0.1},
            "limits": {"class_loss": 1, "slowdown": 1000, "ece_loss": 1, **changes.pop("limits", {})},
            "device": "cpu",
            "decode": {"workers": 1},
            **changes,
        }
    )


def run_gate(uri: str, gate: GateConfig, model: str = "models:/gated/2", to: str = "champion", **options: Any) -> GateResult:
    return promote_by_gate(model, to=to, gate=gate, tracking=uri, progress=progress, **options)


def test_a_gate_moves_refuses_and_keeps_its_evidence(two: str, manifest: Path) -> None:
    refused = run_gate(two, gate_of(manifest, limits={"class_loss": 0.1}))
    assert {check.name: check.passed for check in refused.checks} == {
        "clips": True,
        "gain": True,
        "labels one by one": False,
        "calibration": True,
        "speed": True,
        "label map": True,
    }
    found = {check.name: check.found for check in refused.checks}
    assert found["clips"] == "10 (at least 10)"  # eleven rows, one of them no video for either
    assert found["gain"] == "top1 0.2000 -> 0.8000, 8 clips won, 2 lost; mcnemar p = 0.0547 (at most 0.1)"
    assert "left 1.000 -> 0.000 of 2 clips" in found["labels one by one"]
    assert (refused.moved, refused.passed) == (None, False)
    assert show_model("gated", uri=two).version.version == 1

    dry = run_gate(two, gate_of(manifest), dry_run=True)
    assert (dry.passed, dry.moved) == (True, None)
    passed = run_gate(two, gate_of(manifest, data={"digest": dry.data_digest}), why="bei Nacht besser")
    assert passed.moved is not None
    assert (passed.moved.before, passed.moved.after) == (1, 2)
    version = show_model("models:/gated/2", uri=two).version
    kept = [json.loads(version.tags[key]) for key in sorted(version.tags) if key.startswith(GATE_TAG)]
    assert [evidence["passed"] for evidence in kept] == [False, True]
    assert kept[1]["champion"] == 1
    assert kept[1]["data_digest"] == dry.data_digest
    assert [check["name"] for check in kept[1]["checks"]] == list(found)
    assert alias_history("gated", uri=two)[0].why.startswith("bei Nacht besser; passed a gate")

    with pytest.raises(ModelError, match="holds @champion already"):
        run_gate(two, gate_of(manifest))
    worse = run_gate(two, gate_of(manifest), "models:/gated/3")
    assert [check.name for check in worse.checks if not check.passed] == ["gain"]
    with pytest.raises(ManifestError, match=r"not those of this gate.*data\.digest"):
        run_gate(two, gate_of(manifest, data={"digest": "0" * 64}), "models:/gated/3")


def test_where_nobody_holds_the_alias_the_commonest_label_is_to_be_beaten(two: str, manifest: Path) -> None:
    result = run_gate(two, gate_of(manifest), to="live")
    assert (result.champion, result.passed) == (None, False)
    assert "top1 0.8000 -> 0.8000" in result.checks[1].found


def test_a_second_promoter_is_told(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    version = show_model("models:/gated/3", uri=two).version
    promote("gated/1", to="raced", uri=two)
    with pytest.raises(PromotionError, match=r"was held by version 2 when this began and is held by version 1 now"):
        take_over(version, "raced", expected=2, why="", uri=two)
    assert take_over(version, "raced", expected=1, why="", uri=two).after == 3

    real = MlflowClient.set_registered_model_alias

    def between(self: MlflowClient, name: str, alias: str, number: str) -> None:
        monkeypatch.setattr(MlflowClient, "set_registered_model_alias", real)
        promote("gated/1", to="raced", uri=two)
        real(self, name, alias, number)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", between)
    second = replace(version, version=2)
    with pytest.raises(PromotionError, match=r"by somebody else at the same moment \(\w+ moved it from version 3 to version 1\)"):
        take_over(second, "raced", expected=3, why="", uri=two)

    def after(self: MlflowClient, name: str, key: str, value: str) -> None:
        real(self, name, "raced", "1")
        monkeypatch.undo()
        self.set_registered_model_tag(name, key, value)

    monkeypatch.setattr(MlflowClient, "set_registered_model_tag", after)
    with pytest.raises(PromotionError, match=r"another tool moved it\); it is held by version 1 now"):
        take_over(version, "raced", expected=2, why="", uri=two)
    assert aliases.moves_of(show_model("gated", uri=two).model)


def test_each_check_says_its_numbers() -> None:
    gate = GateConfig.model_validate({"data": {"manifest": "x"}})
    truth = np.repeat([0, 1], 60)
    champion = Answers(labels=("a", "b"), answers=np.where(np.arange(120) % 3 == 0, 1 - truth, truth), ece=0.05, clip_s=0.010)
    better = Answers(labels=("a", "b"), answers=truth, ece=0.02, clip_s=0.012)
    assert all(check.passed for check in judge(gate, truth, ("a", "b"), champion, better))
    changes: list[tuple[dict[str, Any], str, str]] = [
        ({"ece": 0.2}, "calibration", "calibration error 0.0500 -> 0.2000 (at most 0.05 more)"),
        ({"clip_s": 0.02}, "speed", "10.0 -> 20.0 ms a clip, 2.00 times (at most 1.5)"),
        ({"labels": ("b", "a")}, "label map", "the same in another order"),
        ({"labels": ("a", "c")}, "label map", "lost: b; new: c"),
        ({"answers": champion.answers}, "gain", "0 clips won, 0 lost; mcnemar p = 1.0000 (at most 0.05)"),
        ({"answers": np.where(truth == 0, 0, -1)}, "labels one by one", "b 0.667 -> 0.000 of 60 clips"),
    ]
    for change, name, words in changes:
        failed = {
            check.name: check.found for check in judge(gate, truth, ("a", "b"), champion, replace(better, **change)) if not check.passed
        }
        assert words in failed[name]
    few = judge(gate, truth[:50], ("a", "b"), replace(champion, answers=champion.answers[:50]), replace(better, answers=truth[:50]))
    assert [(check.name, check.found) for check in few if not check.passed] == [("clips", "50 (at least 100)")]
    boot = GateConfig.model_validate({"data": {"manifest": "x"}, "gain": {"test": "bootstrap", "metric": "macro_f1"}})
    assert "macro_f1 0.6667 -> 1.0000" in judge(boot, truth, ("a", "b"), champion, better)[1].found


def test_a_gate_of_values_compares_errors(sqlite_uri: str, manifest: Path, bundle: ModelBundle, tmp_path: Path) -> None:
    """Models that say about the same number of every video: 9, then 5.1, then 5."""
    rows = [line.split(",") for line in manifest.read_text().splitlines()[1:]]
    values = manifest.parent / "values.csv"
    values.write_text("path,value,split\n" + "".join(f"{path},{5 + i % 2},{split}\n" for i, (path, _, split) in enumerate(rows)))
    network = new_recognizer(tiny_spec().model, tiny_spec().transform, num_classes=1, seed=5)
    with RunTracker(uri=sqlite_uri, experiment="gate") as run:
        for number, mean in enumerate((9.0, 5.1, 5.0)):
            spec = tiny_spec(task="value", labels=(), value_mean=mean, value_deviation=1e-6, label_scores={}, label_measure="")
            made = save_bundle(tmp_path / str(number), spec=spec, state=network.state_dict(), card="")
            register_model(made.folder, run_id=run.run_id, name="values", alias="" if number else "champion", uri=sqlite_uri)
    with pytest.raises(ConfigError, match=r"gain.metric=top1 is not for task=value: set gain.test=bootstrap and gain.metric=mae"):
        run_gate(sqlite_uri, gate_of(values), "models:/values/2")
    gate = gate_of(values, gain={"test": "bootstrap", "metric": "mae"})
    passed = run_gate(sqlite_uri, gate, "models:/values/2")
    assert (passed.passed, passed.moved is not None) == (True, True)
    assert [check.name for check in passed.checks] == ["clips", "gain", "speed"]
    assert passed.checks[1].found.startswith("mae 3.5000 -> 0.5000 of a clip; bootstrap p = 0.0")
    alike = run_gate(sqlite_uri, gate, "models:/values/3")
    assert [check.name for check in alike.checks if not check.passed] == ["gain"]
    first = run_gate(sqlite_uri, gate, "models:/values/1", to="live")
    assert (first.passed, first.checks[1].found) == (False, "mean absolute error 3.5000, always the median 0.5000")


def test_scores_of_single_clips() -> None:
    def evaluation(task: Task, labels: tuple[str, ...], found: AnyPrediction, row: dict[str, Any]) -> Evaluation:
        scores = ValueScores(metrics={})
        return Evaluation(task=task, labels=labels, scores=scores, predictions={"x": found}, truth={"x": row}, failures=())

    nothing = np.zeros(0, np.float32)
    said = LabelsPrediction(labels=("a", "b"), top_k=(), scores=nothing, logits=nothing)
    for have, score in (("a|b", 1.0), ("a", 2 / 3), ("c", 0.0), (None, 0.0)):
        row = {"label": have}
        assert clip_scores(evaluation("multi_label", ("a", "b", "c"), said, row)) == {"x": pytest.approx(score)}
    frames = FramesPrediction(segments=(), times_s=(0.0, 1.0, 2.0, 3.0), classes=np.array([0, 1, 1, 1]))
    row = {"segments": [{"start_s": 1.0, "end_s": 2.5, "label": "wave"}]}
    assert clip_scores(evaluation("dense", ("background", "wave"), frames, row)) == {"x": 0.75}


def test_a_gate_of_means_lets_luck_through_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    passed = 0
    for one in range(400):
        first = rng.beta(2, 2, 150)
        second = np.clip(first + rng.normal(0, 0.2, 150), 0, 1)[rng.permutation(150)] if one % 2 else rng.beta(2, 2, 150)
        passed += bootstrap_means(first, second, resamples=200, seed=one)[1] <= 0.05
    assert passed / 400 < 0.085  # three standard errors above the level
    better = rng.beta(2, 2, 150)
    assert bootstrap_means(better, better + 0.01, resamples=200, seed=0) == (pytest.approx(0.01), 1 / 201)


def test_the_file_to_copy_has_every_key_and_says_the_defaults(tmp_path: Path) -> None:
    gate = load_gate(str(FILE))
    assert gate == GateConfig.model_validate({"data": {"manifest": "labels.csv"}})
    assert yaml.safe_load(FILE.read_text()) == gate.model_dump(mode="json")
    copy = tmp_path / "gate.yaml"
    shutil.copy(FILE, copy)
    for old, new, says in (
        ("level: 0.05", "levle: 0.05", "unknown key 'gain.levle'; did you mean 'level'"),
        ("metric: top1", "metric: macro_f1", "needs test=bootstrap"),
        ('digest: ""', "digest: abc", "'data.digest'"),
        ("slowdown: 1.5", "slowdown: 0", "'limits.slowdown'"),
    ):
        copy.write_text(FILE.read_text().replace(old, new))
        with pytest.raises(ConfigError, match=says):
            load_gate(str(copy))
