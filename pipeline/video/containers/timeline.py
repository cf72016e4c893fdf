"""When each frame is on screen: the one count of frames that all readers share. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

TIME_TOLERANCE_S = 1e-6  # a time this little before a frame's own counts as reached: sums of floats fall short by less

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """Presentation times of all frames that a video shows, in presentation order."""

    pts: Int64Array  # (N,) strictly increasing, in units of time_base
    end: int  # when the last frame leaves the screen, in units of time_base
    time_base: Fraction  # seconds per unit
    keyframes: Int64Array  # (K,) positions of the frames that decode alone, increasing
    recognizable: bool  # a decoded frame's pts is in ``pts``; otherwise frames are only known by counting from the start

    def __post_init__(self) -> None:
        if len(self.pts) == 0 or (np.diff(self.pts) <= 0).any():
            raise ValueError("frame times must be at least one and strictly increasing")
        if self.end <= int(self.pts[-1]):
            raise ValueError(f"the last frame ends at {self.end} and starts at {int(self.pts[-1])}")

    def __len__(self) -> int:
        return len(self.pts)

    def seconds(self, index: int) -> float:
        """Presentation time of a frame."""
        return float(int(self.pts[index]) * self.time_base)

    def keyframes_s(self) -> tuple[float, ...]:
        """Presentation times of the keyframes."""
        times: list[float] = (self.pts[self.keyframes] * self.time_base.numerator / self.time_base.denominator).tolist()
        return tuple(times)

    @property
    def begin_s(self) -> float:
        """Presentation time of the first frame."""
        return self.seconds(0)

    @property
    def end_s(self) -> float:
        """When the last frame leaves the screen."""
        return float(self.end * self.time_base)

    def on_screen(self, times_s: Sequence[float]) -> tuple[int, ...]:
        """The frame shown at each time: the last with pts <= t (to a microsecond); the first or last frame outside the video."""
        starts = self.pts * (self.time_base.numerator / self.time_base.denominator)
        found = np.searchsorted(starts, np.asarray(times_s, dtype=np.float64) + TIME_TOLERANCE_S, side="right") - 1
        return tuple(int(i) for i in np.clip(found, 0, len(self.pts) - 1))

    def keyframe_before(self, index: int) -> int:
        """The nearest frame at or before ``index`` from which decoding can start."""
        position = int(np.searchsorted(self.keyframes, index, side="right")) - 1
        return int(self.keyframes[position]) if position >= 0 else 0
