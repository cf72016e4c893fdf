"""The loss of each clip, and the weight of each class in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


@dataclass(frozen=True, kw_only=True)
class ClipLoss:
    """Cross-entropy of each clip, with label smoothing and class weights as torch.nn.CrossEntropyLoss defines them."""

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None  # (C,)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits (B, C) against class indices (B,), or the share of each class (B, C) -> losses (B,)."""
        weight = None if self.class_weights is None else self.class_weights.to(logits.device)
        return cross_entropy(logits.float(), targets, weight=weight, label_smoothing=self.label_smoothing, reduction="none")


def balanced_weights(targets: Sequence[int], num_classes: int) -> Tensor:
    """A weight (C,) for each class so that all count alike, with a mean of 1 over the clips; every class must have a clip."""
    return len(targets) / (num_classes * torch.bincount(torch.tensor(targets), minlength=num_classes).float())
