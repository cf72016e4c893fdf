"""The linear recurrence h_t = decay_t * h_{t-1} + value_t over a whole sequence, with its exact gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reelscribe.models.exporting import is_exported


def linear_scan(decay: Tensor, value: Tensor, start: Tensor) -> Tensor:
    """decay, value (B, T, H) and h_0 (B, H) -> h_1 .. h_T (B, T, H); decays are expected within 0 .. 1.

    Both ways of computing it work on the numbers themselves, which such decays keep stable: the sum of logarithms of the log-space scan
    (arXiv 2311.06281) loses digits as clips grow (error at T = 1024 in float32: 8e-5, here 2e-7) and allows no negative values.
    """
    if is_exported():  # on its way to an exported graph, which has neither gradients nor assignments
        return scan_by_doubling(decay, _started(decay, value, start))
    scanned: Tensor = _LinearScan.apply(decay, value, start)
    return scanned


def scan_by_doubling(decay: Tensor, value: Tensor) -> Tensor:
    """All times at once from h_0 = 0, in log2(T) rounds, each of which reaches twice as far back (Hillis and Steele 1986)."""
    reach = 1
    while reach < decay.shape[1]:
        value = torch.cat((value[:, :reach], torch.addcmul(value[:, reach:], decay[:, reach:], value[:, :-reach])), 1)
        decay = torch.cat((decay[:, :reach], decay[:, reach:] * decay[:, :-reach]), 1)
        reach *= 2
    return value


def scan_by_frame(decay: Tensor, value: Tensor) -> Tensor:
    """One time after the other from h_0 = 0: the least work."""
    out = torch.empty_like(value.transpose(0, 1), memory_format=torch.contiguous_format)  # (T, B, H): a frame lies together
    out[0] = value[:, 0]
    for t in range(1, len(out)):
        torch.addcmul(value[:, t], decay[:, t], out[t - 1], out=out[t])
    return out.transpose(0, 1)


class _LinearScan(torch.autograd.Function):
    """Autograd through the rounds, or through T single steps, would keep all they made; the gradient is itself such a recurrence."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, value: Tensor, start: Tensor) -> Tensor:
        states = _scan(decay, _started(decay, value, start))
        ctx.save_for_backward(decay, states, start)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """G_t = dL/dh_t + decay_{t+1} G_{t+1} is the gradient of value_t; that of decay_t is G_t h_{t-1}."""
        decay, states, start = ctx.saved_tensors
        later = torch.cat((decay[:, 1:], torch.zeros_like(decay[:, :1])), 1)
        of_value = _scan(later.flip(1), gradient.flip(1)).flip(1)
        before = torch.cat((start[:, None], states[:, :-1]), 1)
        return of_value * before, of_value, of_value[:, 0] * decay[:, 0]


def _started(decay: Tensor, value: Tensor, start: Tensor) -> Tensor:
    """The values of a scan from zero that gives what one from ``start`` would."""
    return torch.cat((torch.addcmul(value[:, :1], decay[:, :1], start[:, None]), value[:, 1:]), 1)


def _scan(decay: Tensor, value: Tensor) -> Tensor:
    # A processor core has no idle lanes that would pay for the log2(T) times as much work: 3 to 4 times as long at T = 256 and 1024.
    return scan_by_doubling(decay, value) if decay.is_cuda else scan_by_frame(decay, value)
