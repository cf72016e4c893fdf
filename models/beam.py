"""From scores of the next word to whole sentences: the best word each time, the best of several sentences at once, or drawn at random.

All three take ``step(tokens, state) -> (log-probabilities (N, V), state, attention (N, ...))`` of N sentences at once, and the state before
the first word: a tuple of tensors with the sentences as first dimension. None of them depends on what a network looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], tuple[Tensor, State, Tensor]]


class Hypothesis(NamedTuple):
    """One sentence."""

    tokens: tuple[int, ...]  # without the beginning and the end
    log_probability: float  # of the tokens and the end after them
    attention: Tensor  # (L + 1, ...) where each token, and the end, looked

    def score(self, length_penalty: float) -> float:
        """The log-probability over the number of tokens, the end included, to the power of the penalty (as in arXiv 1609.08144)."""
        shrunk: float = self.log_probability / (len(self.tokens) + 1) ** length_penalty
        return shrunk


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a sentence may be. Raises ValueError for numbers that cannot be."""

    begin: int
    end: int
    never: tuple[int, ...] = ()  # tokens that are not said
    min_length: int = 1  # tokens, without the end
    max_length: int = 20
    no_repeat_ngram: int = 0  # no run of so many tokens comes twice; 0 allows all
    length_penalty: float = 1.0  # 0 prefers short sentences, 1 compares means

    def __post_init__(self) -> None:
        if not 0 <= self.min_length <= self.max_length or self.max_length < 1:
            raise ValueError(f"min_length={self.min_length}, max_length={self.max_length}: expected 0 <= min <= max, and max of 1 or more")

    def allowed(self, log_probabilities: Tensor, said: Tensor) -> Tensor:
        """(N, V) after the tokens (N, L): minus infinity for what may not follow. The end may where nothing else does."""
        kept = log_probabilities.clone()
        kept[:, [self.begin, *self.never]] = -torch.inf
        n, length = self.no_repeat_ngram, said.shape[1]
        if n and length >= n:
            runs = said.unfold(1, n, 1)  # (N, L - n + 1, n)
            again = (runs[..., :-1] == said[:, None, length - n + 1 :]).all(dim=2)
            rows, places = again.nonzero(as_tuple=True)
            kept[rows, runs[rows, places, -1]] = -torch.inf
        if length < self.min_length:
            kept[:, self.end] = -torch.inf
        over = (length >= self.max_length) | kept.isneginf().all(dim=1)
        only_end = torch.full_like(kept, -torch.inf)
        only_end[:, self.end] = log_probabilities[:, self.end]
        return torch.where(over[:, None], only_end, kept)


def greedy(step: Step, state: State, *, count: int, rules: Rules) -> list[Hypothesis]:
    """The most probable token each time, for ``count`` sentences."""
    return _one_by_one(step, state, count, rules, lambda allowed: allowed.argmax(dim=1))


def sample(
    step: Step, state: State, *, count: int, rules: Rules, temperature: float, top_p: float, generator: torch.Generator
) -> list[Hypothesis]:
    """Tokens drawn at a temperature from the fewest that together have a probability of ``top_p`` (arXiv 1904.09751)."""
    if temperature <= 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature={temperature}, top_p={top_p}: expected a temperature above 0, and 0 < top_p <= 1")

    def draw(allowed: Tensor) -> Tensor:
        shares, order = (allowed / temperature).softmax(dim=1).sort(dim=1, descending=True)
        shares[shares.cumsum(dim=1) - shares >= top_p] = 0  # the first always stays
        return order.gather(1, torch.multinomial(shares.cpu(), 1, generator=generator).to(order.device))[:, 0]

    return _one_by_one(step, state, count, rules, draw)


