"""A recurrent decoder that looks at the frames before each word (arXiv 1409.0473, 1502.08029).

At each step the decoder's state asks which moments matter now and, where the grid is kept, which cells of these moments; what it finds
and the word before are its input. The word scores come from the table of embeddings itself (tied, arXiv 1608.05859).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reelscribe.models.dropout import SequenceDropout
from reelscribe.models.naming import unknown

END, BEGIN, UNKNOWN = 0, 1, 2  # the first tokens of every vocabulary: the end, the beginning, and any word that is not in it
SPECIAL_TOKENS = 3

DecoderState = tuple[Tensor, ...]  # hidden state, of an lstm its cell, and with coverage the attention paid so far (B, T)

DECODERS: dict[str, type[nn.GRUCell | nn.LSTMCell]] = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}


class Memory(NamedTuple):
    """What the decoder looks at; made once a clip. All tensors have the clips of the batch as first dimension."""

    moments: Tensor  # (B, T, hidden)
    moment_keys: Tensor  # (B, T, hidden)
    counts: Tensor  # (B, T) true at frames that count
    start: Tensor  # (B, hidden), the decoder's first state
    cells: Tensor | None = None  # (B, T, S, hidden)
    cell_keys: Tensor | None = None  # (B, T, S, hidden)

    def repeated(self, times: int) -> Memory:
        """For so many hypotheses of each clip, which follow each other."""
        parts: dict[str, Tensor] = {name: part for name, part in self._asdict().items() if part is not None}
        return Memory(**{name: part.repeat_interleave(times, 0) for name, part in parts.items()})


class AdditiveAttention(nn.Module):
    """v . tanh(W q + k) (arXiv 1409.0473)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B, size), (B, M, size) -> scores (B, M)."""
        scores: Tensor = self.score(torch.tanh(self.query(query)[:, None] + keys)).squeeze(2)
        return scores


class DotAttention(nn.Module):
    """W q . k over the root of their size (arXiv 1706.03762)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, size, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B, size), (B, M, size) -> scores (B, M)."""
        asked: Tensor = self.query(query)
        return (keys @ asked[:, :, None]).squeeze(2) / math.sqrt(keys.shape[2])


ATTENTIONS: dict[str, type[AdditiveAttention | DotAttention]] = {"additive": AdditiveAttention, "dot": DotAttention}


class AttendingDecoder(nn.Module):
    """States of frames, and cells of their grids, -> scores of the next word.

    ``cell_channels`` of None attends to moments only. With ``coverage`` the attention that a moment has had so far, times a learned
    factor, adds to its score (after arXiv 1601.04811). Raises ValueError for an unknown name.
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        hidden_size: int,
        embedding_size: int,
        cell: str,
        attention: str,
        cell_channels: int | None,
        coverage: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        if cell not in DECODERS:
            raise unknown("decoder", cell, DECODERS)
        if attention not in ATTENTIONS:
            raise unknown("attention", attention, ATTENTIONS)
        self.embedding = nn.Embedding(num_tokens, embedding_size)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)  # the same table gives scores
        self.start = nn.Linear(hidden_size, hidden_size)
        self.moment_keys = nn.Linear(hidden_size, hidden_size)
        self.moment_attention = ATTENTIONS[attention](hidden_size)
        seen = hidden_size
        if cell_channels is not None:
            self.cells = nn.Sequential(nn.LayerNorm(cell_channels), nn.Linear(cell_channels, hidden_size), nn.ReLU())
            self.cell_keys = nn.Linear(hidden_size, hidden_size)
            self.cell_attention = ATTENTIONS[attention](hidden_size)
            seen += hidden_size
        self.sees_cells = cell_channels is not None
        self.coverage = nn.Parameter(torch.zeros(())) if coverage else None
        self.cell = DECODERS[cell](embedding_size + seen, hidden_size)
        self.dropout = SequenceDropout(dropout)
        self.output = nn.Linear(hidden_size + seen, embedding_size)
        self.bias = nn.Parameter(torch.zeros(num_tokens))

    def remember(self, states: Tensor, lengths: Tensor, summary: Tensor, cells: Tensor | None) -> Memory:
        """States (B, T, hidden), of which the first lengths (B,) count, their summary (B, hidden), and cells (B, T, C, h, w)."""
        counts = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        memory = Memory(states, self.moment_keys(states), counts, torch.tanh(self.start(summary)))
        if cells is None:
            return memory
        found = self.cells(cells.flatten(3).transpose(2, 3))  # (B, T, S, hidden)
        return memory._replace(cells=found, cell_keys=self.cell_keys(found))

    def first_state(self, memory: Memory) -> DecoderState:
        """The state before the first word."""
        cell = (torch.zeros_like(memory.start),) if isinstance(self.cell, nn.LSTMCell) else ()
        covered = (memory.counts.new_zeros(memory.counts.shape, dtype=memory.start.dtype),) if self.coverage is not None else ()
        return (memory.start, *cell, *covered)

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        """The words before (B,) -> scores (B, num_tokens), the state after, and where it looked: (B, T), or (B, T, S)."""
        found, state, looked = self._read(self.embedding(tokens), state, memory)
        return self._scores(found), state, looked

    def forward(self, tokens: Tensor, memory: Memory, own: Tensor | None = None) -> Tensor:
        """The words before each word (B, L) -> scores of the words (B, L, num_tokens).

        Where ``own`` (B, L) is true, the decoder is given what it would have said itself (scheduled sampling, arXiv 1506.03099).
        """
        state = self.first_state(memory)
        mask = self.dropout(self.embedding.weight.new_ones(len(tokens), self.embedding.embedding_dim))
        before, found = tokens[:, 0], list[Tensor]()
        for i in range(tokens.shape[1]):
            if own is not None and i:
                before = torch.where(own[:, i], self._scores(found[-1]).argmax(dim=1), tokens[:, i])
            elif i:
                before = tokens[:, i]
            here, state, _ = self._read(self.embedding(before) * mask, state, memory)
            found.append(here)
        return self._scores(self.dropout(torch.stack(found, 1)))

    def _read(self, embedded: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        """One step up to the word scores: (B, hidden + seen), the state after, and where it looked."""
        scores = self.moment_attention(state[0], memory.moment_keys)
        if self.coverage is not None:
            scores = scores + self.coverage * state[-1]
        weights = scores.masked_fill(~memory.counts, float("-inf")).softmax(dim=1)  # (B, T)
        seen, looked = (weights[:, None] @ memory.moments)[:, 0], weights
        if memory.cells is not None and memory.cell_keys is not None:
            inside = self.cell_attention(state[0], memory.cell_keys.flatten(1, 2)).view(memory.cells.shape[:3]).softmax(dim=2)
            looked = weights[:, :, None] * inside  # (B, T, S)
            seen = torch.cat((seen, (looked.flatten(1)[:, None] @ memory.cells.flatten(1, 2))[:, 0]), 1)
        given = torch.cat((embedded, seen), 1)
        after: DecoderState = (
            self.cell(given, (state[0], state[1])) if isinstance(self.cell, nn.LSTMCell) else (self.cell(given, state[0]),)
        )
        covered = () if self.coverage is None else (state[-1] + weights,)
        return torch.cat((after[0], seen), 1), (*after, *covered), looked

    def _scores(self, found: Tensor) -> Tensor:
        """(..., hidden + seen) -> (..., num_tokens)."""
        scores: Tensor = self.output(found) @ self.embedding.weight.T + self.bias
        return scores
