"""torchcodec: exact, with the FFmpeg libraries of the system (majors 4 to 9). It loads torch, so that ``auto`` leaves it out."""

from __future__ import annotations

import numpy as np
import torchcodec
from torchcodec.decoders import VideoDecoder

from reelscribe.pipeline.errors import TruncatedVideoError, UnsupportedCodecError
from reelscribe.pipeline.video.containers.probe import Scan
from reelscribe.pipeline.video.scaling import scale, stack
from reelscribe.pipeline.video.types import ReaderName, Uint8Array

if getattr(torchcodec, "ffmpeg_major_version", 0) is None:  # newer releases import without FFmpeg, and fail at every video
    raise ImportError("torchcodec finds none of the FFmpeg libraries that it works with")

_AT_ONCE = 8  # frames of full size in memory
_SAME_TIME_S = 0.002


class TorchCodecReader:
    """Refuses what it cannot count: its number of frames must be the timeline's, and their times too."""

    name: ReaderName = "torchcodec"

    def read(self, scan: Scan, indices: tuple[int, ...], size: tuple[int, int] | None) -> Uint8Array:
        """See ``types.Reader``. Raises UnsupportedCodecError or TruncatedVideoError."""
        if scan.num_video_streams > 1:
            raise UnsupportedCodecError(f"{scan.name}: torchcodec cannot choose among {scan.num_video_streams} video streams")
        if not scan.timeline.recognizable:
            raise UnsupportedCodecError(f"{scan.name}: torchcodec finds frames by times, and {scan.info.container} stores none")
        try:
            video = VideoDecoder(scan.source.path(), dimension_order="NHWC", num_ffmpeg_threads=1)
        except (RuntimeError, ValueError) as error:
            raise UnsupportedCodecError(f"{scan.name}: torchcodec does not open it: {_short(error)}") from error
        if len(video) != len(scan.timeline):
            raise UnsupportedCodecError(f"{scan.name}: torchcodec counts {len(video)} frames, the file has {len(scan.timeline)}")
        frames: list[Uint8Array] = []
        for start in range(0, len(indices), _AT_ONCE):
            frames += _some(video, scan, indices[start : start + _AT_ONCE], size)
        return stack(frames, path=scan.name)


def _some(video: VideoDecoder, scan: Scan, indices: tuple[int, ...], size: tuple[int, int] | None) -> list[Uint8Array]:
    try:
        batch = video.get_frames_at(list(indices))
    except (RuntimeError, IndexError) as error:
        raise TruncatedVideoError(
            f"{scan.name}: torchcodec does not decode frames {indices[0]} to {indices[-1]}: {_short(error)}"
        ) from error
    expected = np.array([scan.timeline.seconds(index) for index in indices])
    if np.abs(batch.pts_seconds.numpy() - expected).max() > _SAME_TIME_S:
        raise UnsupportedCodecError(f"{scan.name}: torchcodec gives frames of other times for {indices[0]} to {indices[-1]}")
    pixels = batch.data.numpy()
    if pixels.shape[1:] != (scan.info.height, scan.info.width, 3):
        raise UnsupportedCodecError(
            f"{scan.name}: torchcodec gives pictures of shape {pixels.shape[1:]}, expected is {scan.info.height, scan.info.width, 3}"
        )
    return [scale(np.ascontiguousarray(frame), size) for frame in pixels]


def _short(error: Exception) -> str:
    """The last part of an error's first line."""
    return (str(error).splitlines() or [type(error).__name__])[0][-160:]
