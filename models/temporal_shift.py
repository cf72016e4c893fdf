"""Temporal channel shift inside a 2D network (TSM, arXiv 1811.08383), in its online form: each frame is seen with a part of the one before.

A part of the channels that enter a residual branch comes from the frame before, so that the network's own convolutions compare the two; the
identity beside the branch keeps the frame as it is. Nothing later is looked at: a stream carries these channels, and is seen as a clip is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from reelscribe.models.motion import Carried, TemporalShift

_SHARE = 8  # an eighth of the channels, as the paper's online models have it
# classes of torchvision, timm and ours -> the attribute that says whether a block has an identity beside its branch; None: always
_BLOCKS: dict[str, tuple[str, ...] | None] = {
    "BasicBlock": None,
    "Bottleneck": None,
    "InvertedResidual": ("residual", "use_res_connect", "has_skip"),
    "DepthwiseBlock": ("residual",),
    "DepthwiseSeparableConv": ("has_skip",),
    "MBConv": ("use_res_connect",),
}


def branch_entries(body: nn.Module) -> Iterator[nn.Conv2d]:
    """The first convolution of each residual branch, in the order of definition."""
    for block in body.modules():
        name = type(block).__name__
        if name not in _BLOCKS:
            continue
        marks = _BLOCKS[name]
        if marks is None or any(getattr(block, mark, False) for mark in marks):
            yield next(module for module in block.modules() if isinstance(module, nn.Conv2d))


class TemporalShifts:
    """The shifts of one network. Its convolutions are hooked, so the names of the tensors stay those of the network without them."""

    def __init__(self, body: nn.Module) -> None:
        """Raises ValueError for a network without residual blocks."""
        self._shift = TemporalShift(share=_SHARE)
        entries = list(branch_entries(body))
        if not entries:
            raise ValueError(
                "temporal_shift=True: this encoder has no residual blocks to shift in up to its stride; try tf_efficientnet_lite0, "
                "resnet18, mobilenet_v2 or efficientnet_b0, or motion='shift', which shifts the grid"
            )
        for entry in entries:
            entry.register_forward_pre_hook(self._enter)
        self._clips = 0
        self._before: Carried = ()
        self._after: list[Tensor] = []

    def __call__(self, body: nn.Module, frames: Tensor, clips: int, before: Carried | None) -> tuple[Tensor, Carried]:
        """The next frames (clips * T, 3, H, W), what was carried before -> what ``body`` gives of them, and what is carried now."""
        self._clips, self._before, self._after = clips, before or (), []
        try:
            return body(frames), tuple(self._after)
        finally:
            self._clips, self._before, self._after = 0, (), []

    def _enter(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        (x,) = inputs
        if not self._clips:
            raise ValueError("an encoder with temporal_shift=True takes frames in clips, see Encoder.clips")
        place = len(self._after)  # branches are passed in the same order each time
        shifted, after = self._shift(x.unflatten(0, (self._clips, -1)), self._before[place : place + 1] or None)
        self._after.extend(after)
        return (shifted.flatten(0, 1).contiguous(memory_format=torch.channels_last),)
