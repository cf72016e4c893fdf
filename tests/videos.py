"""Videos whose frame i shows i: a binary number of black and white blocks that survives any compression.

The truth about a decoded frame is then in the frame itself, whatever container, codec and reader it came through.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reelscribe.pipeline.video.writer import write_video

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder writes its settings on the console otherwise

COLUMNS, ROWS = 4, 3  # twelve bits: up to 4096 frames
Pixels = npt.NDArray[np.uint8]


def counting_frame(number: int, *, height: int = 96, width: int = 128) -> Pixels:
    """(H, W, 3): bit b of ``number`` is block b, row by row; white is 1."""
    bits = (number >> np.arange(COLUMNS * ROWS)) & 1
    blocks = np.where(bits, 235, 20).reshape(ROWS, COLUMNS).astype(np.uint8)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    gray = blocks[rows[:, None], columns[None, :]]
    return np.repeat(gray[..., None], 3, axis=-1)


def number_shown(frame: Pixels) -> int:
    """The number that a decoded frame of any size shows."""
    height, width = frame.shape[:2]
    number = 0
    for bit in range(COLUMNS * ROWS):
        row, column = divmod(bit, COLUMNS)
        top, left = (2 * row + 1) * height / (2 * ROWS), (2 * column + 1) * width / (2 * COLUMNS)
        reach_y, reach_x = max(1, height // (6 * ROWS)), max(1, width // (6 * COLUMNS))
        middle = frame[int(top) - reach_y : int(top) + reach_y, int(left) - reach_x : int(left) + reach_x]
        number |= int(middle.mean() > 127) << bit
    return number


def counting_frames(count: int, *, height: int = 96, width: int = 128) -> Iterator[Pixels]:
    """Frames 0 to ``count`` - 1."""
    return (counting_frame(i, height=height, width=width) for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to write a counting video."""

    suffix: str
    codec: str
    options: Mapping[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    num_frames: int = 70
    frame_rate: float = 25.0
    times_s: Sequence[float] | None = None
    rotation_degrees: int = 0
    height: int = 96
    width: int = 128

    def write(self, path: Path) -> Path:
        """Write it to ``path``, whose suffix should be ``suffix``."""
        write_video(
            path,
            counting_frames(self.num_frames, height=self.height, width=self.width),
            frame_rate=self.frame_rate,
            codec=self.codec,
            pixel_format=self.pixel_format,
            options=self.options,
            times_s=self.times_s,
            rotation_degrees=self.rotation_degrees,
        )
        return path

    def truth_s(self) -> list[float]:
        """When each frame is shown."""
        return list(self.times_s) if self.times_s is not None else [i / self.frame_rate for i in range(self.num_frames)]


def uneven_times(count: int, *, start_s: float = 0.0) -> list[float]:
    """Times of a variable rate: steps of 10 to 230 ms, on whole milliseconds so that every container holds them."""
    steps = np.random.default_rng(7).integers(10, 230, size=count)
    return [round(start_s + float(t) / 1000, 3) for t in np.concatenate([[0], np.cumsum(steps)[:-1]])]


_X264 = {"preset": "veryfast", "bf": "3", "g": "250", "x264-params": "b-pyramid=normal:scenecut=0"}
CASES: dict[str, Case] = {
    "h264-long-gop": Case(suffix=".mp4", codec="libx264", options=_X264, num_frames=300),
    "h264-short-gop": Case(suffix=".mp4", codec="libx264", options={**_X264, "g": "12"}),
    "h264-open-gop": Case(suffix=".mp4", codec="libx264", options={**_X264, "x264-params": "open-gop=1:keyint=20:bframes=3:scenecut=0"}),
    "h264-mkv-ntsc": Case(suffix=".mkv", codec="libx264", options={**_X264, "g": "30"}, frame_rate=30000 / 1001),
    "h264-ts": Case(suffix=".ts", codec="libx264", options={**_X264, "g": "20"}, times_s=[10 + i / 25 for i in range(70)]),
    "h264-flv": Case(suffix=".flv", codec="libx264", options={**_X264, "g": "20"}),
    "h264-avi": Case(suffix=".avi", codec="libx264", options={**_X264, "g": "20"}),
    "h264-444": Case(suffix=".mp4", codec="libx264", options=_X264, pixel_format="yuv444p"),
    "h264-variable-rate": Case(suffix=".mp4", codec="libx264", options={**_X264, "g": "20"}, times_s=uneven_times(70)),
    "h264-late-start": Case(suffix=".mkv", codec="libx264", options={**_X264, "g": "20"}, times_s=uneven_times(70, start_s=3.2)),
    "h264-late-start-mp4": Case(suffix=".mp4", codec="libx264", options={**_X264, "g": "20"}, times_s=uneven_times(70, start_s=3.2)),
    "h264-interlaced": Case(
        suffix=".mp4", codec="libx264", options={**_X264, "g": "20", "flags": "+ildct+ilme", "x264-params": "tff=1:scenecut=0"}
    ),
    "h264-rotated-90": Case(suffix=".mp4", codec="libx264", options=_X264, rotation_degrees=90),
    "h264-rotated-180": Case(suffix=".mp4", codec="libx264", options=_X264, rotation_degrees=180),
    "h264-rotated-270": Case(suffix=".mov", codec="libx264", options=_X264, rotation_degrees=270),
    "h264-one-frame": Case(suffix=".mp4", codec="libx264", num_frames=1),
    "hevc": Case(
        suffix=".mp4", codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=none:keyint=25:bframes=3:open-gop=1"}
    ),
    "hevc-10-bit": Case(
        suffix=".mp4",
        codec="libx265",
        pixel_format="yuv420p10le",
        options={"preset": "ultrafast", "x265-params": "log-level=none:bframes=3"},
    ),
    "vp8": Case(suffix=".webm", codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime", "g": "30"}),
    "vp9": Case(
        suffix=".webm", codec="libvpx-vp9", options={"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime", "g": "30"}
    ),
    "av1": Case(suffix=".mp4", codec="libsvtav1", options={"preset": "10", "g": "32"}),
    "av1-webm": Case(suffix=".webm", codec="libsvtav1", options={"preset": "10", "g": "32"}, frame_rate=30.0),
    "mpeg4-avi": Case(suffix=".avi", codec="mpeg4", options={"g": "20", "b": "2000000"}),
    "mpeg4-avi-b-frames": Case(suffix=".avi", codec="mpeg4", options={"g": "20", "bf": "2", "b": "2000000"}),
    "mpeg4-mp4": Case(suffix=".mp4", codec="mpeg4", options={"g": "20", "bf": "2", "b": "2000000"}),
    "mpeg1-ps": Case(suffix=".mpg", codec="mpeg1video", options={"g": "15", "bf": "2", "b": "2000000"}),
    "mpeg2-ts": Case(suffix=".ts", codec="mpeg2video", options={"g": "15", "bf": "2", "b": "4000000"}),
    "mjpeg-avi": Case(suffix=".avi", codec="mjpeg", pixel_format="yuvj420p"),
    "gif": Case(suffix=".gif", codec="gif", pixel_format="gray", frame_rate=10.0),
    "ffv1": Case(suffix=".mkv", codec="ffv1", num_frames=40),
    "prores": Case(suffix=".mov", codec="prores_ks", pixel_format="yuv422p10le", num_frames=30),
}
