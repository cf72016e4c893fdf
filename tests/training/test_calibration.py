"""Temperatures, bins and thresholds against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from reelscribe.pipeline.training.scores.calibration import fit_temperature, precision_threshold, reliability


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found(true_temperature: float) -> None:
    """Labels drawn from the softmax of known logits, which are then scaled."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 4, generator=generator)
    targets = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits * true_temperature, targets) == pytest.approx(true_temperature, rel=0.05)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_temperature_of_labels_that_stand_by_themselves_is_found(true_temperature: float) -> None:
    """Each label drawn with the sigmoid of its logit, which is then scaled."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(8_000, 4, generator=generator)
    targets = torch.bernoulli(logits.sigmoid(), generator=generator).long()
    assert fit_temperature(logits * true_temperature, targets) == pytest.approx(true_temperature, rel=0.05)


def test_temperature_stays_bounded_when_everything_is_right() -> None:
    logits = torch.eye(3).repeat(5, 1) * 4
    assert 0.05 <= fit_temperature(logits, torch.arange(3).repeat(5)) <= 1.0


def test_views_are_calibrated_as_they_are_averaged() -> None:
    """The temperature is the best of a fine grid for the mean of the views' probabilities, which one view's is not."""
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(500, 5, 4, generator=generator)
    targets = torch.multinomial((logits / 2).softmax(dim=-1).mean(dim=1), 1, generator=generator)[:, 0]
    grid = torch.arange(0.5, 5, 0.01)
    rows = torch.arange(500)
    losses = torch.stack([-(logits / t).softmax(dim=-1).mean(dim=1)[rows, targets].log().mean() for t in grid])
    best = grid[losses.argmin()].item()
    assert fit_temperature(logits, targets) == pytest.approx(best, abs=0.02)
    assert fit_temperature(logits[:, 0], targets) > best + 0.3


def test_views_of_many_labels_are_calibrated_as_they_are_averaged() -> None:
    """Against a fine grid of temperatures and scikit-learn's loss of the mean probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(300, 5, 3, generator=generator)
    targets = torch.bernoulli((logits / 2).sigmoid().mean(dim=1), generator=generator).long()
    grid = np.arange(0.5, 5, 0.02)
    losses = [log_loss(targets.flatten(), (logits / t).sigmoid().mean(dim=1).flatten()) for t in grid]
    assert fit_temperature(logits, targets) == pytest.approx(grid[int(np.argmin(losses))], abs=0.03)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=60))
def test_bins_are_those_of_scikit_learn(clips: list[tuple[float, bool]]) -> None:
    confidences, right = np.array([c for c, _ in clips]), np.array([r for _, r in clips])
    found = reliability(confidences, right, bins=8)
    accuracy, confidence = calibration_curve(right, confidences, n_bins=8)
    assert found.clips.sum() == len(clips)
    assert np.array_equal(np.isnan(found.accuracy), found.clips == 0)
    np.testing.assert_allclose(found.accuracy[found.clips > 0], accuracy)
    np.testing.assert_allclose(found.confidence[found.clips > 0], confidence)


@settings(deadline=None)
@given(
    clips=st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.6, 0.9, 0.99]), st.booleans()), min_size=1, max_size=20),
    precision=st.sampled_from([0.3, 0.5, 0.7, 0.8]),
)
def test_the_threshold_accepts_the_most_right_labels_that_it_can(clips: list[tuple[float, bool]], precision: float) -> None:
    confidences, right = np.array([c for c, _ in clips]), np.array([r for _, r in clips])
    good = [t for t in sorted(set(confidences)) if (right[confidences >= t].sum() + 1) / ((confidences >= t).sum() + 2) >= precision]
    best = max(good, key=lambda t: (right[confidences >= t].sum(), t), default=None)
    assert precision_threshold(confidences, right, precision) == best


def test_a_few_lucky_clips_prove_no_precision() -> None:
    confidences = np.linspace(0.9, 0.99, 18)
    assert precision_threshold(confidences, np.ones(18, bool), 0.95) == pytest.approx(0.9)
    assert precision_threshold(confidences[1:], np.ones(17, bool), 0.95) is None
