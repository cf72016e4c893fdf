"""Scores against figures worked out by hand or by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, mean_absolute_error, root_mean_squared_error

from reelscribe.pipeline.training.scores.metrics import classification_scores, multilabel_scores, value_scores


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


def test_multi_label_scores_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((60, 5))
    targets = rng.random((60, 5)) < (0.1, 0.5, 0.9, 0.3, 0.0)
    scores = multilabel_scores(torch.from_numpy(probabilities), torch.from_numpy(targets), tuple("abcde"))
    expected = [average_precision_score(targets[:, i], probabilities[:, i]) for i in range(4)]
    assert list(scores.average_precision) == list("abcd")  # nobody has e
    assert list(scores.average_precision.values()) == pytest.approx(expected)
    assert scores.metrics["map"] == pytest.approx(np.mean(expected))
    assert scores.metrics["micro_f1"] == pytest.approx(f1_score(targets, probabilities > 0.5, average="micro"))


def test_a_random_order_scores_chance_on_average() -> None:
    rng = np.random.default_rng(0)
    targets = torch.from_numpy(rng.random((5000, 3)) < (0.1, 0.3, 0.6))
    metrics = multilabel_scores(torch.rand(5000, 3, generator=torch.Generator().manual_seed(0)), targets, tuple("abc")).metrics
    assert metrics["map"] == pytest.approx(metrics["chance_map"], abs=0.02)


def test_a_calibration_error_is_how_far_probabilities_are_from_shares() -> None:
    """Always 0.9, where a half has the label."""
    metrics = multilabel_scores(torch.full((50, 2), 0.9), torch.tensor([[1, 0], [0, 1]]).repeat(25, 1), ("a", "b")).metrics
    assert metrics["ece"] == pytest.approx(0.4, abs=1e-6)


def test_multi_label_scores_need_a_label() -> None:
    with pytest.raises(ValueError, match="no clip has any label"):
        multilabel_scores(torch.rand(4, 2), torch.zeros(4, 2), ("a", "b"))


def test_value_scores_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    predicted, targets = rng.normal(size=41), rng.normal(size=41)
    scores = value_scores(torch.from_numpy(predicted), torch.from_numpy(targets))
    assert scores["mae"] == pytest.approx(mean_absolute_error(targets, predicted))
    assert scores["rmse"] == pytest.approx(root_mean_squared_error(targets, predicted))
    assert scores["median_mae"] == pytest.approx(mean_absolute_error(targets, np.full(41, np.median(targets))))