def _one_by_one(step: Step, state: State, count: int, rules: Rules, pick: Callable[[Tensor], Tensor]) -> list[Hypothesis]:
    """Sentences that never look back: ``pick`` chooses a token (N,) from the log-probabilities (N, V) of those allowed."""
    device = state[0].device
    tokens = torch.full((count,), rules.begin, device=device)
    said = torch.zeros(count, 0, dtype=torch.long, device=device)
    total, open_ = torch.zeros(count, device=device), torch.ones(count, dtype=torch.bool, device=device)
    looked: list[Tensor] = []
    while open_.any():
        log_probabilities, state, attention = step(tokens, state)
        allowed = rules.allowed(log_probabilities, said)
        tokens = torch.where(open_, pick(allowed), rules.end)
        total = total + torch.where(open_, log_probabilities.gather(1, tokens[:, None])[:, 0], 0)
        said, open_ = torch.cat((said, tokens[:, None]), 1), open_ & (tokens != rules.end)
        looked.append(attention)
    attention = torch.stack(looked, 1)  # (N, L + 1, ...)
    lengths = (said != rules.end).sum(dim=1).tolist()
    return [
        Hypothesis(tuple(words[:length].tolist()), float(score), where[: length + 1])
        for words, length, score, where in zip(said, lengths, total, attention, strict=True)
    ]


@dataclass
class _Beams:
    """Sentences that are still open, ``width`` a clip in a row, and those that ended."""

    total: Tensor  # (clips, width) log-probabilities; minus infinity where there is none
    said: Tensor  # (clips * width, L)
    attention: list[Tensor] = field(default_factory=list)  # of each step (clips * width, ...)
    ended: list[list[Hypothesis]] = field(default_factory=list)  # of each clip

    def room(self) -> Tensor:
        """How many sentences of each clip may still be open (clips, 1): one that ends leaves its place empty."""
        return torch.tensor([[self.total.shape[1] - len(ended)] for ended in self.ended], device=self.total.device)

    def end(self, clip: int, row: int, log_probability: float) -> None:
        """The sentence in this row is complete."""
        words = tuple(self.said[row].tolist())
        self.ended[clip].append(Hypothesis(words, log_probability, torch.stack([looked[row] for looked in self.attention])))


def beam_search(step: Step, state: State, *, count: int, width: int, rules: Rules) -> list[list[Hypothesis]]:
    """Up to ``width`` sentences for each of ``count`` clips, best first; ``state`` is that of the clips.

    A sentence that ends keeps its place, so that a width of 1 is the greedy search and a width of all sentences an exhaustive one.
    """
    if width < 1:
        raise ValueError(f"width={width}: expected at least 1")
    state = tuple(part.repeat_interleave(width, 0) for part in state)
    device = state[0].device
    first = torch.arange(count, device=device)[:, None] * width  # the first row of each clip
    tokens = torch.full((count * width,), rules.begin, device=device)
    total = torch.full((count, width), -torch.inf, device=device)
    total[:, 0] = 0
    beams = _Beams(total, torch.zeros(count * width, 0, dtype=torch.long, device=device), ended=[[] for _ in range(count)])
    while not beams.total.isneginf().all():
        log_probabilities, state, attention = step(tokens, state)
        beams.attention.append(attention)
        allowed = rules.allowed(log_probabilities, beams.said) + beams.total.view(-1, 1)
        best, place = allowed.view(count, -1).topk(width, dim=1)
        rows, following = first + place // allowed.shape[1], place % allowed.shape[1]
        taken = (torch.arange(width, device=device) < beams.room()) & ~best.isneginf()
        ends = taken & (following == rules.end)
        for clip, rank in ends.nonzero().tolist():
            beams.end(clip, int(rows[clip, rank]), float(best[clip, rank]))
        order, tokens = rows.flatten(), following.flatten()
        beams.total = best.masked_fill(~taken | ends, -torch.inf)
        beams.said = torch.cat((beams.said[order], tokens[:, None]), 1)
        beams.attention = [looked[order] for looked in beams.attention]
        state = tuple(part[order] for part in state)
    return [sorted(ended, key=lambda found: found.score(rules.length_penalty), reverse=True) for ended in beams.ended]
