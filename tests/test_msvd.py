"""Captions on real video: the seven clips of MSVD, AVI and GIF, as they come, through training, labelling and both reports."""

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

# The packaged recipe, smaller: seven clips say nothing of its figures.
SMALL = ("augmentation.views=1", "sampling.num_frames=4", "transform.height=64", "transform.width=64", "model.hidden_size=32")
DECODE = DecodeConfig(workers=1)
STEPS = (
    "decode.workers=1",
    "training.epochs=2",
    "training.batch_size=3",
    "training.patience=0",
    "training.monitor=val_loss",
    "caption.beam=2",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_avi_and_gif_are_learnt_from_and_captioned(shared_data: Path, tmp_path: Path) -> None:
    captions = shared_data / "msvd" / "captions_train.tsv"
    fixed = [f"data.manifest={captions}", "data.val_fraction=0.3", f"output={tmp_path}", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    trained = run_training(load_config("msvd", [*fixed, *SMALL, *STEPS]), progress=progress)
    assert not trained.failures
    assert len(trained.evaluation.captions()) == 2  # held out of seven
    evaluated = evaluate_model(
        trained.model_uri,
        str(captions),
        split="",
        tracking=trained.tracking_uri,
        device="auto",
        decode=DECODE,
        shuffle_seed=None,
        progress=progress,
        report=tmp_path / "captions.html",
    )
    page = (tmp_path / "captions.html").read_text(encoding="utf-8")
    assert all(f"{video_id}<" in page for video_id in evaluated.captions())
    assert page.count('alt="where the model looked before') >= 7
    assert "not readable any more" not in page
    summary = label_videos(
        "models:/msvd@champion",
        str(shared_data / "msvd" / "videos"),
        out=str(tmp_path / "out"),
        options=JobOptions(decode=DECODE),
        tracking=trained.tracking_uri,
        progress=progress,
    )
    assert (summary.labelled, summary.failed) == (7, 0)
    rows = ds.dataset(tmp_path / "out" / "labels").to_table(columns=["video_id", "label", "top_k"]).to_pylist()
    uris = {Path(row["uri"]).name: video_id for video_id, row in evaluated.truth.items()}
    said = {uris[row["video_id"]]: row["label"] for row in rows}
    assert said == {video_id: found.label for video_id, found in evaluated.captions().items()}
    assert all(len(row["top_k"]) == 2 and row["top_k"][0]["label"] == row["label"] for row in rows)
    listed = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(row["video_id"] in listed for row in rows)
