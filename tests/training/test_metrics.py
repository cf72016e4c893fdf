"""Scores against figures worked out by hand or by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score

from reelscribe.pipeline.training.metrics import classification_scores


def test_scores_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probabilities = torch.from_numpy(rng.dirichlet(np.ones(7) * 0.3, 200)).float()
    targets = torch.from_numpy(rng.integers(0, 7, 200))
    labels = tuple("abcdefg")
    scores = classification_scores(probabilities, targets, labels)
    predicted = probabilities.argmax(dim=1)
    assert scores.metrics["top1"] == pytest.approx((predicted == targets).float().mean().item())
    assert scores.metrics["macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"), abs=1e-6)
    assert scores.metrics["top5"] == pytest.approx((probabilities.topk(5).indices == targets[:, None]).any(dim=1).float().mean().item())
    assert scores.metrics["majority"] == pytest.approx(targets.bincount().max().item() / 200)
    assert np.array_equal(scores.confusion, confusion_matrix(targets, predicted))
    assert scores.recall["c"] == pytest.approx((predicted[targets == 2] == 2).float().mean().item())


def test_calibration_error_by_hand() -> None:
    """Ten clips at confidence 0.9, of which seven are right: off by 0.2."""
    probabilities = torch.tensor([[0.9, 0.1]] * 10)
    targets = torch.tensor([0] * 7 + [1] * 3)
    assert classification_scores(probabilities, targets, ("a", "b")).metrics["ece"] == pytest.approx(0.2, abs=1e-6)


def test_a_class_without_clips_has_no_recall() -> None:
    scores = classification_scores(torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), torch.tensor([0, 1]), ("a", "b", "c"))
    assert scores.recall == {"a": 1.0, "b": 1.0}
