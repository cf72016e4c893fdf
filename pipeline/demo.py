"""The whole way on drawn videos: draw, train, evaluate, register, label. Nothing is downloaded."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow.dataset as ds

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.config_files import load_config
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.drawing.folder import NEW_FOLDER, TRUTH_FILE
from reelscribe.pipeline.drawing.order import draw_order_dataset
from reelscribe.pipeline.drawing.sentences import draw_sentence_dataset
from reelscribe.pipeline.labeling.job import JobOptions
from reelscribe.pipeline.labeling.launch import label_videos
from reelscribe.pipeline.labeling.work import JobSummary
from reelscribe.pipeline.training.job import TrainingResult, run_training
from reelscribe.pipeline.training.scores.evaluation import Evaluation, evaluate_model

DemoTask = Literal["single_label", "caption"]


class _Demo(NamedTuple):
    draw: Callable[[Path], Path]
    folder: str  # of the videos
    config: str
    truth: str  # column of the manifest
    figure: str  # what the last screen shows
    figure_words: str


_DEMOS: dict[DemoTask, _Demo] = {
    "single_label": _Demo(draw_order_dataset, "videos", "demo", "label", "top1", "top-1"),
    "caption": _Demo(draw_sentence_dataset, "sentences", "caption_demo", "caption", "exact_match", "whole sentence right"),
}


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo shows."""

    folder: Path
    training: TrainingResult
    test: Evaluation  # on clips that neither training nor validation saw
    shuffled: Evaluation  # the same, with each clip's frames in random order
    labelling: JobSummary
    right: int  # labels or captions of the new videos that are what was drawn
    figure: str  # the metric to show
    figure_words: str


def run_demo(folder: Path, *, task: DemoTask = "single_label", engine: Literal["local", "ray"], progress: OpenProgress) -> DemoResult:
    """Do it all under ``folder``. Run again, it uses the videos that are there and adds a version to the registry.

    The engine ``ray`` trains on two workers of Ray Train and labels with Ray Data. Raises OutputConflictError where the folder holds
    something else.
    """
    demo = _DEMOS[task]
    with progress("drawing videos"):
        manifest = demo.draw(folder / demo.folder)
    overrides = [f"data.manifest={manifest}", f"output={folder}", f"tracking.uri=sqlite:///{folder.absolute() / 'mlflow.db'}"]
    if engine == "ray":
        overrides += ["training.workers=2", "cluster.address=local"]
    training = run_training(load_config(demo.config, overrides), progress=progress)
    decode = DecodeConfig()

    def evaluate(shuffle_seed: int | None) -> Evaluation:
        return evaluate_model(
            training.model_uri,
            str(manifest),
            split="test",
            tracking=training.tracking_uri,
            device="auto",
            decode=decode,
            shuffle_seed=shuffle_seed,
            progress=progress,
        )

    test, shuffled = evaluate(None), evaluate(0)
    labelling = label_videos(
        training.model_uri,
        str(manifest.parent / NEW_FOLDER),
        out=str(folder / "labels" / training.run_id),
        options=JobOptions(engine=engine, decode=decode),
        tracking=training.tracking_uri,
        progress=progress,
    )
    return DemoResult(
        folder=folder,
        training=training,
        test=test,
        shuffled=shuffled,
        labelling=labelling,
        right=_count_right(Path(labelling.out), manifest.with_name(TRUTH_FILE), demo.truth),
        figure=demo.figure,
        figure_words=demo.figure_words,
    )


def _count_right(out: Path, truth_file: Path, column: str) -> int:
    """How many labels are what was drawn."""
    with truth_file.open(newline="", encoding="utf-8") as file:
        truth = {row["path"]: row[column] for row in csv.DictReader(file)}
    rows = ds.dataset(out / "labels").to_table(columns=["video_id", "label"]).to_pylist()
    return sum(truth[f"{NEW_FOLDER}/{row['video_id']}"] == row["label"] for row in rows)
