"""What a list of scores is worth. torchmetrics takes seconds to import, and so each function does it when it is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from reelscribe.pipeline.training.scores.captions import CaptionScores


@dataclass(frozen=True, kw_only=True)
class ClassificationScores:
    """Single-label metrics over all clips."""

    metrics: dict[str, float]  # top1, top5 (where there are more than 5 classes), macro_f1, ece, majority, clips
    recall: dict[str, float]  # per class; absent classes are left out
    confusion: npt.NDArray[np.int64]  # (C, C), rows true, columns predicted


def classification_scores(probabilities: Tensor, targets: Tensor, labels: tuple[str, ...]) -> ClassificationScores:
    """Metrics of probabilities (N, C) against class indices (N,), by torchmetrics.

    ``ece`` is the expected calibration error in 15 bins (arXiv 1706.04599), ``majority`` what naming the commonest class would score.
    """
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_calibration_error,
        multiclass_confusion_matrix,
        multiclass_f1_score,
    )

    classes = len(labels)
    confusion = multiclass_confusion_matrix(probabilities, targets, num_classes=classes)
    support = confusion.sum(dim=1)
    metrics = {
        "top1": multiclass_accuracy(probabilities, targets, num_classes=classes, average="micro").item(),
        "macro_f1": multiclass_f1_score(probabilities, targets, num_classes=classes, average="macro").item(),
        "ece": multiclass_calibration_error(probabilities, targets, num_classes=classes).item(),
        "majority": (support.max() / support.sum()).item(),
        "clips": float(len(targets)),
    }
    if classes > 5:
        metrics["top5"] = multiclass_accuracy(probabilities, targets, num_classes=classes, average="micro", top_k=5).item()
    recall = {label: (confusion[i, i] / support[i]).item() for i, label in enumerate(labels) if support[i]}
    return ClassificationScores(metrics=metrics, recall=recall, confusion=confusion.numpy())


@dataclass(frozen=True, kw_only=True)
class MultiLabelScores:
    """Metrics over all clips where a clip has any number of labels."""

    metrics: dict[str, float]  # map, micro_f1 (at a probability of 0.5), ece, chance_map, clips
    average_precision: dict[str, float]  # per class; classes that no clip has are left out


def multilabel_scores(probabilities: Tensor, targets: Tensor, labels: tuple[str, ...]) -> MultiLabelScores:
    """Metrics of probabilities (N, C) against targets (N, C) of 0 and 1, by torchmetrics.

    ``map`` is the mean of the average precision over the classes that some clip has, ``chance_map`` what a random order scores on average,
    ``ece`` the expected calibration error of all labels together, in 15 bins.
    Raises ValueError where no clip has any label.
    """
    from torchmetrics.functional.classification import binary_average_precision, binary_calibration_error, multilabel_f1_score

    targets = targets.int()
    there = targets.any(dim=0)
    if not there.any():
        raise ValueError("no clip has any label: the average precision is of labels that are there")
    precision = {name: binary_average_precision(probabilities[:, i], targets[:, i]).item() for i, name in enumerate(labels) if there[i]}
    metrics = {
        "map": sum(precision.values()) / len(precision),
        "micro_f1": multilabel_f1_score(probabilities, targets, num_labels=len(labels), average="micro").item(),
        "ece": binary_calibration_error(probabilities.flatten(), targets.flatten()).item(),
        "chance_map": targets[:, there].float().mean().item(),
        "clips": float(len(targets)),
    }
    return MultiLabelScores(metrics=metrics, average_precision=precision)


@dataclass(frozen=True, kw_only=True)
class ValueScores:
    """Errors over all clips that have a number."""

    metrics: dict[str, float]  # mae, rmse, median_mae, clips


@dataclass(frozen=True, kw_only=True)
class FrameScores:
    """Scores of labels per frame over all clips."""

    metrics: dict[str, float]  # those of segments.dense_scores; majority (frames of the commonest label), clips


AnyScores = ClassificationScores | MultiLabelScores | ValueScores | FrameScores | CaptionScores


def by_label(scores: AnyScores) -> tuple[str, dict[str, float]]:
    """What is known of each label, and what it is called; nothing of a value."""
    match scores:
        case ClassificationScores():
            return "recall", scores.recall
        case MultiLabelScores():
            return "average precision", scores.average_precision
        case ValueScores() | FrameScores() | CaptionScores():
            return "", {}


def value_scores(predicted: Tensor, targets: Tensor) -> dict[str, float]:
    """``mae``, ``rmse``, ``median_mae`` (what always saying the median would score) and ``clips``, of values (N,), by torchmetrics."""
    from torchmetrics.functional import mean_absolute_error, mean_squared_error

    return {
        "mae": mean_absolute_error(predicted, targets).item(),
        "rmse": mean_squared_error(predicted, targets, squared=False).item(),
        "median_mae": (targets - targets.median()).abs().mean().item(),
        "clips": float(len(targets)),
    }
