"""The scan against the recurrence written as a loop, in double precision, and its gradient against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reelscribe.models.layers.scan import linear_scan, scan_by_doubling, scan_by_frame


def terms(frames: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    decay = torch.rand(2, frames, 3, generator=generator, dtype=torch.float64)
    return decay, torch.randn(2, frames, 3, generator=generator, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)


def by_definition(decay: Tensor, value: Tensor, start: Tensor) -> Tensor:
    states = [start]
    for t in range(decay.shape[1]):
        states.append(decay[:, t] * states[-1] + value[:, t])
    return torch.stack(states[1:], 1)


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 300), seed=st.integers(0, 100))
def test_the_scan_is_the_recurrence(frames: int, seed: int) -> None:
    decay, value, start = terms(frames, seed)
    torch.testing.assert_close(linear_scan(decay, value, start), by_definition(decay, value, start), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("scan", [scan_by_doubling, scan_by_frame])
@pytest.mark.parametrize("frames", [1, 2, 3, 64, 65])
def test_both_ways_agree(scan: Callable[[Tensor, Tensor], Tensor], frames: int) -> None:
    decay, value, start = terms(frames)
    torch.testing.assert_close(scan(decay, value), by_definition(decay, value, start * 0), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_the_gradient_is_right(frames: int) -> None:
    assert torch.autograd.gradcheck(linear_scan, tuple(t.requires_grad_() for t in terms(frames)))


def test_decays_of_nought_and_one_keep_every_digit() -> None:
    """Where the sum of logarithms would have lost them all."""
    value = torch.ones(1, 4000, 1)
    decay = torch.ones(1, 4000, 1)
    assert linear_scan(decay, value, torch.zeros(1, 1))[0, -1].item() == 4000
    decay[:, 2000] = 0
    assert linear_scan(decay, value, torch.zeros(1, 1))[0, -1].item() == 2000
    steep = torch.full((1, 4000, 1), 1e-6)
    torch.testing.assert_close(linear_scan(steep, value, torch.zeros(1, 1))[0, -1].item(), 1 / (1 - 1e-6), rtol=1e-6, atol=0)
