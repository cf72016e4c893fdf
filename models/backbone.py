"""From frames to hidden states: what recognizers and captioners share.

frames (B, T, 3, H, W) bytes, or the pictures of what changes between them
  -> encoder      grid of features (B, T, D, h, w); cacheable when frozen
  -> projection   a few channels of each cell (B, T, P, h, w), by a 1x1 convolution
  -> motion       what moves in the grid; on few channels, so that a stream carries little
  -> flatten      one vector a frame: position is kept, unless pooling is asked for
  -> recurrent    hidden states (B, T, hidden); a spatial core comes before the flattening, with P channels in each cell

Everything but a bidirectional core is causal: a state depends on nothing later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reelscribe.models.dropout import SequenceDropout
from reelscribe.models.encoders import build_encoder
from reelscribe.models.motion import build_motion, frame_changes
from reelscribe.models.naming import unknown
from reelscribe.models.readout import LastReadout, build_readout
from reelscribe.models.recurrent import build_core, core_kind

ENCODER_INPUTS = ("frames", "changes")
POOLINGS = ("none", "mean_max")


class RecognizerState(NamedTuple):
    """What a stream carries from frame to frame; its size does not grow. All tensors have the streams of the batch as first dimension."""

    motion: tuple[Tensor, ...]
    recurrent: tuple[Tensor, ...]
    readout: tuple[Tensor, ...] | None  # None: the readout begins here
    frame: tuple[Tensor, ...] = ()  # the last one (B, 3, H, W), where the encoder sees changes

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, each with memory of its own, to be kept in a file of tensors (safetensors) or sent to another process."""
        return {f"{field}.{i}": tensor.clone() for field, part in self._asdict().items() for i, tensor in enumerate(part or ())}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> RecognizerState:
        """The state again."""
        names = {field: [name for name in tensors if name.startswith(f"{field}.")] for field in cls._fields}
        return cls(**{field: tuple(tensors[f"{field}.{i}"] for i in range(len(found))) for field, found in names.items()})


