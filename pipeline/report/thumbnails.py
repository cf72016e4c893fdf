"""Small pictures of the frames that a model saw, decoded again when the report is written."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from pydantic import TypeAdapter

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.report.rows import ShownVideo
from reelscribe.pipeline.sampling import SamplingSpec
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import FrameSize, Uint8Array

MAX_THUMBNAILS = 6
HEIGHT = 96  # pixels
MIN_WIDTH, MAX_WIDTH = 32, 224
_DECODED = FrameSize(height=160, width=160)  # square, and brought to the video's own shape afterwards


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """One frame as a picture that can stand in a page."""

    source: str  # data: URI of a JPEG
    width: int
    height: int
    frame_index: int
    time_s: float


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The pictures of one video, or why there are none."""

    thumbnails: tuple[Thumbnail, ...] = ()
    problem: str = ""


def read_strips(videos: Sequence[ShownVideo], *, sampling: dict[str, Any], decode: DecodeConfig) -> list[Strip]:
    """One strip per video, in their order. ``sampling`` is the job's plan, so the frames are among those that the model saw."""
    if not videos:
        return []
    spec = TypeAdapter[Any](SamplingSpec).validate_python(sampling)

    def requests() -> Iterator[tuple[int, ClipRequest]]:
        for i, video in enumerate(videos):
            yield (
                i,
                ClipRequest(uri=video.uri, sampling=spec, size=_DECODED, start_s=video.start_s, end_s=video.end_s, backend=decode.backend),
            )

    with DecodePool(min(decode.num_workers, len(videos)), decode.limits) as pool:
        strips = {i: _strip(clip, videos[i]) for i, clip in pool.map(requests())}
    return [strips[i] for i in range(len(videos))]


def spread(count: int, most: int) -> list[int]:
    """Up to ``most`` of ``count`` positions, evenly, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _strip(clip: Clip | VideoError, video: ShownVideo) -> Strip:
    if isinstance(clip, VideoError):
        return Strip(problem=f"not readable any more: {clip}")
    if clip.digest != video.content_digest:
        return Strip(problem="the file has changed since it was labelled")
    frames = list(
        {
            view.index[i]: (view.pixels[i], view.index[i], view.pts_seconds[i]) for view in clip.views for i in range(len(view.index))
        }.values()
    )
    width = min(MAX_WIDTH, max(MIN_WIDTH, round(HEIGHT * clip.info.width / clip.info.height)))
    chosen = (frames[i] for i in spread(len(frames), MAX_THUMBNAILS))
    return Strip(
        thumbnails=tuple(
            Thumbnail(source=jpeg(pixels, width), width=width, height=HEIGHT, frame_index=index, time_s=time_s)
            for pixels, index, time_s in chosen
        )
    )


def jpeg(pixels: Uint8Array, width: int) -> str:
    """(H, W, 3) RGB as a data URI."""
    sink = io.BytesIO()
    Image.fromarray(pixels).resize((width, HEIGHT), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=75, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
