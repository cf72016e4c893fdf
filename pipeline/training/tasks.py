"""What a task is to training: a clip's target, the loss, the figures of validation, and the scores of a finished model."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reelscribe.pipeline.answers import (
    AnyPrediction,
    CaptionPrediction,
    ClassPrediction,
    FramesPrediction,
    LabelsPrediction,
    ValuePrediction,
)
from reelscribe.pipeline.config import Task, TrainingConfig
from reelscribe.pipeline.fields import BACKGROUND, labels_of
from reelscribe.pipeline.training.scores.captions import CaptionScores, caption_scores
from reelscribe.pipeline.training.scores.metrics import (
    AnyScores,
    ClassificationScores,
    FrameScores,
    MultiLabelScores,
    ValueScores,
    classification_scores,
    multilabel_scores,
    value_scores,
)
from reelscribe.pipeline.training.scores.segments import dense_scores
from reelscribe.pipeline.training.steps.losses import CaptionLoss, ClipLoss, FrameLoss, Loss, MultiLabelLoss, ValueLoss, balanced_weights
from reelscribe.pipeline.vocabulary import vocabulary

Row = Mapping[str, Any]
Times = Sequence[float]  # of the frames of a view, seconds from the first frame of the file


@dataclass(frozen=True)
class References:
    """What people said of a clip."""

    captions: tuple[str, ...]  # normalised
    tokens: tuple[tuple[int, ...], ...]  # of each, with its end


ViewTarget = int | float | tuple[int, ...] | References  # a class; a value; 0 or 1 for each label; the class of each frame; captions
Target = ViewTarget | tuple[tuple[int, ...], ...]  # that of all views; of classes of frames, for each view its own


class Headline(NamedTuple):
    """The metric that stands for a model, and what it is compared with."""

    metric: str
    words: str
    baseline: str  # the metric of an answer that looks at nothing
    baseline_words: str
    lower_is_better: bool = False

    def better(self, one: float, other: float) -> bool:
        """Whether one value of the metric is better than another."""
        return one < other if self.lower_is_better else one > other


class TaskKind(ABC):
    """What every task answers."""

    headline: ClassVar[Headline]
    needs_times: ClassVar[bool] = False
    figure: ClassVar[str]  # what Loss.score is called: train_... and val_... of it are tracked

    @abstractmethod
    def target(self, row: Row, labels: Sequence[str], views: Sequence[Times] = ()) -> Target:
        """What the loop learns of a row; ``views`` are given where ``needs_times``."""

    @abstractmethod
    def loss(self, targets: Sequence[Target], labels: Sequence[str], config: TrainingConfig | None = None) -> Loss:
        """The loss for these training targets; without a config the plain one that validation reports."""

    def monitored(self, logits: Tensor, targets: Tensor, monitor: str) -> dict[str, float]:  # noqa: ARG002
        """A figure of validation that only its monitor asks for; logits and targets of all clips."""
        return {}

    def facts(self, targets: Sequence[Target]) -> dict[str, float]:  # noqa: ARG002
        """What the model must know of the training targets, as fields of BundleSpec."""
        return {}

    @abstractmethod
    def scores(self, predictions: Sequence[AnyPrediction], rows: Sequence[Row], labels: tuple[str, ...]) -> AnyScores:
        """All metrics of predictions against their rows."""


class SingleLabel(TaskKind):
    """Each clip has one label."""

    headline = Headline("top1", "top-1", "majority", "majority class")
    figure = "top1"

    def target(self, row: Row, labels: Sequence[str], views: Sequence[Times] = ()) -> int:  # noqa: ARG002
        """The index of the label."""
        return labels.index(row["label"])

    def loss(self, targets: Sequence[Any], labels: Sequence[str], config: TrainingConfig | None = None) -> ClipLoss:
        """Cross-entropy."""
        if config is None:
            return ClipLoss()
        weights = balanced_weights(targets, len(labels)) if config.class_weights == "balanced" else None
        return ClipLoss(label_smoothing=config.label_smoothing, class_weights=weights)

    def monitored(self, logits: Tensor, targets: Tensor, monitor: str) -> dict[str, float]:
        """Macro-F1."""
        if monitor != "val_macro_f1":
            return {}
        from torchmetrics.functional.classification import multiclass_f1_score

        return {monitor: multiclass_f1_score(logits, targets, num_classes=logits.shape[1], average="macro").item()}

    def scores(self, predictions: Sequence[AnyPrediction], rows: Sequence[Row], labels: tuple[str, ...]) -> ClassificationScores:
        """Where the model has a threshold, also of the labels that it accepts."""
        found = [prediction for prediction in predictions if isinstance(prediction, ClassPrediction)]
        probabilities = torch.from_numpy(np.stack([prediction.scores for prediction in found]))
        scores = classification_scores(probabilities, torch.tensor([self.target(row, labels) for row in rows]), labels)
        accepted = [prediction.label == row["label"] for prediction, row in zip(found, rows, strict=True) if prediction.accepted]
        if any(prediction.accepted is not None for prediction in found):
            scores.metrics["accepted_share"] = len(accepted) / len(found)
        if accepted:
            scores.metrics["accepted_precision"] = sum(accepted) / len(accepted)
        return scores


class MultiLabel(TaskKind):
    """Each clip has any number of labels."""

    headline = Headline("map", "mAP", "chance_map", "a random order")
    figure = "exact_match"

    def target(self, row: Row, labels: Sequence[str], views: Sequence[Times] = ()) -> tuple[int, ...]:  # noqa: ARG002
        """0 or 1 for each label."""
        have = labels_of(row, "multi_label")
        return tuple(int(label in have) for label in labels)

    def loss(self, targets: Sequence[Target], labels: Sequence[str], config: TrainingConfig | None = None) -> MultiLabelLoss:  # noqa: ARG002
        """Binary cross-entropy of each label."""
        return MultiLabelLoss(label_smoothing=config.label_smoothing if config else 0.0)

    def monitored(self, logits: Tensor, targets: Tensor, monitor: str) -> dict[str, float]:
        """Mean average precision."""
        if monitor != "val_map":
            return {}
        names = tuple(str(i) for i in range(logits.shape[1]))
        return {monitor: multilabel_scores(logits.sigmoid(), targets, names).metrics["map"]}

    def scores(self, predictions: Sequence[AnyPrediction], rows: Sequence[Row], labels: tuple[str, ...]) -> MultiLabelScores:
        """Of each label the order of the clips, and all labels at a probability of one half."""
        probabilities = np.stack([prediction.scores for prediction in predictions if isinstance(prediction, LabelsPrediction)])
        targets = torch.tensor([self.target(row, labels) for row in rows])
        return multilabel_scores(torch.from_numpy(probabilities), targets, labels)


class Value(TaskKind):
    """Each clip has a number."""

    headline = Headline("mae", "mean absolute error", "median_mae", "always the median", lower_is_better=True)
    figure = "mae"

    def target(self, row: Row, labels: Sequence[str], views: Sequence[Times] = ()) -> float:  # noqa: ARG002
        """The number."""
        return float(row["value"])

    def loss(self, targets: Sequence[Any], labels: Sequence[str], config: TrainingConfig | None = None) -> ValueLoss:  # noqa: ARG002
        """Smooth L1 in deviations of the training clips."""
        return ValueLoss(mean=statistics.fmean(targets), deviation=statistics.pstdev(targets))

    def facts(self, targets: Sequence[Any]) -> dict[str, float]:
        """The scale of what the network gives."""
        loss = self.loss(targets, ())
        return {"value_mean": loss.mean, "value_deviation": loss.deviation}

    def scores(self, predictions: Sequence[AnyPrediction], rows: Sequence[Row], labels: tuple[str, ...]) -> ValueScores:  # noqa: ARG002
        """Errors, in the unit of the values."""
        predicted = torch.tensor([prediction.value for prediction in predictions if isinstance(prediction, ValuePrediction)])
        return ValueScores(metrics=value_scores(predicted, torch.tensor([self.target(row, ()) for row in rows])))


class Dense(TaskKind):
    """Each frame has one label."""

    headline = Headline("frame_accuracy", "frame accuracy", "majority", "commonest label")
    needs_times = True
    figure = "frame_accuracy"

    def target(self, row: Row, labels: Sequence[str], views: Sequence[Times] = ()) -> tuple[tuple[int, ...], ...]:
        """For each view, the class of each frame."""
        return tuple(tuple(labels.index(_label_at(row, time)) for time in times) for times in views)

    def loss(self, targets: Sequence[Target], labels: Sequence[str], config: TrainingConfig | None = None) -> FrameLoss:  # noqa: ARG002
        """Cross-entropy of each frame."""
        return FrameLoss(label_smoothing=config.label_smoothing if config else 0.0)

    def scores(self, predictions: Sequence[AnyPrediction], rows: Sequence[Row], labels: tuple[str, ...]) -> FrameScores:
        """Of frames, and of the segments that they make but those of the background."""
        found = [prediction for prediction in predictions if isinstance(prediction, FramesPrediction)]
        true = [np.array(self.target(row, labels, [p.times_s])[0]) for row, p in zip(rows, found, strict=True)]
        metrics = dense_scores([p.classes for p in found], true, background=labels.index(BACKGROUND))
        frames = np.concatenate(true)
        majority = float(np.bincount(frames).max() / len(frames))
        return FrameScores(metrics=metrics | {"majority": majority, "clips": float(len(rows))})


class Caption(TaskKind):
    """Each clip has one sentence or several."""

    headline = Headline("cider", "CIDEr-D", "one_caption_cider", "the commonest caption")
    figure = "word_accuracy"

    def target(self, row: Row, labels: Sequence[str], views: Sequence[Times] = ()) -> References:  # noqa: ARG002
        """The captions, as they stand and in tokens."""
        words = vocabulary(tuple(labels))
        return References(tuple(row["captions"]), tuple(words.encode(caption) for caption in row["captions"]))

    def loss(self, targets: Sequence[Target], labels: Sequence[str], config: TrainingConfig | None = None) -> CaptionLoss:  # noqa: ARG002
        """Cross-entropy of each token."""
        return CaptionLoss(label_smoothing=config.label_smoothing if config else 0.0)

    def scores(self, predictions: Sequence[AnyPrediction], rows: Sequence[Row], labels: tuple[str, ...]) -> CaptionScores:
        """By the field's reference code."""
        said = [prediction.label for prediction in predictions if isinstance(prediction, CaptionPrediction)]
        return caption_scores(said, [row["captions"] for row in rows], can_say=vocabulary(labels).can_say)


def _label_at(row: Row, time_s: float) -> str:
    """The label of the segment around a time, else the background."""
    return next((str(s["label"]) for s in row["segments"] if s["start_s"] <= time_s < s["end_s"]), BACKGROUND)


TASKS: dict[Task, TaskKind] = {
    "single_label": SingleLabel(),
    "multi_label": MultiLabel(),
    "value": Value(),
    "dense": Dense(),
    "caption": Caption(),
}
