"""Dropout for sequences, the same whether one process holds the batch or several share it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SequenceDropout(nn.Module):
    """Variational dropout (arXiv 1512.05287): one mask per sequence, kept over time, so that state is not wiped a little at each frame.

    The mask comes from torch's default CPU generator on every device. With ``shard = (offset, total)`` it is drawn for
    the whole batch of ``total`` sequences and this process uses the rows from ``offset`` on: ranks that start from one seed stay
    in step with each other and with a single process that holds the whole batch.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout={rate}: expected 0 <= dropout < 1")
        self.rate = rate
        self.shard: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C), (B, T, C) or (B, T, C, h, w) -> the same shape. Raises ValueError where the shard does not hold the batch."""
        if not self.training or self.rate == 0:
            return x
        offset, total = self.shard or (0, x.shape[0])
        if offset + x.shape[0] > total:
            raise ValueError(f"shard {self.shard}: a batch of {x.shape[0]} does not fit")
        channels = x.shape[1 if x.ndim == 2 else 2]
        keep = torch.rand(total, channels)[offset : offset + x.shape[0]] >= self.rate
        mask = keep.to(device=x.device, dtype=x.dtype) / (1 - self.rate)
        return x * mask.view(len(x), *[1] * min(1, x.ndim - 2), channels, *[1] * (x.ndim - 3))

    def extra_repr(self) -> str:
        """The rate, for printing."""
        return f"rate={self.rate}"
