"""No recurrence at all: the baseline that knows no order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reelscribe.models.layers.base import RecurrentLayer, State


class PerFrame(RecurrentLayer):
    """y_t = tanh(W x_t + b): each frame by itself, so that a readout's mean over time cannot tell their order."""

    ordered = False

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, hidden_size)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:  # noqa: ARG002
        """(B, T, input) -> (B, T, hidden); nothing is carried."""
        return torch.tanh(self.linear(x)), ()

    def step(self, x_t: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, input) -> (B, hidden); nothing is carried."""
        return self.forward(x_t, state)
