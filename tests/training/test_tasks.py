"""Every task from label file to prediction, on drawn videos; and what a task refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from task_videos import draw

from reelscribe.pipeline.answers import CaptionPrediction, FramesPrediction, LabelsPrediction, ValuePrediction
from reelscribe.pipeline.config import Config, DataConfig, DecodeConfig, Task
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.fields import labels_of
from reelscribe.pipeline.labeling.job import JobOptions
from reelscribe.pipeline.labeling.launch import label_videos
from reelscribe.pipeline.labeling.predict import Answer, predict_videos
from reelscribe.pipeline.labeling.stages import Video
from reelscribe.pipeline.labeling.store import read_labels
from reelscribe.pipeline.manifest import MANIFEST_SCHEMA, TASK_FIELDS
from reelscribe.pipeline.show.labels import predictions as show_predictions
from reelscribe.pipeline.show.training import evaluation as show_evaluation
from reelscribe.pipeline.show.training import training as show_training
from reelscribe.pipeline.training.job import TrainingResult, run_training
from reelscribe.pipeline.training.recipes.splits import split_rows
from reelscribe.pipeline.training.scores.evaluation import Evaluation, evaluate_model
from reelscribe.pipeline.training.tasks import TASKS

TRAINING: dict[str, dict[str, Any]] = {
    "multi_label": {"label_smoothing": 0.05, "monitor": "val_map", "patience": 25},
    "dense": {"monitor": "val_frame_accuracy", "patience": 25},
    "value": {"label_smoothing": 0.0, "monitor": "val_mae", "patience": 25},
    "caption": {"label_smoothing": 0.0, "monitor": "val_cider", "patience": 25, "scheduled_sampling": 0.2},
}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], TrainingResult]:
    """A tiny model of a task, trained once and registered under the task's name."""
    done: dict[str, TrainingResult] = {}

    def train(task: Task) -> TrainingResult:
        if task not in done:
            folder = tmp_path_factory.mktemp(task)
            done[task] = run_training(config(task, draw(folder, task), folder / "runs"), progress=progress)
        return done[task]

    return train


def config(task: Task, manifest: Path, output: Path) -> Config:
    return Config.model_validate(
        {
            "name": task,
            "task": task,
            "output": str(output),
            "data": {"manifest": str(manifest), "leak_check": "files"},
            "sampling": {"kind": "uniform", "num_frames": 12 if task == "dense" else 6},
            "transform": {"height": 24, "width": 32},
            "model": {
                "encoder": "tiny",
                "readout": "last" if task == "dense" else "attention",
                "weights": "none",
                "stride": 4,
                "trainable_stages": 2,
                "projection": 8,
                "hidden_size": 32,
                "dropout": 0.1,
            },
            "training": {"epochs": 25, "batch_size": 8, "learning_rate": 5e-3, "device": "cpu", **TRAINING[task]},
            "decode": {"workers": 1},
        }
    )


def again(result: TrainingResult, *, shuffle_seed: int | None = None) -> Evaluation:
    manifest = str(result.bundle.folder.parents[3] / "labels.csv")
    return evaluate_model(
        result.model_uri,
        manifest,
        split="val",
        tracking=result.tracking_uri,
        device="cpu",
        decode=DecodeConfig(workers=1),
        shuffle_seed=shuffle_seed,
        progress=progress,
    )


@pytest.mark.parametrize("task", list(TRAINING))
def test_a_task_is_learnt_and_evaluated_from_the_order_of_frames(learnt: Callable[[Task], TrainingResult], task: Task) -> None:
    result, head = learnt(task), TASKS[task].headline
    metrics = result.bundle.spec.metrics
    assert {name: value for name, value in metrics.items() if name != "ece_before"} == result.evaluation.scores.metrics
    if task == "multi_label":
        assert result.bundle.spec.temperature != 1
        assert "expected calibration error" in (result.bundle.folder / "README.md").read_text(encoding="utf-8")
    found, chance = metrics[head.metric], metrics[head.baseline]
    assert found < 0.5 * chance if head.lower_is_better else found > chance + 0.5 * (1 - chance)
    assert again(result).scores.metrics == pytest.approx(result.evaluation.scores.metrics)
    assert head.better(found, again(result, shuffle_seed=0).scores.metrics[head.metric])


@pytest.mark.parametrize("task", list(TRAINING))
def test_predictions_are_those_of_the_evaluation(learnt: Callable[[Task], TrainingResult], task: Task) -> None:
    result = learnt(task)
    rows = result.evaluation.truth
    answers = predict_videos(
        result.model_uri, [row["uri"] for row in rows.values()], tracking=result.tracking_uri, device="cpu", decode=DecodeConfig(workers=1)
    )
    for answer, expected in zip(answers, result.evaluation.predictions.values(), strict=True):
        match answer.outcome, expected:
            case CaptionPrediction() as found, CaptionPrediction():
                assert found.top_k == expected.top_k
                assert found.attention.shape == (len(found.tokens), 6, 6, 8)
            case LabelsPrediction() as found, LabelsPrediction():
                assert found.labels == expected.labels
                assert found.top_k == expected.top_k
                np.testing.assert_array_equal(found.scores, expected.scores)
            case ValuePrediction() as found, ValuePrediction():
                assert found == expected
            case FramesPrediction() as found, FramesPrediction():
                assert found.segments == expected.segments
                assert [s.end_s for s in found.segments[:-1]] == [s.start_s for s in found.segments[1:]]
            case _:
                pytest.fail(f"{answer.outcome} for the task {task}")


