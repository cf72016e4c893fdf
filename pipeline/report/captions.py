"""The worst and best captions of an evaluation as one HTML file, with their frames and where the model looked before each word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.report.html import render_page
from reelscribe.pipeline.report.thumbnails import HEIGHT, MAX_THUMBNAILS, MAX_WIDTH, MIN_WIDTH, Strip, Thumbnail, jpeg, spread
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import Uint8Array

_DIM = 0.25  # brightness of what the model did not look at


@dataclass(frozen=True, kw_only=True)
class ShownCaption:
    """One caption of the page."""

    video_id: str
    request: ClipRequest
    said: str
    confidence: float
    score: float  # CIDEr-D
    references: tuple[str, ...]
    tokens: tuple[str, ...]  # of the caption, and the end
    attention: npt.NDArray[np.float32]  # (tokens, T), or (tokens, T, h, w)


def write_caption_report(
    path: Path, *, title: str, metrics: Mapping[str, str], captions: Sequence[ShownCaption], decode: DecodeConfig
) -> Path:
    """Write the page; the clips are decoded again for their pictures, and one that cannot be any more is shown with the cause."""

    def requests() -> Iterator[tuple[int, ClipRequest]]:
        yield from enumerate(caption.request for caption in captions)

    with DecodePool(max(1, min(decode.num_workers, len(captions))), decode.limits) as pool:
        clips = dict(pool.map(requests()))
    shown = [(caption, *_pictures(caption, clips[i])) for i, caption in enumerate(captions)]
    path.write_text(render_page("captions.html.jinja", title=title, metrics=metrics, captions=shown), encoding="utf-8")
    return path


def _pictures(caption: ShownCaption, clip: Clip | VideoError) -> tuple[Strip, list[tuple[str, Thumbnail]]]:
    """Frames of the clip, and for each token the frame that the model looked at most."""
    if isinstance(clip, VideoError):
        return Strip(problem=f"not readable any more: {clip}"), []
    width = min(MAX_WIDTH, max(MIN_WIDTH, round(HEIGHT * clip.info.width / clip.info.height)))
    view = clip.views[0]

    def picture(pixels: Uint8Array, frame: int) -> Thumbnail:
        index, time_s = view.index[frame], view.pts_seconds[frame]
        return Thumbnail(source=jpeg(pixels, width), width=width, height=HEIGHT, frame_index=index, time_s=time_s)

    strip = Strip(thumbnails=tuple(picture(view.pixels[i], i) for i in spread(len(view.index), MAX_THUMBNAILS)))
    looks = []
    for token, weights in zip(caption.tokens, caption.attention, strict=True):
        frame = int(weights.reshape(len(weights), -1).sum(axis=1).argmax())
        looks.append((token, picture(lit(view.pixels[frame], weights[frame]), frame)))
    return strip, looks


def lit(pixels: Uint8Array, weights: npt.NDArray[np.float32]) -> Uint8Array:
    """A frame (H, W, 3), as bright in each cell of the grid (h, w) as it was looked at; of no grid, the frame as it is."""
    if weights.ndim < 2 or weights.max() <= 0:
        return pixels
    rows, columns = (np.arange(size) * cells // size for size, cells in zip(pixels.shape[:2], weights.shape, strict=True))
    light = _DIM + (1 - _DIM) * (weights / weights.max())[rows[:, None], columns[None]]
    shown: Uint8Array = (pixels * light[..., None]).astype(np.uint8)
    return shown
