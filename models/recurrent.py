"""Recurrent cores: a sequence -> the hidden state at each time, whole, in chunks, or step by step with the same result.

``forward(x, state) -> (y, state)`` takes any number of frames and goes on from ``state``; ``step(x_t, state) -> (y_t, state)``
takes one. A state is a flat tuple of tensors of constant size with the batch as first dimension; ``None`` is the beginning of a clip.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reelscribe.models.dropout import SequenceDropout
from reelscribe.models.layers.attention import WindowAttention
from reelscribe.models.layers.base import RecurrentLayer, State
from reelscribe.models.layers.convgru import ConvGru
from reelscribe.models.layers.fused import Gru, Lstm, RnnTanh
from reelscribe.models.layers.minimal import MinGru, MinLstm
from reelscribe.models.layers.per_frame import PerFrame
from reelscribe.models.naming import unknown

# name -> (input_size, hidden_size, options of its own) -> layer
CORES: dict[str, type[RecurrentLayer]] = {
    "rnn_tanh": RnnTanh,
    "lstm": Lstm,
    "gru": Gru,
    "convgru": ConvGru,
    "mingru": MinGru,
    "minlstm": MinLstm,
    "transformer": WindowAttention,
    "mean": PerFrame,
}

# option -> the cores that have it; all other options work for every core, unless build_core says why not
OWN_OPTIONS: dict[str, tuple[str, ...]] = {"groups": ("rnn_tanh", "lstm", "gru"), "context": ("transformer",)}


class RecurrentCore(nn.Module):
    """A stack of layers of one kind.

    Between layers variational dropout; ``layer_norm`` after each (over channels; where there is a grid, over its cells too); ``residual``
    around each but the first. ``bidirectional`` gives one half of the channels to a stack that reads the clip from its end: such a core
    has no state and cannot be stepped. With ``time_gaps`` it is told the seconds since the frame before, for frames sampled unevenly.
    """

    def __init__(
        self,
        kind: type[RecurrentLayer],
        input_size: int,
        hidden_size: int,
        *,
        layers: int,
        dropout: float,
        layer_norm: bool,
        residual: bool,
        bidirectional: bool,
        time_gaps: bool,
        **own: Any,
    ) -> None:
        super().__init__()
        self.spatial, self.ordered, self.causal = kind.spatial, kind.ordered, not bidirectional
        self.residual = residual
        sizes = [input_size] + [hidden_size] * (layers - 1)
        width = hidden_size // 2 if bidirectional else hidden_size
        self.layers = nn.ModuleList([kind(size, width, **own) for size in sizes])
        self.from_end = nn.ModuleList([kind(size, width, **own) for size in sizes if bidirectional])
        self.norms = nn.ModuleList([nn.GroupNorm(1, hidden_size) for _ in sizes if layer_norm])  # one group is a layer norm
        self.gap = nn.Linear(1, input_size, bias=False) if time_gaps else None
        self.dropout = SequenceDropout(dropout)

    def forward(
        self, x: Tensor, state: State | None = None, *, lengths: Tensor | None = None, gaps: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """(B, T, input) -> states (B, T, hidden), and the state after the last frame; a spatial core has (h, w) behind both.

        ``lengths`` (B,) says which frames count; only a bidirectional core needs to know. ``gaps`` (B, T) are seconds since the frame
        before, zero at the first of a clip. Raises ValueError for gaps that the core does not take or lacks, and where a bidirectional
        one is to go on from a state.
        """
        if state is not None:
            self.require_causal()
        if x.shape[1] == 1 and self.causal and not self.training:
            y_t, state = self.step(x[:, 0], state, gap=None if gaps is None else gaps[:, 0])
            return y_t[:, None], state
        x = self._with_gaps(x, gaps)
        after: list[Tensor] = []
        for i, (layer, before) in enumerate(zip(self.layers, self._split(state), strict=True)):
            x = self.dropout(x) if i else x
            y, carried = layer(x, before)
            if self.from_end:
                y = torch.cat((y, _reversed(self.from_end[i](_reversed(x, lengths))[0], lengths)), 2)
            if self.norms:
                y = self.norms[i](y.flatten(0, 1)).unflatten(0, y.shape[:2])
            x = x + y if self.residual and i else y
            after.extend(carried)
        return x, tuple(after) if self.causal else ()

    def step(self, x_t: Tensor, state: State | None = None, *, gap: Tensor | None = None) -> tuple[Tensor, State]:
        """One frame (B, input) -> (B, hidden), and the state after it: what ``forward`` gives in evaluation, sooner. ``gap`` is (B,)."""
        self.require_causal()
        x_t = self._with_gaps(x_t, gap)
        after: list[Tensor] = []
        for i, (layer, before) in enumerate(zip(self.layers, self._split(state), strict=True)):
            assert isinstance(layer, RecurrentLayer)
            y_t, carried = layer.step(x_t, before)
            if self.norms:
                y_t = self.norms[i](y_t)
            x_t = x_t + y_t if self.residual and i else y_t
            after.extend(carried)
        return x_t, tuple(after)

    def require_causal(self) -> None:
        """Raises ValueError if the core is bidirectional."""
        if not self.causal:
            raise ValueError(
                "a bidirectional model reads the clip from its end too, so it cannot be stepped: train with bidirectional=False"
            )

    def _split(self, state: State | None) -> list[State | None]:
        """The part of each layer."""
        if state is None:
            return [None] * len(self.layers)
        parts = len(state) // len(self.layers)
        return [state[i * parts : (i + 1) * parts] for i in range(len(self.layers))]

    def _with_gaps(self, x: Tensor, gaps: Tensor | None) -> Tensor:
        """Add a learned direction, as far as the logarithm of the gap is long."""
        if self.gap is None:
            if gaps is not None:
                raise ValueError("gaps were given to a model without time_gaps=True")
            return x
        if gaps is None:
            raise ValueError("a model with time_gaps=True needs gaps: the seconds since the frame before, zero at the first")
        added: Tensor = self.gap(torch.log1p(gaps.to(x.dtype)).unsqueeze(-1))
        return x + (added[..., None, None] if self.spatial else added)


def core_kind(name: str) -> type[RecurrentLayer]:
    """The layer of a core by name. Raises ValueError naming the cores there are."""
    if name not in CORES:
        raise unknown("recurrent core", name, CORES)
    return CORES[name]


def build_core(
    name: str,
    input_size: int,
    hidden_size: int,
    *,
    layers: int = 1,
    dropout: float = 0.0,
    layer_norm: bool = False,
    residual: bool = False,
    bidirectional: bool = False,
    time_gaps: bool = False,
    groups: int = 1,
    context: int | None = None,
) -> RecurrentCore:
    """A core by name. ``groups`` cuts the fused ones into independent parts, ``context`` is how many frames the transformer sees.

    Raises ValueError naming the cores there are, or why an option cannot be.
    """
    kind = core_kind(name)
    if layers < 1:
        raise ValueError(f"layers={layers}: expected at least 1")
    if residual and layers == 1:
        raise ValueError("residual=True: expected layers of at least 2, as the first has no residual")
    if bidirectional and not kind.ordered:
        raise ValueError(f"bidirectional=True: '{name}' knows no order, so it has no other direction")
    if bidirectional and hidden_size % 2:
        raise ValueError(f"bidirectional=True: expected an even size to give each direction a half, got {hidden_size}")
    own: dict[str, Any] = {} if groups == 1 else {"groups": groups}
    own |= {} if context is None else {"context": context}
    for option, value in own.items():
        if name not in OWN_OPTIONS[option]:
            raise ValueError(f"{option}={value}: '{name}' has no such option, only {', '.join(OWN_OPTIONS[option])}")
    return RecurrentCore(
        kind,
        input_size,
        hidden_size,
        layers=layers,
        dropout=dropout,
        layer_norm=layer_norm,
        residual=residual,
        bidirectional=bidirectional,
        time_gaps=time_gaps,
        **own,
    )


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, T, ...) with the first ``lengths`` frames of each clip in reverse order, and padding where it was."""
    if lengths is None:
        return x.flip(1)
    time = torch.arange(x.shape[1], device=x.device)
    index = lengths[:, None] - 1 - time
    return x[torch.arange(len(x), device=x.device)[:, None], torch.where(index < 0, time, index)]
