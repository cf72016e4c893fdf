"""What a confidence is worth: the temperature that makes it a probability, how far it is from one, and from where on to accept a label."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, nll_loss

RELIABILITY_BINS = 10

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Reliability(NamedTuple):
    """Clips in bins of equal width of confidence from 0 to 1; a bin without clips has NaN for its means."""

    clips: npt.NDArray[np.int64]  # (bins,)
    confidence: Floats  # (bins,) mean
    accuracy: Floats  # (bins,) share of right labels


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature that minimizes the negative log-likelihood (arXiv 1706.04599), between 0.05 and 20.

    Logits are (N, C), or (N, views, C) whose probabilities are averaged over the views, as a Predictor does. Targets are classes (N,), or
    0 and 1 of each label (N, C), whose probabilities stand each by itself.
    """
    views = logits.view(len(logits), -1, logits.shape[-1])
    log_temperature = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = views / log_temperature.exp()
        # logsumexp: the logarithm of the mean over views, up to a constant
        if targets.ndim == 1:
            loss = nll_loss(scaled.log_softmax(dim=-1).logsumexp(dim=1), targets)
        else:
            loss = -torch.where(targets > 0, logsigmoid(scaled).logsumexp(dim=1), logsigmoid(-scaled).logsumexp(dim=1)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_temperature.detach().exp().clamp(0.05, 20.0).item()


def fit_confidence(log_probabilities: Floats, right: Bools) -> tuple[float, float]:
    """Slope and offset that make a logistic function of log-probabilities (N,) the probability of being right (Platt 1999).

    The targets are drawn a little towards one half, as Platt does, so that few clips, or none that are right, are no proof. The slope lies
    between 0.01 and 100.
    """
    given, good = torch.from_numpy(log_probabilities), int(right.sum())
    targets = torch.where(torch.from_numpy(right), (good + 1) / (good + 2), 1 / (len(right) - good + 2)).to(given.dtype)
    fitted = torch.zeros(2, dtype=given.dtype, requires_grad=True)  # the logarithm of the slope, and the offset
    optimizer = torch.optim.LBFGS([fitted], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = fitted[0].clamp(-4.6, 4.6).exp() * given + fitted[1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    log_slope, offset = fitted.detach().tolist()
    return math.exp(min(max(log_slope, -4.6), 4.6)), offset


def reliability(confidences: Floats, right: Bools, *, bins: int = RELIABILITY_BINS) -> Reliability:
    """Mean confidence against accuracy, by bins of confidence; both are (N,)."""
    which = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)  # a bin holds its upper edge
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            clips=count,
            confidence=np.bincount(which, confidences, bins) / count,
            accuracy=np.bincount(which, right.astype(float), bins) / count,
        )


def precision_threshold(confidences: Floats, right: Bools, precision: float) -> float | None:
    """The confidence from which on the most right labels are accepted with an expected ``precision`` or more; None where none gives it.

    Of n accepted clips (N,) with r right labels, (r + 1) / (n + 2) are expected right among others (Laplace's rule of succession), so that
    a few lucky clips prove nothing: 0.95 takes 18 without an error.
    """
    order = np.argsort(-confidences, kind="stable")
    accepted, correct = np.arange(1, len(order) + 1), np.cumsum(right[order])
    last_of_its_confidence = np.append(np.diff(confidences[order]) < 0, True)  # equal ones are accepted together
    good = np.nonzero(((correct + 1) / (accepted + 2) >= precision) & last_of_its_confidence)[0]
    return float(confidences[order[good[correct[good].argmax()]]]) if len(good) else None
