"""The loss of each clip, by task, and the figure that a person reads beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss

IGNORED = -100  # a target past the end of a clip


class Loss(ABC):
    """What the loop needs to know of a task."""

    per_frame: ClassVar[bool] = False  # every frame has a target of its own
    teacher_forced: ClassVar[bool] = False  # the network is given the targets: each word is asked for after the true ones before it

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What the network gives (B, ...) against targets (B, ...) -> losses (B,)."""

    @abstractmethod
    def score(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The figure of each clip (B,), whose mean over clips is tracked."""


@dataclass(frozen=True, kw_only=True)
class ClipLoss(Loss):
    """Cross-entropy of each clip, with label smoothing and class weights as torch.nn.CrossEntropyLoss defines them."""

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None  # (C,)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, C) against class indices (B,), or the share of each class (B, C) -> losses (B,)."""
        weight = None if self.class_weights is None else self.class_weights.to(logits.device)
        return cross_entropy(logits.float(), targets, weight=weight, label_smoothing=self.label_smoothing, reduction="none")

    def score(self, logits: Tensor, targets: Tensor) -> Tensor:
        """1 where the class, or the one with the largest share, has the largest logit."""
        classes = targets.argmax(dim=1) if targets.ndim == 2 else targets
        return (logits.argmax(dim=1) == classes).float()


@dataclass(frozen=True, kw_only=True)
class MultiLabelLoss(Loss):
    """Binary cross-entropy, mean over the labels; smoothing moves each target so far towards one half."""

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, C) against 0 or 1 for each label, or its share (B, C) -> losses (B,)."""
        smooth = targets.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        return binary_cross_entropy_with_logits(logits.float(), smooth, reduction="none").mean(dim=1)

    def score(self, logits: Tensor, targets: Tensor) -> Tensor:
        """1 where all labels are right, at a probability of one half."""
        return ((logits > 0) == (targets > 0.5)).all(dim=1).float()


@dataclass(frozen=True, kw_only=True)
class ValueLoss(Loss):
    """Smooth L1 (Huber) of values in units of their deviation from their mean, so that its bend is at one deviation."""

    mean: float
    deviation: float

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What the network gives (B, 1) against values (B,) -> losses (B,)."""
        return smooth_l1_loss(logits[:, 0].float(), (targets - self.mean) / self.deviation, reduction="none")

    def score(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The absolute error, in the unit of the values."""
        return (logits[:, 0].float() * self.deviation + self.mean - targets).abs()


@dataclass(frozen=True, kw_only=True)
class FrameLoss(Loss):
    """Cross-entropy of each frame, mean over the frames of the clip; those whose target is IGNORED do not count, and none give 0."""

    per_frame = True

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, T, C) against class indices (B, T or more) -> losses (B,)."""
        targets = targets[:, : logits.shape[1]]
        losses = cross_entropy(
            logits.float().transpose(1, 2), targets, ignore_index=IGNORED, label_smoothing=self.label_smoothing, reduction="none"
        )
        return losses.sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp(min=1)

    def score(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The share of frames whose class is right."""
        targets = targets[:, : logits.shape[1]]
        return (logits.argmax(dim=2) == targets).sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class CaptionLoss(Loss):
    """Cross-entropy of each token, mean over the tokens of the caption and its end; what is IGNORED does not count."""

    teacher_forced = True

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, L, C) against tokens (B, L) -> losses (B,)."""
        losses = cross_entropy(
            logits.float().transpose(1, 2), targets, ignore_index=IGNORED, label_smoothing=self.label_smoothing, reduction="none"
        )
        return losses.sum(dim=1) / (targets != IGNORED).sum(dim=1)

    def score(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The share of tokens that would have been said, each after the true ones before it."""
        return (logits.argmax(dim=2) == targets).sum(dim=1) / (targets != IGNORED).sum(dim=1)


def balanced_weights(targets: Sequence[int], num_classes: int) -> Tensor:
    """A weight (C,) for each class so that all count alike, with a mean of 1 over the clips; every class must have a clip."""
    return len(targets) / (num_classes * torch.bincount(torch.tensor(targets), minlength=num_classes).float())
