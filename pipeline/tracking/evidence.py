"""Is one classifier better than another, or lucky? Statistics of two sets of answers to the same clips. Pure.

Answers and truth are class indices (N,); an answer of -1 is none (the clip could not be decoded for that model), and wrong.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Metric = Literal["top1", "macro_f1", "clip_f1", "mae", "frame_accuracy", "cider"]
Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
_CLIPS_AT_ONCE = 4_000_000  # of all resamples that are counted together: bounds the memory


def mcnemar(gained: int, lost: int) -> float:
    """One-sided exact p-value of McNemar's test (Psychometrika 12, 1947; binomial form).

    ``gained`` clips only the second model gets right, ``lost`` only the first. Where the second is no better, a p-value of at most a level
    comes up in at most that share of test sets, of whatever size.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"counts of clips: got {gained} and {lost}")
    n = gained + lost
    ways: int = sum(math.comb(n, k) for k in range(gained, n + 1))
    return float(Fraction(ways, 2**n))


def discordant(truth: Indices, first: Indices, second: Indices) -> tuple[int, int]:
    """Clips that only the second gets right, and clips that only the first does."""
    return int(((second == truth) & (first != truth)).sum()), int(((first == truth) & (second != truth)).sum())


def score(truth: Indices, answers: Indices, metric: Metric, num_classes: int) -> float:
    """The metric of all clips; macro-F1 is the mean over the labels that the truth or the answers hold."""
    return float(_scores(truth[None], answers[None], metric, num_classes)[0])


def bootstrap(
    truth: Indices, first: Indices, second: Indices, *, metric: Metric, num_classes: int, resamples: int, seed: int
) -> tuple[float, float]:
    """Gain in the metric from first to second, and the one-sided p-value of a paired bootstrap under no gain.

    The clips are drawn anew with replacement, the same for both; the p-value is the share of resamples whose gain exceeds the observed one
    by as much as that exceeds zero (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 16.4), counted with the observed
    one so that it is never 0.
    """
    gain = score(truth, second, metric, num_classes) - score(truth, first, metric, num_classes)
    rng = np.random.default_rng(seed)
    at_once = max(1, _CLIPS_AT_ONCE // len(truth))
    exceeding = 0
    for start in range(0, resamples, at_once):
        drawn = rng.integers(len(truth), size=(min(at_once, resamples - start), len(truth)))
        gains = _scores(truth[drawn], second[drawn], metric, num_classes) - _scores(truth[drawn], first[drawn], metric, num_classes)
        exceeding += int((gains - gain >= gain - 1e-12).sum())
    return gain, (exceeding + 1) / (resamples + 1)


def bootstrap_means(first: Scores, second: Scores, *, resamples: int, seed: int) -> tuple[float, float]:
    """As ``bootstrap``, for what is a mean over clips: scores of the same clips (N,) by two models, more is better."""
    differences = second - first
    gain = float(differences.mean())
    rng = np.random.default_rng(seed)
    at_once = max(1, _CLIPS_AT_ONCE // len(differences))
    exceeding = 0
    for start in range(0, resamples, at_once):
        drawn = rng.integers(len(differences), size=(min(at_once, resamples - start), len(differences)))
        exceeding += int((differences[drawn].mean(axis=1) - gain >= gain - 1e-12).sum())
    return gain, (exceeding + 1) / (resamples + 1)


def class_losses(truth: Indices, first: Indices, second: Indices) -> dict[int, tuple[float, float, int]]:
    """Of each class that the truth holds: recall of the first, of the second, and its clips."""
    rows = {label: truth == label for label in sorted(set(truth.tolist()))}
    return {
        label: (float((first[row] == label).mean()), float((second[row] == label).mean()), int(row.sum())) for label, row in rows.items()
    }


def _scores(truth: Indices, answers: Indices, metric: Metric, num_classes: int) -> npt.NDArray[np.float64]:
    """The metric of each row of (R, N)."""
    right = truth == answers
    if metric == "top1":
        return right.mean(axis=1)  # type: ignore[no-any-return]
    offset = np.arange(len(truth))[:, None] * (num_classes + 1)  # one more place for no answer

    def counts(classes: Indices, weights: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
        flat = np.bincount((classes + offset).ravel(), weights, minlength=len(truth) * (num_classes + 1))
        return flat.reshape(len(truth), num_classes + 1)[:, :num_classes].astype(np.float64)

    hits = counts(truth, right.ravel().astype(np.float64))
    held = counts(truth) + counts(np.where(answers < 0, num_classes, answers))
    f1 = np.divide(2 * hits, held, out=np.zeros_like(held), where=held > 0)
    return f1.sum(axis=1) / (held > 0).sum(axis=1)  # type: ignore[no-any-return]
