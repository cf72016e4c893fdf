"""What a finished model is worth on labelled clips, by the same path as labelling: decode, predict, compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reelscribe.pipeline.bundle import BundleSpec, load_bundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.errors import ManifestError, VideoError, nearest
from reelscribe.pipeline.manifest import read_manifest
from reelscribe.pipeline.predictor import Prediction, Predictor, to_prediction
from reelscribe.pipeline.tracking.registry import fetch_model
from reelscribe.pipeline.training.data import Failure, stable_seed
from reelscribe.pipeline.training.metrics import ClassificationScores, classification_scores
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import Frames


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores over the clips that could be decoded, and the ones that could not."""

    labels: tuple[str, ...]
    scores: ClassificationScores
    predictions: dict[str, Prediction]  # by video id
    truth: dict[str, str]  # the label of each of these
    failures: tuple[Failure, ...]

    def confidences(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Of each clip, the confidence of its label and whether that is right: (N,) each."""
        found = self.predictions.items()
        return np.array([p.confidence for _, p in found]), np.array([p.label == self.truth[video_id] for video_id, p in found])


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
    labels = predictor.bundle.spec.labels
    for row in rows:
        if row["label"] not in labels:
            raise ManifestError(f"{row['video_id']}: the model has no label '{row['label']}'{nearest(str(row['label']), labels)}")
    requests = (
        (row["video_id"], predictor.bundle.request(row["uri"], row["start_s"], row["end_s"], backend=decode.backend)) for row in rows
    )
    predictions: dict[str, Prediction] = {}
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
    truth = {row["video_id"]: str(row["label"]) for row in rows if row["video_id"] in predictions}
    ordered = {video_id: predictions[video_id] for video_id in truth}
    return Evaluation(labels=labels, scores=_scores(ordered, truth, labels), predictions=ordered, truth=truth, failures=tuple(failures))


def read_anew(evaluation: Evaluation, spec: BundleSpec) -> Evaluation:
    """The same answers of the network, read with the temperature and the threshold of ``spec``."""
    predictions = {video_id: to_prediction(found.logits, spec) for video_id, found in evaluation.predictions.items()}
    return replace(evaluation, predictions=predictions, scores=_scores(predictions, evaluation.truth, spec.labels))


def _scores(predictions: dict[str, Prediction], truth: dict[str, str], labels: tuple[str, ...]) -> ClassificationScores:
    """Scores of predictions, in whose order ``truth`` is; where the model has a threshold, also of the labels that it accepts."""
    probabilities = torch.from_numpy(np.stack([found.scores for found in predictions.values()]))
    scores = classification_scores(probabilities, torch.tensor([labels.index(label) for label in truth.values()]), labels)
    accepted = [found.label == truth[video_id] for video_id, found in predictions.items() if found.accepted]
    if any(found.accepted is not None for found in predictions.values()):
        scores.metrics["accepted_share"] = len(accepted) / len(predictions)
    if accepted:
        scores.metrics["accepted_precision"] = sum(accepted) / len(accepted)
    return scores


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
) -> Evaluation:
    """Fetch a model and evaluate it on a label file, or on the rows of one split of it."""
    rows = read_manifest(data, require_labels=True).to_pylist()
    if split:
        found = sorted({row["split"] for row in rows if row["split"]})
        if split not in found:
            there = f"splits there: {', '.join(found)}" if found else "it has no split column"
            raise ManifestError(f"{data}: no row has the split '{split}'{nearest(split, found)} ({there})")
        rows = [row for row in rows if row["split"] == split]
    predictor = Predictor(load_bundle(fetch_model(model, uri=tracking).folder), device)
    with DecodePool(decode.num_workers, decode.limits) as pool, progress("evaluating") as advance:
        return evaluate(predictor, rows, pool=pool, decode=decode, shuffle_seed=shuffle_seed, progress=advance)


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
