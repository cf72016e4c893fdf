"""What passes between decoding and the rest: small self-checking objects, numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from reelscribe.pipeline.video.containers.probe import Scan

Backend = Literal["auto", "decord", "opencv", "pyav", "torchcodec"]
ReaderName = Literal["decord", "opencv", "pyav", "torchcodec"]
Uint8Array = npt.NDArray[np.uint8]
TimedFrames = tuple[Uint8Array, npt.NDArray[np.float32]]  # (T, H, W, 3), and the seconds between them as seconds_between gives them: (T,)


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a container says of its first picture stream. Times are presentation times in seconds, as ffprobe prints them."""

    container: str
    codec: str
    width: int  # pixels as displayed, rotation applied
    height: int
    rotation_degrees: int  # clockwise turn that readers apply: 0, 90, 180 or 270
    begin_s: float  # presentation time of the first frame
    end_s: float  # when the last frame leaves the screen
    frame_rate: float  # mean frames per second
    num_frames: int  # frames that are really there: counted from the packets, or by decoding where packets do not tell

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return self.end_s - self.begin_s


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What ``doctor`` says of a readable video."""

    info: VideoInfo
    claimed_frames: int  # by the container; 0 where it claims none
    variable_rate: bool
    keyframe_gap_s: float  # the longest stretch between two keyframes; the whole video where they are unknown
    reader: str  # that served
    compared_with: str  # the reader that decoded the same frames
    largest_difference: float | None  # between the readers: mean over a frame, of 255, where it is largest; None: the other cannot read it
    remarks: tuple[str, ...]  # what is odd


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Decoded frames in the order asked for; a time asked twice is there twice."""

    pixels: Uint8Array  # (T, H, W, 3) RGB
    index: tuple[int, ...]  # position of each frame in presentation order, from 0
    pts_seconds: tuple[float, ...]  # presentation time of each frame
    backend: str  # the reader that served

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[-1] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels are {self.pixels.dtype} {self.pixels.shape}, expected uint8 (T, H, W, 3)")
        if not len(self.pixels) == len(self.index) == len(self.pts_seconds):
            raise ValueError(
                f"{len(self.pixels)} frames, {len(self.index)} indices, {len(self.pts_seconds)} times: expected as many of each"
            )


class Source(Protocol):
    """The bytes of one video."""

    name: str  # in messages: an absolute path, or a URI
    size: int  # bytes

    def open(self) -> BinaryIO:
        """The bytes as a file that can seek; raises a VideoError where a store fails."""

    def file_name(self) -> str | None:
        """The local path to decode from; None where ``open`` is the better way."""

    def path(self) -> str:
        """A local path, for libraries that open nothing else. A remote source is fetched whole."""

    def digest(self) -> str:
        """See ``source.content_digest``."""


class Reader(Protocol):
    """One decoding library. All of them count frames along the one timeline that ``probe.scan`` makes, so that they agree."""

    name: ReaderName

    def read(self, scan: Scan, indices: tuple[int, ...], size: tuple[int, int] | None) -> Uint8Array:
        """Frames (T, H, W, 3) RGB at strictly increasing positions in presentation order, rotation applied.

        Each is scaled to ``size`` (height, width) by area average, or bilinearly where that is larger: as ``scaling.scale`` does it, or
        within 2 levels of 255 in the mean over a frame (3 of a 10-bit one). Raises a VideoError.
        """


@dataclass(frozen=True, kw_only=True)
class FrameSize:
    """How frames are brought to the model's size: ``stretch`` to it, or ``crop`` the middle after scaling the short side."""

    height: int
    width: int
    fit: Literal["stretch", "crop"] = "stretch"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"frame size {self.height} x {self.width}: both must be at least 1 pixel")


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Bounds that turn a bad file into one failure, and what counts as one."""

    timeout_s: float = 60.0  # wall clock per clip
    memory_mb: int = 2048  # address space that a decode process may add while it reads one clip
    max_pixels: int = 8192 * 4320  # width x height of one frame
    max_duration_s: float = 24 * 3600.0
    truncated: Literal["fail", "use"] = "fail"  # what to do with a file that is cut or damaged: nothing, or use the frames that decode


def seconds_between(times_s: Sequence[float]) -> npt.NDArray[np.float32]:
    """Seconds between each frame and the one before, in whatever order they are, and zero at the first: (T,)."""
    return np.abs(np.diff(times_s, prepend=times_s[0])).astype(np.float32)