class GridVector(nn.Module):
    """One vector a frame: from all ``cells`` of a grid in their places, or from the mean and the maximum over them, wherever they are."""

    def __init__(self, channels: int, cells: int, out_features: int, *, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.linear = nn.Linear(channels * (2 if pooled else cells), out_features)
        self.norm = nn.LayerNorm(out_features)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, T, C, h, w) -> (B, T, out_features)."""
        cells = torch.relu(grid + self.bias).flatten(3)  # (B, T, C, h * w)
        flat = torch.cat((cells.mean(3), cells.amax(3)), 2) if self.pooled else cells.flatten(2)  # (B, T, 2 C or C * h * w)
        out: Tensor = self.norm(self.linear(flat))
        return out


class Seen(NamedTuple):
    """What a network knows of its frames."""

    states: Tensor  # (B, T, hidden)
    cells: Tensor  # (B, T, cell_channels, h, w) of which the states were made; of a spatial core, its states before the flattening


class Backbone(nn.Module):
    """Encoder + projection + motion + recurrent core, and the readout that sums up their states.

    ``frame_size`` is (height, width) in pixels. See build_encoder, build_motion, build_core and build_readout for the names and for the
    options of the core; ``hidden_size`` is that of the vectors read out. ``encoder_input`` is ``frames`` or ``changes`` (see
    frame_changes); ``pooling`` is ``none``, which keeps every cell of the grid in its place, or ``mean_max``. With ``time_gaps`` every
    call takes ``gaps`` (B, T), the seconds since the frame before, zero at the first of a clip.
    Raises ValueError for a name or a number that cannot be.
    """

    def __init__(
        self,
        *,
        frame_size: tuple[int, int],
        encoder: str = "tf_efficientnet_lite0",
        encoder_input: str = "frames",
        weights: str = "package",
        stride: int = 16,
        trainable_stages: int = 0,
        motion: str = "running_mean",
        projection: int = 32,
        pooling: str = "none",
        recurrent: str = "gru",
        hidden_size: int = 256,
        layers: int = 1,
        layer_norm: bool = False,
        residual: bool = False,
        bidirectional: bool = False,
        groups: int = 1,
        context: int | None = None,
        readout: str = "attention",
        dropout: float = 0.3,
        time_gaps: bool = False,
    ) -> None:
        super().__init__()
        refuse_sizes_below_one(projection=projection, hidden_size=hidden_size, layers=layers)
        for what, name, known in (("encoder input", encoder_input, ENCODER_INPUTS), ("pooling", pooling, POOLINGS)):
            if name not in known:
                raise unknown(what, name, known)
        self.sees_changes = encoder_input == "changes"
        self.encoder = build_encoder(encoder, weights=weights, stride=stride, trainable_stages=trainable_stages)
        self.grid_size = self.encoder.grid_size(*frame_size)
        self.projection = nn.Conv2d(self.encoder.channels, projection, 1, bias=False)
        self.motion = build_motion(motion)
        self.input_dropout = SequenceDropout(dropout)
        channels = projection * self.motion.channel_factor
        spatial = core_kind(recurrent).spatial
        self.recurrent = build_core(
            recurrent,
            channels if spatial else hidden_size,
            projection if spatial else hidden_size,
            layers=layers,
            dropout=dropout,
            layer_norm=layer_norm,
            residual=residual,
            bidirectional=bidirectional,
            time_gaps=time_gaps,
            groups=groups,
            context=context,
        )
        kept = projection if spatial else channels
        cells = self.grid_size[0] * self.grid_size[1]
        self.cell_channels = kept  # of Seen.cells
        self.flatten = GridVector(kept, cells, hidden_size, pooled=pooling == "mean_max")
        self.readout = build_readout(readout, hidden_size)
        self.output_dropout = SequenceDropout(dropout)
        self.core_name = recurrent

    @property
    def causal(self) -> bool:
        """Whether it can be stepped: the states at a time depend on nothing later."""
        return self.recurrent.causal

    @property
    def takes_gaps(self) -> bool:
        """Whether every call takes the seconds between frames."""
        return self.recurrent.gap is not None

    def require_summary(self) -> None:
        """Raises ValueError where the readout takes the state at the last frame and that has seen but one frame."""
        if isinstance(self.readout, LastReadout) and not (self.recurrent.causal and self.recurrent.ordered):
            who = f"'{self.core_name}'" if self.recurrent.causal else "the half that reads from the end"
            raise ValueError(f"readout='last': {who} has seen but one frame there; expected mean, max or attention")

    def encode(self, frames: Tensor, state: RecognizerState | None = None) -> Tensor:
        """RGB bytes (B, T, 3, H, W), the next of running clips or whole ones -> grid (B, T, D, h, w).

        The part that may be cached when the encoder is frozen.
        """
        if frames.ndim != 5 or frames.shape[2] != 3 or frames.dtype != torch.uint8:
            raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}, expected uint8 (B, T, 3, H, W)")
        if self.sees_changes:
            frames = frame_changes(frames, state.frame[0] if state is not None else None)
        grid: Tensor = self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return grid

    def set_shard(self, offset: int, total: int) -> None:
        """This process holds the sequences from ``offset`` on of a batch of ``total``: draw dropout for the whole batch."""
        for part in self.children():
            for module in part.modules() if part is not self.encoder else ():  # the encoder has many modules, and none of these
                if isinstance(module, SequenceDropout):
                    module.shard = (offset, total)

    def _last(self, frames: Tensor) -> tuple[Tensor, ...]:
        """What the next frames (B, T, 3, H, W) are compared with."""
        return (frames[:, -1],) if self.sees_changes else ()

    def _continue(self, grid: Tensor, state: RecognizerState | None, gaps: Tensor | None) -> tuple[Seen, RecognizerState]:
        """Grid of the next frames of running clips -> what is known of them, and what is carried."""
        self.recurrent.require_causal()
        return self._advance(grid, state, gaps=gaps)

    def _advance(
        self, grid: Tensor, state: RecognizerState | None, *, lengths: Tensor | None = None, gaps: Tensor | None
    ) -> tuple[Seen, RecognizerState]:
        """Grid of the next frames -> what is known of them, and what is carried (the readout's part is left empty)."""
        dtype = self.projection.weight.dtype  # a cached grid may be stored in half precision, and differences need the full one
        cells = self.projection(grid.flatten(0, 1).to(dtype)).to(dtype).unflatten(0, grid.shape[:2])  # (B, T, P, h, w)
        cells, motion = self.motion(cells, state.motion if state is not None else None)
        x = self.input_dropout(cells if self.recurrent.spatial else self.flatten(cells))
        before = state.recurrent if state is not None else None
        states, recurrent = self.recurrent(x, before, lengths=lengths, gaps=gaps)
        if self.recurrent.spatial:
            cells, states = states, self.flatten(states)
        return Seen(states, cells), RecognizerState(motion=motion, recurrent=recurrent, readout=())


def refuse_sizes_below_one(**sizes: int) -> None:
    """Raises ValueError for the first that cannot be."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
