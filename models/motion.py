"""Motion for a frame encoder at almost no cost: what changed in the grid of features. Causal, with a constant-size state."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from reelscribe.models.exporting import is_exported
from reelscribe.models.naming import unknown

Carried = tuple[Tensor, ...]

_CHANGE_GAIN = 3  # most pixels change by little from frame to frame; what would leave the range of a byte is cut off


def frame_changes(frames: Tensor, before: Tensor | None = None) -> Tensor:
    """What changed in each pixel since the frame before, as pictures: grey where nothing did (the RGB difference of arXiv 1608.00859).

    RGB bytes (B, T, 3, H, W) and the frame (B, 3, H, W) that came before them, None at the beginning of a clip -> bytes of that shape.
    """
    number = torch.int32 if is_exported() else torch.int16  # runtimes of exported graphs know few operations on short ones
    signed = frames.to(number)
    first = signed[:, :1] if before is None else before[:, None].to(number)
    change = signed - torch.cat((first, signed[:, :-1]), 1)
    return (_CHANGE_GAIN * change + 128).clamp(0, 255).to(torch.uint8)


class Motion(nn.Module, ABC):
    """``forward(grid, carried) -> (grid, carried)``: the next frames, and what is carried from the frames before."""

    channel_factor: int  # channels out / channels in

    @abstractmethod
    def forward(self, grid: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, D, h, w) -> (B, T, D * channel_factor, h, w)."""


class NoMotion(Motion):
    """The grid as it is."""

    channel_factor = 1

    def forward(self, grid: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:  # noqa: ARG002
        """(B, T, D, h, w) -> the same."""
        return grid, ()


class FrameDifference(Motion):
    """Append each frame's change since the frame before; zero at the first."""

    channel_factor = 2

    def forward(self, grid: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, D, h, w) -> (B, T, 2 D, h, w)."""
        before = grid[:, :1] if carried is None else carried[0]
        change = grid - torch.cat((before, grid[:, :-1]), 1)
        return torch.cat((grid, change), 2), (grid[:, -1:],)


class RunningMeanDifference(Motion):
    """Subtract the mean of all frames so far: what stands still vanishes, what moves stays where it is (background subtraction)."""

    channel_factor = 1

    def forward(self, grid: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, D, h, w) -> the same shape; the first frame of a clip gives zeros."""
        # as deviations from the mean before: sums stay small, so that a stream of any length keeps its precision
        before, count = carried if carried is not None else (grid[:, 0], grid.new_zeros(len(grid)))
        counts = count.view(-1, 1) + torch.arange(1, grid.shape[1] + 1, device=grid.device)  # (B, T)
        deviation = grid - before.unsqueeze(1)
        shift = deviation.cumsum(1) / counts.view(*counts.shape, 1, 1, 1)
        return deviation - shift, (before + shift[:, -1], counts[:, -1])


class TemporalShift(Motion):
    """One channel in ``share`` comes from the frame before, zeros at the first: the online form of TSM (arXiv 1811.08383)."""

    channel_factor = 1

    def __init__(self, share: int = 4) -> None:
        super().__init__()
        self.share = share

    def forward(self, grid: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, D, h, w) -> the same shape."""
        moved = grid[:, :, : -(-grid.shape[2] // self.share)]
        before = torch.zeros_like(moved[:, :1]) if carried is None else carried[0]
        shifted = torch.cat((before, moved[:, :-1]), 1)
        return torch.cat((shifted, grid[:, :, moved.shape[2] :]), 2), (moved[:, -1:],)


class ShiftedDifference(Motion):
    """Shift, then append the change of what came out: it sees three frames at once."""

    channel_factor = 2

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.difference = TemporalShift(), FrameDifference()

    def forward(self, grid: Tensor, carried: Carried | None = None) -> tuple[Tensor, Carried]:
        """(B, T, D, h, w) -> (B, T, 2 D, h, w)."""
        grid, shift = self.shift(grid, None if carried is None else carried[:1])
        grid, difference = self.difference(grid, None if carried is None else carried[1:])
        return grid, (*shift, *difference)


MOTIONS: dict[str, type[Motion]] = {
    "none": NoMotion,
    "difference": FrameDifference,
    "running_mean": RunningMeanDifference,
    "shift": TemporalShift,
    "shift_difference": ShiftedDifference,
}


def build_motion(name: str) -> Motion:
    """A motion stage by name. Raises ValueError naming those there are."""
    if name not in MOTIONS:
        raise unknown("motion", name, MOTIONS)
    return MOTIONS[name]()
