"""minGRU and minLSTM (arXiv 2410.01201): gates that do not look at the state, so that a whole clip is one linear scan."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from reelscribe.models.layers.base import RecurrentLayer, State
from reelscribe.models.layers.scan import linear_scan

_LONGEST_MEMORY = 64.0  # frames


class MinimalLayer(RecurrentLayer):
    """h_t = decay_t * h_{t-1} + (1 - decay_t) * W x_t, the decay computed from x_t alone.

    Start: units whose memories last from 2 to 64 frames, evenly spaced on a log scale (after arXiv 1804.11188).
    """

    gates: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, (self.gates + 1) * hidden_size)  # the candidate comes last
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        memory = torch.logspace(math.log10(2), math.log10(_LONGEST_MEMORY), hidden_size)
        with torch.no_grad():
            self.linear.bias[: self.gates * hidden_size] = self._gate_bias(torch.log(memory - 1))  # decay 1 - 1 / memory

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, T, input) -> (B, T, hidden), and the state after the last frame, (B, hidden)."""
        decay, value = self._terms(x)
        y = linear_scan(decay, value, torch.zeros_like(value[:, 0]) if state is None else state[0])
        return y, (y[:, -1],)

    def step(self, x_t: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, input) -> (B, hidden), and the state after it."""
        decay, value = self._terms(x_t)
        y_t = value if state is None else torch.addcmul(value, decay, state[0])
        return y_t, (y_t,)

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., input) -> decay and value (..., hidden), in full precision: small errors of a decay add up over time."""
        *gates, candidate = self.linear(x).to(torch.promote_types(x.dtype, torch.float32)).chunk(self.gates + 1, -1)
        logit = self._decay_logit(*gates)
        return torch.sigmoid(logit), torch.sigmoid(-logit) * candidate

    @abstractmethod
    def _decay_logit(self, *gates: Tensor) -> Tensor:
        """The gates (..., hidden) before their sigmoids -> that of the decay."""

    @abstractmethod
    def _gate_bias(self, logit: Tensor) -> Tensor:
        """Biases of all gates (gates * hidden,) that make ``logit`` (hidden,) that of the decay."""


class MinGru(MinimalLayer):
    """decay_t = 1 - sigmoid(U x_t), an update gate."""

    gates = 1

    def _decay_logit(self, *gates: Tensor) -> Tensor:
        return -gates[0]

    def _gate_bias(self, logit: Tensor) -> Tensor:
        return -logit


class MinLstm(MinimalLayer):
    """decay_t = f / (f + i), of a forget gate f = sigmoid(U x_t) and an input gate i = sigmoid(V x_t)."""

    gates = 2

    def _decay_logit(self, *gates: Tensor) -> Tensor:
        forget, accept = gates
        return logsigmoid(forget) - logsigmoid(accept)

    def _gate_bias(self, logit: Tensor) -> Tensor:
        return torch.cat((logit, -logit))  # log sigmoid(b) - log sigmoid(-b) = b
