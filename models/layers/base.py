"""What every recurrent layer promises: a sequence in, a sequence out, whole or continued, with the same result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

State = tuple[Tensor, ...]  # the batch is the first dimension of each tensor; None in its place is the beginning of a clip


class RecurrentLayer(nn.Module, ABC):
    """A causal map of a sequence; what it carries from frame to frame is a state whose size does not grow."""

    spatial: ClassVar[bool] = False  # takes and gives grids (B, T, C, h, w) instead of vectors (B, T, C)
    ordered: ClassVar[bool] = True  # False: the output at a time depends on that frame alone

    @abstractmethod
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, T, input) -> (B, T, hidden), and the state after the last frame."""

    @abstractmethod
    def step(self, x_t: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One frame (B, input) -> (B, hidden), and the state after it: what ``forward`` gives, sooner."""
