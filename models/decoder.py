"""A recurrent decoder that looks at the frames before it says a word (attention after the recurrence, arXiv 1508.04025).

The decoder's state after the words so far asks which moments matter now and, where the grid is kept, which cells of these moments; the
state and what it finds give the word. As what was found does not feed the recurrence, all words of a caption are learnt at once. The word
scores come from the table of embeddings itself (tied, arXiv 1608.05859).
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

DECODERS: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


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
        repeated = {id(part): part.repeat_interleave(times, 0) for part in parts.values()}  # once where the keys are what is seen itself
        return Memory(**{name: repeated[id(part)] for name, part in parts.items()})


class AdditiveAttention(nn.Module):
    """v . tanh(W q + K s) (arXiv 1409.0473)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, size, bias=False)
        self.keys = nn.Linear(size, size)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, L, size), (B, M, size) -> scores (B, L, M); query by query, as all together would take L times the memory."""
        asked: Tensor = self.query(queries)
        return torch.stack([self.score(torch.tanh(one[:, None] + keys)).squeeze(2) for one in asked.unbind(1)], 1)


class DotAttention(nn.Module):
    """W q . s (``general`` in arXiv 1508.04025) over the root of their size (arXiv 1706.03762).

    A map of the keys would only multiply W, and its bias would cancel in the softmax.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, size, bias=False)
        self.keys = nn.Identity()

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, L, size), (B, M, size) -> scores (B, L, M)."""
        asked: Tensor = self.query(queries)
        return asked @ keys.transpose(1, 2) / math.sqrt(keys.shape[2])


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
        self.moment_attention = ATTENTIONS[attention](hidden_size)
        seen = hidden_size
        if cell_channels is not None:
            self.cells = nn.Sequential(nn.Linear(cell_channels, hidden_size), nn.ReLU())  # no norm: what stands still is to stay small
            self.cell_attention = ATTENTIONS[attention](hidden_size)
            seen += hidden_size
        self.sees_cells = cell_channels is not None
        self.coverage = nn.Parameter(torch.zeros(())) if coverage else None
        self.recurrent = DECODERS[cell](embedding_size, hidden_size, batch_first=True)
        self.dropout = SequenceDropout(dropout)
        self.output = nn.Linear(hidden_size + seen, embedding_size)
        self.bias = nn.Parameter(torch.zeros(num_tokens))

    def remember(self, states: Tensor, lengths: Tensor, summary: Tensor, cells: Tensor | None) -> Memory:
        """States (B, T, hidden), of which the first lengths (B,) count, their summary (B, hidden), and cells (B, T, C, h, w)."""
        counts = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        memory = Memory(states, self.moment_attention.keys(states), counts, torch.tanh(self.start(summary)))
        if cells is None:
            return memory
        found = self.cells(cells.flatten(3).transpose(2, 3))  # (B, T, S, hidden)
        return memory._replace(cells=found, cell_keys=self.cell_attention.keys(found))

    def first_state(self, memory: Memory) -> DecoderState:
        """The state before the first word."""
        cell = (torch.zeros_like(memory.start),) if isinstance(self.recurrent, nn.LSTM) else ()
        covered = (memory.counts.new_zeros(memory.counts.shape, dtype=memory.start.dtype),) if self.coverage is not None else ()
        return (memory.start, *cell, *covered)

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        """The words before (B,) -> scores (B, num_tokens), the state after, and where it looked: (B, T), or (B, T, S)."""
        found, state, looked = self._read(self.embedding(tokens[:, None]), state, memory)
        return self._scores(found)[:, 0], state, looked[:, 0]

    def forward(self, tokens: Tensor, memory: Memory, own: Tensor | None = None) -> Tensor:
        """The words before each word (B, L) -> scores of the words (B, L, num_tokens).

        Where ``own`` (B, L) is true, the decoder is given what it would say after the true words (scheduled sampling, arXiv 1506.03099, in
        two passes as in arXiv 1906.07651).
        """
        if own is not None:
            with torch.no_grad():
                said = self._hear(tokens, memory).argmax(dim=2)
            tokens = torch.cat((tokens[:, :1], torch.where(own[:, 1:], said[:, :-1], tokens[:, 1:])), 1)
        return self._hear(tokens, memory)

    def _hear(self, tokens: Tensor, memory: Memory) -> Tensor:
        found, _, _ = self._read(self.dropout(self.embedding(tokens)), self.first_state(memory), memory)
        return self._scores(self.dropout(found))

    def _read(self, embedded: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        """Words (B, L, embedding) up to the word scores: (B, L, hidden + seen), the state after, and where it looked (B, L, ...)."""
        parts = 2 if isinstance(self.recurrent, nn.LSTM) else 1
        before = tuple(part[None].contiguous() for part in state[:parts])  # (1, B, hidden)
        asked, after = self.recurrent(embedded, before if parts == 2 else before[0])
        carried = tuple(part[0] for part in after) if parts == 2 else (after[0],)
        weights, covered = self._moments(asked, state, memory)
        seen, looked = weights @ memory.moments, weights
        if memory.cells is not None and memory.cell_keys is not None:
            inside = self.cell_attention(asked, memory.cell_keys.flatten(1, 2)).unflatten(2, memory.cells.shape[1:3]).softmax(dim=3)
            looked = weights[..., None] * inside  # (B, L, T, S)
            seen = torch.cat((seen, looked.flatten(2) @ memory.cells.flatten(1, 2)), 2)
        return torch.cat((asked, seen), 2), (*carried, *covered), looked

    def _moments(self, asked: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState]:
        """States (B, L, hidden) -> the weight of each moment (B, L, T), and with coverage the attention paid so far."""
        scores = self.moment_attention(asked, memory.moment_keys).masked_fill(~memory.counts[:, None], float("-inf"))
        if self.coverage is None:
            return scores.softmax(dim=2), ()
        covered, weights = state[-1], list[Tensor]()
        for one in scores.unbind(1):
            weights.append((one + self.coverage * covered).softmax(dim=1))
            covered = covered + weights[-1]
        return torch.stack(weights, 1), (covered,)

    def _scores(self, found: Tensor) -> Tensor:
        """(..., hidden + seen) -> (..., num_tokens)."""
        scores: Tensor = self.output(found) @ self.embedding.weight.T + self.bias
        return scores
