"""A causal transformer layer over the last frames: the baseline that recurrence has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from reelscribe.models.layers.base import RecurrentLayer, State

_HEADS = 4
DEFAULT_CONTEXT = 64


class WindowAttention(RecurrentLayer):
    """Pre-norm attention and a feed-forward part (arXiv 2002.04745), over the last ``context`` frames, the current one included.

    Keys and values of ``context - 1`` frames are the state, so that its size is constant. Position is a learned bias per head
    and lag (as in arXiv 1910.10683): no absolute time, so that a stream of any length looks like its beginning.
    """

    def __init__(self, input_size: int, hidden_size: int, *, context: int = DEFAULT_CONTEXT) -> None:
        super().__init__()
        if context < 1:
            raise ValueError(f"context={context}: expected at least 1 frame")
        if hidden_size % _HEADS:
            raise ValueError(f"hidden size {hidden_size}: attention has {_HEADS} heads, expected a multiple of {_HEADS}")
        self.context = context
        self.embed = nn.Linear(input_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.queries_keys_values = nn.Linear(hidden_size, 3 * hidden_size)
        self.lag_bias = nn.Parameter(torch.zeros(_HEADS, context))
        self.mix = nn.Linear(hidden_size, hidden_size)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(hidden_size), nn.Linear(hidden_size, 2 * hidden_size), nn.GELU(), nn.Linear(2 * hidden_size, hidden_size)
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, T, input) -> (B, T, hidden), and keys and values (B, context - 1, hidden) with the count (B,) of those that are frames."""
        x = self.embed(x)
        queries, new_keys, new_values = self.queries_keys_values(self.attention_norm(x)).chunk(3, 2)
        kept = self.context - 1
        if state is None:
            keys, values, count = new_keys, new_values, None
            after = torch.full((len(x),), min(x.shape[1], kept), dtype=torch.int64, device=x.device)
        else:
            keys, values, count = torch.cat((state[0], new_keys), 1), torch.cat((state[1], new_values), 1), state[2]
            after = (count + x.shape[1]).clamp(max=kept)
        q, k, v = (part.unflatten(2, (_HEADS, -1)).transpose(1, 2) for part in (queries, keys, values))  # (B, heads, T, hidden / heads)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=self._bias(x.shape[1], keys.shape[1], count).to(q.dtype))
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        y: Tensor = x + self.feed_forward(x)
        return y, (self._newest(keys), self._newest(values), after)

    def step(self, x_t: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(B, input) -> (B, hidden), and the state after it."""
        y, state = self.forward(x_t[:, None], state)
        return y[:, 0], state

    def _bias(self, queries: int, keys: int, count: Tensor | None) -> Tensor:
        """What is added to the score of each query and key, (1 or B, heads, queries, keys): minus infinity where it may not look."""
        position = torch.arange(keys, device=self.lag_bias.device)
        if count is not None and queries == 1:  # a step: of a full window, nothing is out of sight
            bias = self.lag_bias.flip(1)[None, :, None]
        else:
            lag = position[keys - queries :, None] - position  # of the last keys are the queries
            hidden = (lag < 0) | (lag >= self.context)
            bias = self.lag_bias[:, lag.clamp(0, self.context - 1)].masked_fill(hidden, float("-inf"))[None]
        if count is None:
            return bias
        empty = position < (keys - queries - count)[:, None]  # (B, keys): the cache is filled from its end
        return bias.masked_fill(empty[:, None, None], float("-inf"))

    def _newest(self, past: Tensor) -> Tensor:
        """(B, any, hidden) -> the last ``context - 1``, with zeros before where there are fewer."""
        kept = self.context - 1
        past = past[:, past.shape[1] - min(kept, past.shape[1]) :]
        return pad(past, (0, 0, kept - past.shape[1], 0)) if past.shape[1] < kept else past
