"""The classic layers on torch.nn's fused kernels, whole or cut into independent groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from reelscribe.models.layers.base import RecurrentLayer, State

_INPUT_GAIN = 0.1  # on 11 drawn gestures, by cross-validation, against 1: rnn_tanh 0.86 -> 0.92, gru 0.92 -> 0.95, lstm 0.94 -> 0.94


class FusedLayer(RecurrentLayer):
    """One fused kernel, or ``groups`` smaller ones side by side whose outputs a linear layer mixes.

    In g groups the weights are block-diagonal: 1/g of the parameters and multiply-adds, and the mixing layer's square on top. Groups
    share nothing within the recurrence, as in recurrent independent mechanisms (arXiv 1909.10893), but all are always active.

    Start: orthogonal recurrent weights per gate (arXiv 1312.6120), zero biases (a subclass may raise one), and input weights ten times
    smaller than Xavier's: in the linear part of tanh an orthogonal recurrence keeps what it has seen, while a saturated state is
    overwritten at each frame. (With rnn_tanh, after 32 frames of noise, the gradient of the first is 0.1 of the last's, not 5e-7.)
    """

    kernel: ClassVar[type[nn.RNN | nn.LSTM | nn.GRU]]
    cell: ClassVar[Callable[..., Any]]  # one step of the kernel, without what the kernel costs once a call
    gates: ClassVar[int]
    state_parts: ClassVar[int] = 1

    def __init__(self, input_size: int, hidden_size: int, *, groups: int = 1) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if groups < 1 or size % groups:
                raise ValueError(f"groups={groups}: expected a number that divides {name}={size}")
        self.group_size = hidden_size // groups
        self.kernels = nn.ModuleList([self.kernel(input_size // groups, self.group_size, batch_first=True) for _ in range(groups)])
        self.mix = nn.Linear(hidden_size, hidden_size, bias=False) if groups > 1 else None
        for kernel in self.kernels:
            self._initialise(kernel)
        if self.mix is not None:
            nn.init.orthogonal_(self.mix.weight)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, T, input) -> (B, T, hidden), and the state after the last frame, a tuple of (B, hidden)."""
        outputs, after = [], []
        for kernel, piece, before in zip(self.kernels, x.chunk(len(self.kernels), 2), self._split(state, x), strict=True):
            y, carried = kernel(piece, self._unpack(tuple(part[None].contiguous() for part in before)))
            outputs.append(y)
            after.append(tuple(part[0] for part in self._pack(carried)))
        return self._join(outputs, after)

    def step(self, x_t: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, input) -> (B, hidden), and the state after it."""
        after = []
        for kernel, piece, before in zip(self.kernels, x_t.chunk(len(self.kernels), 1), self._split(state, x_t), strict=True):
            assert isinstance(kernel, nn.RNNBase)
            after.append(self._pack(self.cell(piece, self._unpack(before), *kernel.all_weights[0])))
        return self._join([carried[0] for carried in after], after)

    def _split(self, state: State | None, x: Tensor) -> list[State]:
        """The state of each group."""
        if state is None:
            zeros = x.new_zeros(len(x), self.group_size)
            return [(zeros,) * self.state_parts] * len(self.kernels)
        return list(zip(*(part.chunk(len(self.kernels), 1) for part in state), strict=True))

    def _join(self, outputs: list[Tensor], states: list[State]) -> tuple[Tensor, State]:
        """Outputs and states of the groups as one."""
        if self.mix is None:
            return outputs[0], states[0]
        return self.mix(torch.cat(outputs, -1)), tuple(torch.cat(parts, -1) for parts in zip(*states, strict=True))

    def _initialise(self, kernel: nn.Module) -> None:
        for name, parameter in kernel.named_parameters():
            for gate in parameter.chunk(self.gates):
                if name.startswith("weight_hh"):
                    nn.init.orthogonal_(gate)
                elif name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(gate, gain=_INPUT_GAIN)
                else:
                    nn.init.zeros_(gate)

    @staticmethod
    def _pack(carried: Tensor | State) -> State:
        """The kernel's state as a tuple."""
        return carried if isinstance(carried, tuple) else (carried,)

    @staticmethod
    def _unpack(state: State) -> Tensor | State:
        """A tuple as the kernel takes it."""
        return state if len(state) > 1 else state[0]


class RnnTanh(FusedLayer):
    """h_t = tanh(W x_t + U h_{t-1} + b) (Elman 1990)."""

    kernel = nn.RNN
    cell = staticmethod(torch.rnn_tanh_cell)
    gates = 1


class Lstm(FusedLayer):
    """Hochreiter and Schmidhuber 1997, with the forget gate (Gers 2000) starting at a bias of 1 (Jozefowicz 2015)."""

    kernel = nn.LSTM
    cell = staticmethod(torch.lstm_cell)
    gates = 4
    state_parts = 2

    def _initialise(self, kernel: nn.Module) -> None:
        super()._initialise(kernel)
        with torch.no_grad():  # gates are stored as input, forget, cell, output
            kernel.get_parameter("bias_ih_l0")[self.group_size : 2 * self.group_size] = 1.0


class Gru(FusedLayer):
    """Cho et al. 2014 (arXiv 1406.1078), in the variant of cuDNN."""

    kernel = nn.GRU
    cell = staticmethod(torch.gru_cell)
    gates = 3
