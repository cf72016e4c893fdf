"""Readouts: hidden states over time -> one vector per clip, with an exact running form.

Every readout is a fold: ``forward(states, lengths, carried) -> (summary, carried)`` takes the next frames and gives the summary of all
frames so far. A whole clip is one call from ``carried=None``; a stream is one call per frame. Frames past a clip's length change nothing.
``running(states, carried)`` gives the summaries after each of the frames at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from reelscribe.models.exporting import is_exported
from reelscribe.models.naming import unknown

Carried = tuple[Tensor, ...]


class Readout(nn.Module, ABC):
    """What every readout promises."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size

    @abstractmethod
    def forward(self, states: Tensor, lengths: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """States (B, T, H), of which the first lengths (B,) >= 1 count -> summary (B, H), and what the next call takes."""

    @abstractmethod
    def running(self, states: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """States (B, T, H) -> (B, T, H), the summary up to each frame, and what the next call takes."""


class LastReadout(Readout):
    """The state at the last frame."""

    def forward(self, states: Tensor, lengths: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:  # noqa: ARG002
        """(B, T, H) -> (B, H): the state at ``lengths - 1``."""
        index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
        return states.gather(1, index).squeeze(1), ()

    def running(self, states: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:  # noqa: ARG002
        """(B, T, H) -> the same."""
        return states, ()


class MeanReadout(Readout):
    """The mean over time, carried as sum and count."""

    def forward(self, states: Tensor, lengths: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, H) -> (B, H)."""
        mask = _valid(states, lengths)
        total = (states * mask).sum(1)
        count = lengths.to(states.dtype).unsqueeze(-1)
        if carried is not None:
            total, count = total + carried[0], count + carried[1]
        return total / count, (total, count)

    def running(self, states: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, H) -> (B, T, H)."""
        total = states.cumsum(1)
        count = torch.arange(1, states.shape[1] + 1, device=states.device, dtype=states.dtype).expand(len(states), -1).unsqueeze(-1)
        if carried is not None:
            total, count = total + carried[0].unsqueeze(1), count + carried[1].unsqueeze(1)
        return total / count, (total[:, -1], count[:, -1])


class MaxReadout(Readout):
    """The largest value of each channel over time."""

    def forward(self, states: Tensor, lengths: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, H) -> (B, H)."""
        largest = states.masked_fill(~_valid(states, lengths), float("-inf")).amax(1)
        if carried is not None:
            largest = torch.maximum(largest, carried[0])
        return largest, (largest,)

    def running(self, states: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, H) -> (B, T, H)."""
        largest = _largest_so_far(states)
        if carried is not None:
            largest = torch.maximum(largest, carried[0].unsqueeze(1))
        return largest, (largest[:, -1],)


class AttentionReadout(Readout):
    """A softmax over time of a learned score, v . tanh(W h_t) (arXiv 1703.03130), carried as a running softmax (arXiv 1805.02867)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.project = nn.Linear(hidden_size, hidden_size)
        self.score = nn.Linear(hidden_size, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, states: Tensor, lengths: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, H) -> (B, H)."""
        scores = self._scores(states)
        scores = scores.masked_fill(~_valid(states, lengths), float("-inf"))
        peak = scores.amax(1)  # (B, 1)
        if carried is not None:
            peak = torch.maximum(peak, carried[0])
        weights = (scores - peak.unsqueeze(1)).exp()
        total, norm = (weights * states).sum(1), weights.sum(1)
        if carried is not None:
            shrink = (carried[0] - peak).exp()
            total, norm = total + carried[1] * shrink, norm + carried[2] * shrink
        return total / norm, (peak, total, norm)

    def running(self, states: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, H) -> (B, T, H)."""
        scores = self._scores(states)
        peak = _largest_so_far(scores)  # (B, T, 1)
        if carried is not None:
            peak = torch.maximum(peak, carried[0].unsqueeze(1))
        later = torch.ones(len(scores[0]), len(scores[0]), dtype=torch.bool, device=states.device).triu(1)
        weights = (scores.transpose(1, 2) - peak).masked_fill(later, float("-inf")).exp()  # (B, T, T): at each time, of each frame (last)
        total, norm = weights @ states, weights.sum(2, keepdim=True)
        if carried is not None:
            shrink = (carried[0].unsqueeze(1) - peak).exp()
            total, norm = total + carried[1].unsqueeze(1) * shrink, norm + carried[2].unsqueeze(1) * shrink
        return total / norm, (peak[:, -1], total[:, -1], norm[:, -1])

    def _scores(self, states: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, 1)."""
        scores: Tensor = self.score(torch.tanh(self.project(states)))
        return scores


def _valid(states: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, 1), true at frames that count."""
    return (torch.arange(states.shape[1], device=states.device) < lengths.view(-1, 1)).unsqueeze(-1)


def _largest_so_far(x: Tensor) -> Tensor:
    """(B, T, C) -> the same: torch.cummax, which ONNX lacks, in log2(T) rounds where a graph is exported."""
    if not is_exported():
        return x.cummax(1).values
    reach = 1
    while reach < x.shape[1]:
        x = torch.cat((x[:, :reach], torch.maximum(x[:, reach:], x[:, :-reach])), 1)
        reach *= 2
    return x


READOUTS: dict[str, type[Readout]] = {
    "last": LastReadout,
    "mean": MeanReadout,
    "max": MaxReadout,
    "attention": AttentionReadout,
}


def build_readout(name: str, hidden_size: int) -> Readout:
    """A readout by name. Raises ValueError naming the readouts there are."""
    if name not in READOUTS:
        raise unknown("readout", name, READOUTS)
    return READOUTS[name](hidden_size)