def test_what_is_shown_of_each_task(learnt: Callable[[Task], TrainingResult], capsys: pytest.CaptureFixture[str]) -> None:
    said: dict[str, list[str]] = {}
    video = Video(position=0, video_id="a", uri="a.mp4", start_s=None, end_s=None)
    for task in ("multi_label", "value", "caption"):
        result = learnt(task)
        answers = [Answer(video=video, outcome=next(iter(result.evaluation.predictions.values())))]
        capsys.readouterr()
        for as_json in (False, True):
            show_training(result, as_json=as_json)
            show_evaluation(result.evaluation, as_json=as_json)
            show_predictions(answers, as_json=as_json)
        said[task] = capsys.readouterr().out.splitlines()
    assert said["multi_label"][0].startswith("validation mAP ")
    assert any("average precision" in line for line in said["multi_label"])
    assert any('"labels": [' in line for line in said["multi_label"])
    assert said["caption"][0].startswith("validation CIDEr-D ")
    assert any("95 % interval" in line for line in said["caption"])
    assert any('"caption": "the left dot moves ' in line for line in said["caption"])
    assert said["value"][0].startswith("validation mean absolute error ")
    assert any('"value": ' in line for line in said["value"])
    assert not any("label" in line for line in said["value"])


@pytest.mark.parametrize("task", list(TRAINING))
def test_labels_of_a_job_are_those_of_the_evaluation(learnt: Callable[[Task], TrainingResult], task: Task, tmp_path: Path) -> None:
    result = learnt(task)
    out = str(tmp_path / "out")
    listed = tmp_path / "videos.csv"
    listed.write_text("path,id\n" + "".join(f"{row['uri']},{video_id}\n" for video_id, row in result.evaluation.truth.items()))
    options = JobOptions(device="cpu", decode=DecodeConfig(workers=1), scores=True)
    summary = label_videos(result.model_uri, str(listed), out=out, options=options, tracking=result.tracking_uri, progress=progress)
    assert (summary.labelled, summary.failed) == (len(result.evaluation.predictions), 0)
    for row in read_labels(out).to_pylist():
        match result.evaluation.predictions[row["video_id"]]:
            case CaptionPrediction() as expected:
                assert (row["label"], row["confidence"]) == (expected.label, pytest.approx(expected.confidence, abs=1e-6))
                assert [one["label"] for one in row["top_k"]] == [label for label, _ in expected.top_k]
            case LabelsPrediction() as expected:
                assert row["labels"] == list(expected.labels)
                assert [one["label"] for one in row["top_k"]] == [label for label, _ in expected.top_k]
                np.testing.assert_allclose(row["scores"], expected.scores, atol=1e-6)
            case ValuePrediction() as expected:
                assert row["value"] == pytest.approx(expected.value)
            case FramesPrediction() as expected:
                assert [tuple(segment.values()) for segment in row["segments"]] == list(expected.segments)
        assert (row["label"] is None) == (task != "caption")
        assert (row["confidence"] is None) == (task != "caption")
    page = (tmp_path / "out" / "report.html").read_text()
    assert ("The model gives numbers and no labels." in page) == (task == "value")


@pytest.mark.parametrize(
    ("task", "training", "words"),
    [
        ("single_label", {"scheduled_sampling": 0.5}, r"scheduled_sampling=0\.5 is for caption"),
        ("caption", {"mixup": 0.2}, r"mixup=0\.2 is for single_label"),
        (
            "value",
            {},
            r"training\.label_smoothing=0\.1 is for single_label or multi_label or dense or caption; with task=value set it to 0\.0",
        ),
        ("value", {"label_smoothing": 0, "class_weights": "balanced"}, r'class_weights=balanced is for single_label; .* set it to "none"'),
        ("multi_label", {"balanced_sampling": True}, r"balanced_sampling=True is for single_label"),
        (
            "multi_label",
            {"monitor": "val_top1", "patience": 3},
            r"monitor=val_top1: task=multi_label has val_loss, val_exact_match, val_map",
        ),
        ("dense", {"mixup": 0.2}, r"mixup=0\.2 is for single_label or multi_label or value; with task=dense set it to 0\.0"),
        ("single_label", {"monitor": "val_mae", "patience": 3}, r"monitor=val_mae: task=single_label has val_loss, val_top1, val_macro_f1"),
    ],
)
def test_settings_that_mean_nothing_for_a_task_are_refused(task: str, training: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config.model_validate({"name": "x", "task": task, "data": {"manifest": "labels.csv"}, "training": training})


def test_rows_are_held_out_by_each_of_their_labels() -> None:
    rows = [{"video_id": str(i), "uri": f"/{i}.mp4", "label": ("a", "b", "a|b", None)[i % 4]} for i in range(80)]
    splits = split_rows(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), DataConfig(manifest="labels.csv"), "multi_label")
    assert splits.labels == ("a", "b")
    held_out = [labels_of(row, "multi_label") for row in splits.val]
    assert [sum(label in labels for labels in held_out) for label in "ab"] == [8, 8]  # a fifth of the forty of each
    assert () in [labels_of(row, "multi_label") for row in splits.train]


def test_values_are_held_out_as_one_kind() -> None:
    schema = pa.schema([*MANIFEST_SCHEMA, *TASK_FIELDS["value"]])
    rows = [{"video_id": str(i), "uri": f"/{i}.mp4", "value": float(i)} for i in range(20)]
    splits = split_rows(pa.Table.from_pylist(rows, schema=schema), DataConfig(manifest="labels.csv"), "value")
    assert (len(splits.train), len(splits.val), splits.labels) == (16, 4, ())
    same = [row | {"value": 1.0} for row in rows]
    with pytest.raises(ManifestError, match="all training rows have the same value"):
        split_rows(pa.Table.from_pylist(same, schema=schema), DataConfig(manifest="labels.csv"), "value")
