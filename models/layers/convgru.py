"""A GRU whose state is a grid: convolutions in place of the matrix products (GRU-RCN, arXiv 1511.06432)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reelscribe.models.layers.base import RecurrentLayer, State

_KERNEL = 3  # cells


class ConvGru(RecurrentLayer):
    """The gates of torch.nn.GRU, with 3 x 3 convolutions over neighbouring cells.

    The recurrent convolution starts as an orthogonal map of each cell alone (arXiv 1806.05393), so that nothing blurs before it is learned.
    """

    spatial = True

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(input_size, 3 * hidden_size, _KERNEL, padding=_KERNEL // 2)
        self.recurrent = nn.Conv2d(hidden_size, 3 * hidden_size, _KERNEL, padding=_KERNEL // 2)
        nn.init.zeros_(self.recurrent.weight)
        for name in ("input.bias", "recurrent.bias"):
            nn.init.zeros_(self.get_parameter(name))
        for gate in self.input.weight.chunk(3):
            nn.init.xavier_uniform_(gate)
        with torch.no_grad():
            for gate in self.recurrent.weight[:, :, _KERNEL // 2, _KERNEL // 2].chunk(3):
                gate.copy_(nn.init.orthogonal_(torch.empty_like(gate)))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, T, input, h, w) -> (B, T, hidden, h, w), and the state after the last frame, (B, hidden, h, w)."""
        gates = self.input(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        states: list[Tensor] = []
        for gates_t in gates.unbind(1):
            before = states[-1] if states else state[0] if state is not None else None
            states.append(self._next(gates_t, before))
        return torch.stack(states, 1), (states[-1],)

    def step(self, x_t: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, input, h, w) -> (B, hidden, h, w), and the state after it."""
        y_t = self._next(self.input(x_t), None if state is None else state[0])
        return y_t, (y_t,)

    def _next(self, gates: Tensor, before: Tensor | None) -> Tensor:
        """What the frame asks for (B, 3 hidden, h, w), the state before -> the state."""
        reset, update, new = gates.chunk(3, 1)
        if before is None:
            before = torch.zeros_like(new)
        own_reset, own_update, own_new = self.recurrent(before).chunk(3, 1)
        new = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
        return torch.lerp(new, before, torch.sigmoid(update + own_update))
