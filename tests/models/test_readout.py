"""Readouts and motion against their definitions in plain loops."""

from __future__ import annotations

import pytest
import torch

from reelscribe.models.motion import MOTIONS, build_motion
from reelscribe.models.readout import READOUTS, Readout, build_readout

STATES = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([9, 4, 1])


def by_definition(readout: Readout, states: torch.Tensor) -> torch.Tensor:
    """One clip (T, H), no padding -> (H,)."""
    match type(readout).__name__:
        case "LastReadout":
            return states[-1]
        case "MeanReadout":
            return states.mean(0)
        case "MaxReadout":
            return states.max(0).values
        case _:
            scores = torch.tanh(states @ readout.get_parameter("project.weight").T + readout.get_parameter("project.bias"))
            weights = torch.softmax(scores @ readout.get_parameter("score.weight")[0], 0)
            return weights @ states


@pytest.mark.parametrize("name", READOUTS)
def test_as_defined(name: str) -> None:
    torch.manual_seed(0)
    readout = build_readout(name, 6)
    summary, _ = readout(STATES, LENGTHS)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(summary[row], by_definition(readout, STATES[row, :length]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[9], [1] * 9, [2, 7], [4, 1, 4]])
@pytest.mark.parametrize("name", READOUTS)
def test_folded_equals_whole(name: str, sizes: list[int]) -> None:
    torch.manual_seed(0)
    readout = build_readout(name, 6)
    carried = None
    for chunk in STATES.split(sizes, dim=1):
        summary, carried = readout(chunk, torch.full((3,), chunk.shape[1]), carried)
    torch.testing.assert_close(summary, readout(STATES, torch.full((3,), 9))[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[9], [2, 7], [4, 1, 4]])
@pytest.mark.parametrize("name", READOUTS)
def test_running_is_the_summary_after_each_frame(name: str, sizes: list[int]) -> None:
    torch.manual_seed(0)
    readout = build_readout(name, 6)
    carried = None
    running = []
    for chunk in STATES.split(sizes, dim=1):
        summaries, carried = readout.running(chunk, carried)
        running.append(summaries)
    for t in range(9):
        torch.testing.assert_close(torch.cat(running, 1)[:, t], readout(STATES, torch.full((3,), t + 1))[0], atol=1e-6, rtol=1e-5)


def test_a_running_softmax_sends_finite_gradients() -> None:
    readout = build_readout("attention", 6)
    with torch.no_grad():
        readout.get_parameter("score.weight").fill_(100)
    states = (STATES * 10).requires_grad_()
    readout.running(states)[0].square().sum().backward()
    assert states.grad is not None
    assert states.grad.isfinite().all()


def test_attention_survives_extreme_scores() -> None:
    readout = build_readout("attention", 6)
    with torch.no_grad():
        readout.get_parameter("score.weight").fill_(1e4)
    carried = None
    for state in (STATES * 10).unbind(1):
        summary, carried = readout(state[:, None], torch.ones(3, dtype=torch.long), carried)
        assert summary.isfinite().all()


def test_frame_difference_is_zero_first() -> None:
    grid = torch.randn(2, 5, 3, 4, 4)
    out, _ = build_motion("difference")(grid)
    assert torch.equal(out[:, :, :3], grid)
    assert out[:, 0, 3:].abs().sum() == 0
    assert torch.equal(out[:, 1:, 3:], grid[:, 1:] - grid[:, :-1])


def test_shift_takes_a_quarter_of_the_channels_from_the_frame_before() -> None:
    grid = torch.randn(2, 5, 8, 4, 4)
    out, _ = build_motion("shift")(grid)
    assert out[:, 0, :2].abs().sum() == 0
    assert torch.equal(out[:, 1:, :2], grid[:, :-1, :2])
    assert torch.equal(out[:, :, 2:], grid[:, :, 2:])


def test_shift_and_difference_combine() -> None:
    grid = torch.randn(2, 5, 8, 4, 4)
    shifted, _ = build_motion("shift")(grid)
    assert torch.equal(build_motion("shift_difference")(grid)[0], build_motion("difference")(shifted)[0])


def test_running_mean_is_the_mean_so_far() -> None:
    grid = torch.randn(2, 5, 3, 4, 4)
    out, _ = build_motion("running_mean")(grid)
    for t in range(5):
        torch.testing.assert_close(out[:, t], grid[:, t] - grid[:, : t + 1].mean(1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", MOTIONS)
def test_motion_stepped_equals_whole_and_channels_are_as_declared(name: str) -> None:
    grid = torch.randn(2, 20, 3, 4, 4)
    motion = build_motion(name)
    whole, _ = motion(grid)
    assert whole.shape == (2, 20, 3 * motion.channel_factor, 4, 4)
    for sizes in ([1] * 20, [3, 17], [19, 1]):
        carried, out = None, []
        for chunk in grid.split(sizes, dim=1):
            y, carried = motion(chunk, carried)
            out.append(y)
        torch.testing.assert_close(torch.cat(out, 1), whole, atol=1e-6, rtol=1e-5)


def test_running_mean_keeps_its_precision_in_a_long_stream() -> None:
    stream = 5 + torch.randn(1, 20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    motion = build_motion("running_mean")
    carried = None
    for frame in stream.unbind(1):
        out, carried = motion(frame[:, None], carried)
    exact = stream[:, -1].double() - stream.double().mean(1)
    assert (out[:, 0].double() - exact).abs().max() < 1e-5
