"""decord: fast on H.264; blind to AV1, GIF and pictures narrower than a few pixels. It may hang on a damaged file: only in a sandbox."""

from __future__ import annotations

import decord
import numpy as np

from reelscribe.pipeline.errors import TruncatedVideoError, UnsupportedCodecError
from reelscribe.pipeline.video.container import known_container
from reelscribe.pipeline.video.probe import Scan
from reelscribe.pipeline.video.scaling import scale, stack
from reelscribe.pipeline.video.types import ReaderName, Uint8Array

decord.logging.set_level(decord.logging.QUIET)


class DecordReader:
    """Refuses what it cannot count: its frame count must be that of the timeline, and it cannot choose among several streams."""

    name: ReaderName = "decord"

    def read(self, scan: Scan, indices: tuple[int, ...], size: tuple[int, int] | None) -> Uint8Array:
        """See ``types.Reader``. Raises UnsupportedCodecError or TruncatedVideoError."""
        if scan.num_video_streams > 1:
            raise UnsupportedCodecError(f"{scan.path}: decord cannot choose among {scan.num_video_streams} video streams")
        try:
            video = decord.VideoReader(scan.path, num_threads=1)
            if len(video) != len(scan.timeline):
                raise UnsupportedCodecError(f"{scan.path}: decord counts {len(video)} frames, the file has {len(scan.timeline)}")
            return stack([scale(_checked(video[index], scan), size) for index in indices], path=scan.path)
        except (decord.DECORDError, RuntimeError, StopIteration, IndexError) as error:
            kind = TruncatedVideoError if known_container(scan.path) and indices[-1] > 0 else UnsupportedCodecError
            raise kind(f"{scan.path}: decord: {str(error).splitlines()[0][-200:] if str(error) else type(error).__name__}") from error


def _checked(frame: object, scan: Scan) -> Uint8Array:
    """(H, W, 3) of an array of decord's, or of whatever its bridge makes of it in this thread."""
    pixels = np.asarray(frame.asnumpy() if hasattr(frame, "asnumpy") else frame)
    if pixels.shape != (scan.info.height, scan.info.width, 3):
        raise UnsupportedCodecError(
            f"{scan.path}: decord gives a picture of shape {pixels.shape}, the file has {scan.info.height} x {scan.info.width}"
        )
    return pixels
