"""From decoded clips to predictions: the one path that evaluation, labelling, serving and the command line share."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from reelscribe.models.backbone import Seen
from reelscribe.models.captioner import Captioner
from reelscribe.pipeline.bundle import BundleSpec, ModelBundle
from reelscribe.pipeline.config import Task
from reelscribe.pipeline.errors import ModelError, UsageError
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.types import Frames
from reelscribe.pipeline.vocabulary import END, vocabulary

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


def pick_device(wanted: str = "auto") -> torch.device:
    """The device by name; ``auto`` is the first GPU where there is one. Raises UsageError for one that is not here."""
    gpus = torch.cuda.device_count()
    if wanted == "auto":
        return torch.device("cuda" if gpus else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise UsageError(f"device '{wanted}': expected auto, cpu, cuda or cuda:N")
    if wanted != "cpu" and int(wanted.partition(":")[2] or 0) >= gpus:
        raise UsageError(f"device '{wanted}': this machine has {gpus} GPUs that torch can use; try auto or cpu")
    return torch.device(wanted)


def frames_tensor(frames: Frames) -> torch.Tensor:
    """Frames as the networks take them: uint8 (T, 3, H, W)."""
    return torch.from_numpy(frames.pixels).permute(0, 3, 1, 2)  # (T, H, W, 3) -> (T, 3, H, W)


def frame_gaps(times_s: Sequence[float]) -> torch.Tensor:
    """Seconds between each frame and the one before, in whatever order they are, and zero at the first: (T,)."""
    if not any(times_s):  # they are not known
        return torch.zeros(len(times_s))
    return torch.tensor(np.abs(np.diff(times_s, prepend=times_s[0])), dtype=torch.float32)


def pad(clips: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack clips (T, ...) of any length: (B, T, ...) with zeros at the end, and lengths (B,)."""
    lengths = [len(clip) for clip in clips]
    stacked = torch.stack(list(clips)) if len(set(lengths)) == 1 else torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    return stacked, torch.tensor(lengths)


class Predictor:
    """A model ready to answer.

    Of a single label, the probabilities are the softmax of the logits over the temperature, averaged over the views. Clips are run one by
    one, so that a clip's answer never depends on its neighbours in a batch.
    """

    def __init__(self, bundle: ModelBundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.device = pick_device(device)
        self.model = bundle.build().to(self.device)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Clip]) -> list[AnyPrediction]:
        """One prediction per clip."""
        return [self._predict(clip) for clip in clips]

    def _predict(self, clip: Clip) -> AnyPrediction:
        frames, lengths = pad([frames_tensor(view) for view in clip.views])
        gaps = pad([frame_gaps(view.pts_seconds) for view in clip.views])[0].to(self.device) if self.model.takes_gaps else None
        if isinstance(self.model, Captioner):
            seen = self.model.forward_features(
                self.model.encode(frames[:1].to(self.device)), lengths[:1].to(self.device), None if gaps is None else gaps[:1]
            )
            return caption(self.model, seen, self.bundle.spec, seed=clip.digest)
        logits = self.model(frames.to(self.device), lengths.to(self.device), gaps).float().cpu()  # (views, C)
        if self.bundle.spec.task == "dense":
            return _to_segments(logits[0], [time - clip.info.begin_s for time in clip.views[0].pts_seconds], self.bundle.spec.labels)
        return read_logits(logits.numpy(), self.bundle.spec)


def read_logits(logits: npt.NDArray[np.float32], spec: BundleSpec) -> AnyPrediction:
    """What a network says of a clip (views, outputs), in words. Raises ModelError for numbers that are not finite."""
    return _READ[spec.task](logits, spec)


def caption(model: Captioner, seen: Seen, spec: BundleSpec, *, seed: str) -> CaptionPrediction:
    """What a captioner says of one clip that it has seen, searched for or, at a temperature, drawn at random from the seed.

    Raises ModelError for numbers that are not finite.
    """
    lengths, settings = torch.tensor([seen.states.shape[1]], device=seen.states.device), spec.caption
    if settings.temperature:
        draw = {"temperature": settings.temperature, "top_p": settings.top_p, **settings.rules}
        numbers = [zlib.crc32(f"{seed} {i}".encode()) for i in range(settings.beam)]
        drawn = [model.imagine(seen, lengths, seed=number, **draw)[0] for number in numbers]
        found = sorted({one.tokens: one for one in drawn}.values(), key=lambda one: -one.score(settings.length_penalty))
    else:
        (found,) = model.say(seen, lengths, beam=settings.beam, **settings.rules)
    words = vocabulary(spec.labels)
    means = _finite(np.array([one.score(1.0) for one in found], dtype=np.float32))
    draft = CaptionPrediction(
        label="",
        confidence=0.0,
        top_k=tuple((words.decode(one.tokens), 0.0) for one in found),
        accepted=None,
        scores=means,
        tokens=(*(words.tokens[token] for token in found[0].tokens), END),
        attention=found[0].attention.cpu().numpy(),
        log_probabilities=tuple(means.tolist()),
    )
    return with_confidence(draft, spec)


def with_confidence(found: CaptionPrediction, spec: BundleSpec) -> CaptionPrediction:
    """The same sentences with the confidences that a model gives them."""
    confidences = [spec.caption_confidence(mean) for mean in found.log_probabilities]
    top_k = tuple((text, confidence) for (text, _), confidence in zip(found.top_k, confidences, strict=True))
    return replace(found, label=top_k[0][0], confidence=top_k[0][1], top_k=top_k, scores=np.array(confidences, dtype=np.float32))


def _to_label(logits: npt.NDArray[np.float32], spec: BundleSpec) -> ClassPrediction:
    """Logits (views, C); equal scores keep the order of the labels."""
    scores = _finite((torch.from_numpy(logits) / spec.temperature).softmax(dim=-1).mean(dim=0).numpy())
    top_k = _top_k(scores, spec)
    label, confidence = top_k[0]
    accepted = None if spec.precision is None else spec.threshold is not None and confidence >= spec.threshold
    return ClassPrediction(label=label, confidence=confidence, top_k=top_k, accepted=accepted, scores=scores, logits=logits)


def _to_labels(logits: npt.NDArray[np.float32], spec: BundleSpec) -> LabelsPrediction:
    """Logits (views, C); probabilities are averaged over the views."""
    scores = _finite((torch.from_numpy(logits) / spec.temperature).sigmoid().mean(dim=0).numpy())
    order = np.argsort(-scores, kind="stable")
    labels = tuple(spec.labels[i] for i in order if scores[i] >= 0.5)
    return LabelsPrediction(labels=labels, top_k=_top_k(scores, spec), scores=scores, logits=logits)


def _to_value(logits: npt.NDArray[np.float32], spec: BundleSpec) -> ValuePrediction:
    """What the network gives (views, 1), in deviations from the mean of its training clips; averaged over the views."""
    return ValuePrediction(value=float(_finite(logits).mean()) * spec.value_deviation + spec.value_mean)


def _finite(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(numbers).all():
        raise ModelError("the model gives numbers that are not finite; its weights are damaged")
    return numbers


def _top_k(scores: npt.NDArray[np.float32], spec: BundleSpec) -> tuple[tuple[str, float], ...]:
    return tuple((spec.labels[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:TOP_K])


def _to_segments(logits: torch.Tensor, times_s: Sequence[float], labels: Sequence[str]) -> FramesPrediction:
    """Logits (T, C) of frames at these times."""
    scores = _finite(logits.softmax(dim=-1).numpy())
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
