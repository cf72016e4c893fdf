"""What a model says of a clip, in words: from the numbers that a network gives, whatever ran it, to labels with their confidences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reelscribe.pipeline.bundle import BundleSpec
from reelscribe.pipeline.config import Task
from reelscribe.pipeline.errors import ModelError

TOP_K = 5


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one clip: a label, or a caption."""

    label: str
    confidence: float  # that it is right, after calibration
    top_k: tuple[tuple[str, float], ...]  # the best first, with their confidences
    accepted: bool | None  # whether the confidence reaches the model's threshold; None for a model without one
    scores: npt.NDArray[np.float32]  # (C,) probabilities in the order of the model's labels; of captions the confidences of the top k


@dataclass(frozen=True, kw_only=True)
class ClassPrediction(Prediction):
    """One of the model's labels."""

    logits: npt.NDArray[np.float32]  # (views, C) as the network gives them, before the temperature


@dataclass(frozen=True, kw_only=True)
class CaptionPrediction(Prediction):
    """A sentence."""

    tokens: tuple[str, ...]  # of the caption, and the end
    attention: npt.NDArray[np.float32]  # (tokens, T), or (tokens, T, h, w): where the model looked before each; of the first view
    log_probabilities: tuple[float, ...]  # of each of the top k, mean over its tokens: what confidences are made of


@dataclass(frozen=True, kw_only=True)
class LabelsPrediction:
    """What the model says of one clip that may have several labels."""

    labels: tuple[str, ...]  # those with a probability of one half or more, most probable first
    top_k: tuple[tuple[str, float], ...]  # most probable first
    scores: npt.NDArray[np.float32]  # (C,) probabilities, each by itself, in the order of the model's labels
    logits: npt.NDArray[np.float32]  # (views, C) as the network gives them, before the temperature


@dataclass(frozen=True, kw_only=True)
class ValuePrediction:
    """The number that the model gives one clip, in the unit of its training clips."""

    value: float


class Segment(NamedTuple):
    """A run of frames with one label."""

    start_s: float  # when its first frame is shown, seconds from the first frame of the file
    end_s: float  # when the first frame after it is shown; of the last segment, its own last frame
    label: str
    confidence: float  # mean over its frames


@dataclass(frozen=True, kw_only=True)
class FramesPrediction:
    """What the model says of each frame of one clip."""

    segments: tuple[Segment, ...]  # one after the other, without gaps
    times_s: tuple[float, ...]  # of the frames, seconds from the first frame of the file
    classes: npt.NDArray[np.int64]  # (T,) the most probable label of each frame, by its place in the model's labels


AnyPrediction = Prediction | LabelsPrediction | ValuePrediction | FramesPrediction


def read_logits(logits: npt.NDArray[np.float32], spec: BundleSpec) -> AnyPrediction:
    """What a network says of a clip (views, outputs), in words. Raises ModelError for numbers that are not finite."""
    return _READ[spec.task](logits, spec)


def probabilities(logits: npt.NDArray[np.float32], spec: BundleSpec) -> npt.NDArray[np.float32]:
    """Logits (..., outputs) of one view -> the probabilities that the task makes of them; a value as it is."""
    if spec.task == "value":
        return logits
    scaled = logits / np.float32(spec.temperature)
    return _sigmoid(scaled) if spec.task == "multi_label" else _softmax(scaled)


def with_confidence(found: CaptionPrediction, spec: BundleSpec) -> CaptionPrediction:
    """The same sentences with the confidences that a model gives them."""
    confidences = [spec.caption_confidence(mean) for mean in found.log_probabilities]
    top_k = tuple((text, confidence) for (text, _), confidence in zip(found.top_k, confidences, strict=True))
    return replace(found, label=top_k[0][0], confidence=top_k[0][1], top_k=top_k, scores=np.array(confidences, dtype=np.float32))


def _to_label(logits: npt.NDArray[np.float32], spec: BundleSpec) -> ClassPrediction:
    """Logits (views, C); equal scores keep the order of the labels."""
    scores = finite(_softmax(logits / np.float32(spec.temperature)).mean(axis=0))
    top_k = _top_k(scores, spec)
    label, confidence = top_k[0]
    accepted = None if spec.precision is None else spec.threshold is not None and confidence >= spec.threshold
    return ClassPrediction(label=label, confidence=confidence, top_k=top_k, accepted=accepted, scores=scores, logits=logits)


def _to_labels(logits: npt.NDArray[np.float32], spec: BundleSpec) -> LabelsPrediction:
    """Logits (views, C); probabilities are averaged over the views."""
    scores = finite(_sigmoid(logits / np.float32(spec.temperature)).mean(axis=0))
    order = np.argsort(-scores, kind="stable")
    labels = tuple(spec.labels[i] for i in order if scores[i] >= 0.5)
    return LabelsPrediction(labels=labels, top_k=_top_k(scores, spec), scores=scores, logits=logits)


def _to_value(logits: npt.NDArray[np.float32], spec: BundleSpec) -> ValuePrediction:
    """What the network gives (views, 1), in deviations from the mean of its training clips; averaged over the views."""
    return ValuePrediction(value=float(finite(logits).mean()) * spec.value_deviation + spec.value_mean)


def finite(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The numbers. Raises ModelError where one is not finite."""
    if not np.isfinite(numbers).all():
        raise ModelError("the model gives numbers that are not finite; its weights are damaged")
    return numbers


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Over the last axis."""
    powers: npt.NDArray[np.float32] = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: npt.NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    below = np.exp(-np.abs(logits))  # at most 1, so that nothing overflows
    return np.asarray(np.where(logits < 0, below, 1) / (1 + below), dtype=np.float32)


def _top_k(scores: npt.NDArray[np.float32], spec: BundleSpec) -> tuple[tuple[str, float], ...]:
    return tuple((spec.labels[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:TOP_K])


def read_frames(logits: npt.NDArray[np.float32], times_s: Sequence[float], labels: Sequence[str]) -> FramesPrediction:
    """What a network says of each frame of a clip, logits (T, C) at these times. Raises ModelError as read_logits does."""
    scores = finite(_softmax(logits))
    classes = scores.argmax(axis=1)
    starts = [0, *(np.nonzero(np.diff(classes))[0] + 1).tolist()]
    segments = [
        Segment(times_s[start], times_s[min(end, len(times_s) - 1)], labels[classes[start]], float(scores[start:end].max(axis=1).mean()))
        for start, end in zip(starts, [*starts[1:], len(classes)], strict=True)
    ]
    return FramesPrediction(segments=tuple(segments), times_s=tuple(times_s), classes=classes)


_READ: dict[Task, Callable[[npt.NDArray[np.float32], BundleSpec], AnyPrediction]] = {
    "single_label": _to_label,
    "multi_label": _to_labels,
    "value": _to_value,
}
