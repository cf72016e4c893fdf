"""Recurrent cores: a sequence of vectors -> the hidden state at each time, whole, in chunks, or step by step with the same result.

``forward(x, state) -> (y, state)`` takes any number of frames and goes on from ``state``; ``step(x_t, state) -> (y_t, state)``
takes one. A state is a tuple of tensors (layers, B, hidden), of constant size; ``None`` is the beginning of a clip.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from reelscribe.models.dropout import SequenceDropout
from reelscribe.models.naming import unknown

State = tuple[Tensor, ...]

_INPUT_GAIN = 0.1  # on 11 drawn gestures, by cross-validation, against 1: rnn_tanh 0.86 -> 0.92, gru 0.92 -> 0.95, lstm 0.94 -> 0.94


class RecurrentCore(nn.Module, ABC):
    """What every core promises. ``causal`` cores can be stepped: the output at a time depends on nothing later."""

    causal: ClassVar[bool] = True

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size

    @abstractmethod
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, T, input) -> states (B, T, hidden), and the state after the last frame."""

    def step(self, x_t: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, input) -> (B, hidden), and the state after it."""
        y, state = self(x_t[:, None], state)
        return y[:, 0], state


class FusedCore(RecurrentCore):
    """Layers of one of torch.nn's fused kernels, variational dropout between them.

    Start: orthogonal recurrent weights per gate (arXiv 1312.6120), zero biases (a subclass may raise one), and input weights ten times
    smaller than Xavier's: in the linear part of tanh an orthogonal recurrence keeps what it has seen, while a saturated state is
    overwritten at each frame. (With rnn_tanh, after 32 frames of noise, the gradient of the first is 0.1 of the last's, not 5e-7.)
    """

    kernel: ClassVar[type[nn.RNN | nn.LSTM | nn.GRU]]
    gates: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int, *, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__(input_size, hidden_size)
        if layers < 1:
            raise ValueError(f"layers={layers}: expected at least 1")
        sizes = [input_size] + [hidden_size] * (layers - 1)
        self.layers = nn.ModuleList([self.kernel(size, hidden_size, batch_first=True) for size in sizes])
        self.dropout = SequenceDropout(dropout)
        for layer in self.layers:
            self._initialise(layer)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, T, input) -> states (B, T, hidden), and the state after the last frame."""
        after: list[State] = []
        for i, layer in enumerate(self.layers):
            x = self.dropout(x) if i else x
            x, carried = layer(x, None if state is None else self._unpack(tuple(part[i : i + 1] for part in state)))
            after.append(self._pack(carried))
        return x, tuple(torch.cat(parts) for parts in zip(*after, strict=True))

    def _initialise(self, layer: nn.Module) -> None:
        for name, parameter in layer.named_parameters():
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


class RnnTanh(FusedCore):
    """h_t = tanh(W x_t + U h_{t-1} + b) (Elman 1990)."""

    kernel = nn.RNN
    gates = 1


class Lstm(FusedCore):
    """Hochreiter and Schmidhuber 1997, with the forget gate (Gers 2000) starting at a bias of 1 (Jozefowicz 2015)."""

    kernel = nn.LSTM
    gates = 4

    def _initialise(self, layer: nn.Module) -> None:
        super()._initialise(layer)
        with torch.no_grad():  # gates are stored as input, forget, cell, output
            layer.get_parameter("bias_ih_l0")[self.hidden_size : 2 * self.hidden_size] = 1.0


class Gru(FusedCore):
    """Cho et al. 2014 (arXiv 1406.1078), in the variant of cuDNN."""

    kernel = nn.GRU
    gates = 3


# name -> (input_size, hidden_size, layers=, dropout=) -> core
CORES: dict[str, Callable[..., RecurrentCore]] = {
    "rnn_tanh": RnnTanh,
    "lstm": Lstm,
    "gru": Gru,
}


def build_core(name: str, input_size: int, hidden_size: int, *, layers: int = 1, dropout: float = 0.0) -> RecurrentCore:
    """A core by name. Raises ValueError naming the cores there are."""
    if name not in CORES:
        raise unknown("recurrent core", name, CORES)
    return CORES[name](input_size, hidden_size, layers=layers, dropout=dropout)
