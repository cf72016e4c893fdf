"""The main job on real video: 132 clips to learn from, 44 to be judged on, classes that place and order decide."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset as ds
import pytest

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.config_files import load_config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.labeling.job import JobOptions
from reelscribe.pipeline.labeling.launch import label_videos
from reelscribe.pipeline.training.job import run_training
from reelscribe.pipeline.training.scores.evaluation import evaluate_model


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_gestures_are_learnt_from_order_and_labelled_as_evaluated(shared_data: Path, tmp_path: Path) -> None:
    """Half of the packaged recipe's copies and epochs; chance is 0.09, and a frozen CNN without order stays near it."""
    manifest = str(shared_data / "gestures" / "labels.csv")
    overrides = [f"data.manifest={manifest}", f"output={tmp_path}", "augmentation.views=3", "training.epochs=25"]
    trained = run_training(load_config("gestures", overrides), progress=progress)
    assert not trained.failures
    assert trained.evaluation.scores.metrics["top1"] >= 0.85
    shuffled = evaluate_model(
        trained.model_uri,
        manifest,
        split="val",
        tracking=trained.tracking_uri,
        device="auto",
        decode=DecodeConfig(),
        shuffle_seed=0,
        progress=progress,
    )
    assert shuffled.scores.metrics["top1"] <= 0.5
    held_out = tmp_path / "held_out.csv"
    uris = [f"{shared_data / 'gestures' / video_id},{video_id}" for video_id in trained.evaluation.predictions]
    held_out.write_text("\n".join(["path,video_id", *uris]), encoding="utf-8")
    summary = label_videos(
        "models:/gestures@champion",
        str(held_out),
        out=str(tmp_path / "out"),
        options=JobOptions(),
        tracking=trained.tracking_uri,
        progress=progress,
    )
    assert (summary.labelled, summary.failed) == (44, 0)
    rows = ds.dataset(tmp_path / "out" / "labels").to_table(columns=["video_id", "label"]).to_pylist()
    expected = {video_id: prediction.label for video_id, prediction in trained.evaluation.predictions.items()}
    assert {row["video_id"]: row["label"] for row in rows} == expected
