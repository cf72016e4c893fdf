"""decord: frames from the start to the last wanted one; blind to AV1, GIF and pictures narrower than a few pixels.

Its seeks are wrong on open groups of pictures, MPEG-4 and AVI (dmlc/decord#195, #31; ``tests/video/test_readers.py``), so none is used.
It may hang on a damaged file while it holds the interpreter's lock (#373), and its library puts old FFmpeg and libvpx symbols into the
process for everybody: load it only in a decode worker.
"""

from __future__ import annotations

import decord
import numpy as np

from reelscribe.pipeline.errors import TruncatedVideoError, UnsupportedCodecError
from reelscribe.pipeline.video.containers.probe import Scan
from reelscribe.pipeline.video.scaling import scale, stack
from reelscribe.pipeline.video.types import ReaderName, Uint8Array

_MISCOUNTED_FORMATS = {"mpegts", "mpeg"}  # it begins somewhere behind the first frame

decord.logging.set_level(decord.logging.QUIET)


class DecordReader:
    """Refuses what it cannot count: its number of frames must be the timeline's, and it cannot choose among several streams."""

    name: ReaderName = "decord"

    def read(self, scan: Scan, indices: tuple[int, ...], size: tuple[int, int] | None) -> Uint8Array:
        """See ``types.Reader``. Raises UnsupportedCodecError or TruncatedVideoError."""
        if scan.num_video_streams > 1:
            raise UnsupportedCodecError(f"{scan.name}: decord cannot choose among {scan.num_video_streams} video streams")
        if scan.info.container in _MISCOUNTED_FORMATS:
            raise UnsupportedCodecError(f"{scan.name}: decord miscounts the frames of {scan.info.container}")
        try:
            video = decord.VideoReader(scan.source.path(), num_threads=1)
            claimed = len(video)
        except (decord.DECORDError, RuntimeError, AssertionError) as error:
            raise UnsupportedCodecError(f"{scan.name}: decord does not open it: {_short(error)}") from error
        if claimed != len(scan.timeline):
            raise UnsupportedCodecError(f"{scan.name}: decord counts {claimed} frames, the file has {len(scan.timeline)}")
        return stack(_go_through(video, scan, indices, size), path=scan.name)


def _go_through(video: decord.VideoReader, scan: Scan, indices: tuple[int, ...], size: tuple[int, int] | None) -> list[Uint8Array]:
    wanted, frames = set(indices), []
    for index in range(indices[-1] + 1):
        try:
            frame = video.next()
        except (decord.DECORDError, RuntimeError, StopIteration) as error:
            raise TruncatedVideoError(f"{scan.name}: decord finds no frame {index}: {_short(error)}") from error
        if index in wanted:
            frames.append(scale(_checked(frame, scan), size))
    return frames


def _checked(frame: object, scan: Scan) -> Uint8Array:
    """(H, W, 3) of an array of decord's, or of whatever its bridge makes of it in this thread."""
    pixels = np.asarray(frame.asnumpy() if hasattr(frame, "asnumpy") else frame)
    expected = (scan.info.height, scan.info.width, 3)
    if pixels.shape != expected:
        raise UnsupportedCodecError(f"{scan.name}: decord gives a picture of shape {pixels.shape}, the file has {expected}")
    return pixels


def _short(error: Exception) -> str:
    """The last part of an error's first line: decord puts its own source file first."""
    return (str(error).splitlines() or [type(error).__name__])[0][-160:]
