"""What a finished model is worth on labelled clips, by the same path as labelling: decode, predict, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reelscribe.pipeline.answers import (
    AnyPrediction,
    CaptionPrediction,
    ClassPrediction,
    LabelsPrediction,
    Prediction,
    read_logits,
    with_confidence,
)
from reelscribe.pipeline.bundle import BundleSpec, ModelBundle, load_bundle
from reelscribe.pipeline.config import DecodeConfig, Task
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.errors import ManifestError, UsageError, VideoError, nearest
from reelscribe.pipeline.fields import labels_of
from reelscribe.pipeline.manifest import read_manifest
from reelscribe.pipeline.predictor import Predictor
from reelscribe.pipeline.report.captions import ShownCaption, write_caption_report
from reelscribe.pipeline.tracking.registry import fetch_model
from reelscribe.pipeline.training.data import Failure, stable_seed
from reelscribe.pipeline.training.recipes.splits import Row
from reelscribe.pipeline.training.scores.captions import CaptionScores, extremes, with_meteor
from reelscribe.pipeline.training.scores.metrics import AnyScores
from reelscribe.pipeline.training.tasks import TASKS
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import Frames

REPORTED_CAPTIONS = 8  # worst, and as many best


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores over the clips that could be decoded, and the ones that could not."""

    task: Task
    labels: tuple[str, ...]
    scores: AnyScores
    predictions: dict[str, AnyPrediction]  # by video id
    truth: dict[str, Row]  # the row of each of these
    failures: tuple[Failure, ...]

    def logits(self) -> dict[str, npt.NDArray[np.float32]]:
        """What the network gave (views, C) for each clip, by video id, where a clip has labels."""
        return {
            video_id: found.logits for video_id, found in self.predictions.items() if isinstance(found, ClassPrediction | LabelsPrediction)
        }

    def labelled(self) -> dict[str, ClassPrediction]:
        """The predictions of a single label each."""
        return {video_id: found for video_id, found in self.predictions.items() if isinstance(found, ClassPrediction)}

    def captions(self) -> dict[str, CaptionPrediction]:
        """The predictions of a caption each."""
        return {video_id: found for video_id, found in self.predictions.items() if isinstance(found, CaptionPrediction)}

    def confidences(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Of each clip with a single label or caption, its confidence, and whether it is right, or what a person wrote: (N,) each."""
        found = {**self.labelled(), **self.captions()}
        right = [p.label in (row["captions"] if self.task == "caption" else (row["label"],)) for p, row in self._with_rows(found)]
        return np.array([p.confidence for p in found.values()]), np.array(right)

    def _with_rows(self, found: Mapping[str, Prediction]) -> Iterator[tuple[Prediction, Row]]:
        return ((prediction, self.truth[video_id]) for video_id, prediction in found.items())


def evaluate(
    predictor: Predictor,
    rows: list[dict[str, Any]],
    *,
    pool: DecodePool,
    decode: DecodeConfig,
    shuffle_seed: int | None = None,
    progress: Callable[[int, int], None],
) -> Evaluation:
    """Predict every labelled row and compare.

    ``shuffle_seed`` puts the frames of each clip in a random order first: a model that reads motion must then lose. Raises ManifestError
    for a label the model does not know, or if no clip can be decoded.
    """
    task, labels = predictor.bundle.spec.task, predictor.bundle.spec.labels
    for row in rows:
        for label in labels_of(row, task):
            if label not in labels:
                raise ManifestError(f"{row['video_id']}: the model has no label '{label}'{nearest(label, labels)}")
    requests = (
        (row["video_id"], predictor.bundle.request(row["uri"], row["start_s"], row["end_s"], backend=decode.backend)) for row in rows
    )
    predictions: dict[str, AnyPrediction] = {}
    failures: list[Failure] = []
    for video_id, clip in pool.map(requests):
        if isinstance(clip, VideoError):
            failures.append(Failure(video_id=video_id, failure=clip.failure, cause=str(clip)))
        else:
            seen = clip if shuffle_seed is None else shuffled(clip, stable_seed(shuffle_seed, video_id))
            predictions[video_id] = predictor([seen])[0]
        progress(len(predictions) + len(failures), len(rows))
    if not predictions:
        raise ManifestError(f"not one of {len(rows)} clips can be decoded; {failures[0].video_id}: {failures[0].cause}")
    truth = {row["video_id"]: row for row in rows if row["video_id"] in predictions}
    ordered = {video_id: predictions[video_id] for video_id in truth}
    return Evaluation(
        task=task,
        labels=labels,
        scores=TASKS[task].scores(list(ordered.values()), list(truth.values()), labels),
        predictions=ordered,
        truth=truth,
        failures=tuple(failures),
    )


def read_anew(evaluation: Evaluation, spec: BundleSpec) -> Evaluation:
    """The same answers of a network, labels of clips or captions, read with the calibration and the threshold of ``spec``."""
    predictions: dict[str, AnyPrediction] = {
        **{video_id: read_logits(logits, spec) for video_id, logits in evaluation.logits().items()},
        **{video_id: with_confidence(found, spec) for video_id, found in evaluation.captions().items()},
    }
    scores = TASKS[spec.task].scores(list(predictions.values()), list(evaluation.truth.values()), spec.labels)
    return replace(evaluation, predictions=predictions, scores=scores)


def evaluate_model(
    model: str,
    data: str,
    *,
    split: str,
    tracking: str,
    device: str,
    decode: DecodeConfig,
    shuffle_seed: int | None,
    progress: OpenProgress,
    meteor: bool = False,
    report: Path | None = None,
) -> Evaluation:
    """Fetch a model and evaluate it on a label file, or on the rows of one split of it.

    Of captions with METEOR if asked for, and with a page of the worst and best at ``report``. Raises UsageError for a report of a model
    of another task, or a folder that does not exist.
    """
    predictor = Predictor(load_bundle(fetch_model(model, uri=tracking).folder), device)
    if report is not None and predictor.bundle.spec.task != "caption":
        raise UsageError(f"--report is for captions, {predictor.bundle.spec.name} has task={predictor.bundle.spec.task}")
    if report is not None and not report.absolute().parent.is_dir():
        raise UsageError(f"--report {report}: there is no folder {report.absolute().parent}")
    rows = labelled_rows(data, split, predictor.bundle.spec.task).to_pylist()
    with DecodePool(decode.num_workers, decode.limits) as pool, progress("evaluating") as advance:
        result = evaluate(predictor, rows, pool=pool, decode=decode, shuffle_seed=shuffle_seed, progress=advance)
    if report is not None:
        _write_report(report, result, predictor.bundle, decode)
    if meteor and isinstance(result.scores, CaptionScores):
        said = [prediction.label for prediction in result.captions().values()]
        return replace(result, scores=with_meteor(result.scores, said, [row["captions"] for row in result.truth.values()]))
    return result


def _write_report(path: Path, result: Evaluation, bundle: ModelBundle, decode: DecodeConfig) -> None:
    assert isinstance(result.scores, CaptionScores)
    names, found, scores = list(result.predictions), result.captions(), result.scores
    shown = []
    for i in extremes(scores.by_clip["cider"], REPORTED_CAPTIONS):
        row, said = result.truth[names[i]], found[names[i]]
        shown.append(
            ShownCaption(
                video_id=names[i],
                request=bundle.request(row["uri"], row["start_s"], row["end_s"], backend=decode.backend),
                said=said.label,
                confidence=said.confidence,
                score=float(scores.by_clip["cider"][i]),
                references=tuple(row["captions"]),
                tokens=said.tokens,
                attention=said.attention,
            )
        )
    figures = {name: f"{value:.4g}" for name, value in scores.metrics.items()}
    write_caption_report(path, title=bundle.spec.name, metrics=figures, captions=shown, decode=decode)


def labelled_rows(data: str, split: str, task: Task) -> pa.Table:
    """The rows of a label file, or of one split of it. Raises ManifestError for a split that no row has."""
    table = read_manifest(data, require_labels=True, task=task)
    if not split:
        return table
    found = sorted({one for one in table.column("split").to_pylist() if one})
    if split not in found:
        there = f"splits there: {', '.join(found)}" if found else "it has no split column"
        raise ManifestError(f"{data}: no row has the split '{split}'{nearest(split, found)} ({there})")
    return table.filter(pc.field("split") == split)


def shuffled(clip: Clip, seed: int) -> Clip:
    """The clip with the frames of each view in a random order."""
    order = np.random.default_rng(seed)
    return replace(clip, views=tuple(_reorder(view, order.permutation(len(view.pixels)).tolist()) for view in clip.views))


def _reorder(frames: Frames, order: list[int]) -> Frames:
    return replace(
        frames,
        pixels=frames.pixels[order],
        index=tuple(frames.index[i] for i in order),
        pts_seconds=tuple(frames.pts_seconds[i] for i in order),
    )
