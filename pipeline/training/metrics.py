"""What a list of scores is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)


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
