"""What a finished model is worth on labelled clips, by the same path as labelling: decode, predict, compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from reelscribe.pipeline.bundle import load_bundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.errors import ManifestError, VideoError, nearest
from reelscribe.pipeline.manifest import read_manifest
from reelscribe.pipeline.predictor import Prediction, Predictor
from reelscribe.pipeline.tracking.registry import fetch_model
from reelscribe.pipeline.training.data import Failure, stable_seed
from reelscribe.pipeline.training.metrics import ClassificationScores, classification_scores
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.sandbox import DecodePool
from reelscribe.pipeline.video.types import Frames


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores over the clips that could be decoded, and the ones that could not."""

    labels: tuple[str, ...]
    scores: ClassificationScores
    predictions: dict[str, Prediction]  # by video id
    failures: tuple[Failure, ...]


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
    by_id = {row["video_id"]: row for row in rows}
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
    ordered = [row["video_id"] for row in rows if row["video_id"] in predictions]
    probabilities = torch.from_numpy(np.stack([predictions[video_id].scores for video_id in ordered]))
    targets = torch.tensor([labels.index(by_id[video_id]["label"]) for video_id in ordered])
    return Evaluation(
        labels=labels,
        scores=classification_scores(probabilities, targets, labels),
        predictions={video_id: predictions[video_id] for video_id in ordered},
        failures=tuple(failures),
    )


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
