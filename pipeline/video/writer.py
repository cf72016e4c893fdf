"""Frames to a file: the small share of encoding that the demo and the tests need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.video.reformatter import Colorspace

from reelscribe.pipeline.video.types import Uint8Array


def write_video(
    path: str | Path,
    frames: Iterable[Uint8Array],
    *,
    frame_rate: float,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    times_s: Sequence[float] | None = None,
    rotation_degrees: int = 0,
) -> None:
    """Encode (H, W, 3) RGB frames; the container follows from the suffix.

    ``times_s`` gives each frame its own presentation time (a variable rate, or a start that is not 0), to 1/90000 s;
    ``rotation_degrees`` is the clockwise turn that players are told to apply. ``options`` go to the encoder as they are.
    Raises ValueError for no frames, frames of different sizes, or a side that the pixel format cannot hold.
    """
    rate = Fraction(frame_rate).limit_denominator(100_000)
    clock = Fraction(1, 90_000)
    with av.open(str(path), "w") as container:
        stream: Any = None
        for position, pixels in enumerate(frames):
            height, width = pixels.shape[:2]
            if stream is None:
                if pixel_format.startswith("yuv420") and (height % 2 or width % 2):
                    raise ValueError(f"{width} x {height} pixels: {pixel_format} needs even sides")
                stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
                stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
                stream.time_base = stream.codec_context.time_base = 1 / rate if times_s is None else clock
                if rotation_degrees:
                    stream.set_display_rotation(-rotation_degrees)  # FFmpeg counts counterclockwise
            if (width, height) != (stream.width, stream.height):
                raise ValueError(f"frame {position} is {width} x {height}, the first was {stream.width} x {stream.height}")
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format, dst_colorspace=Colorspace.ITU601)
            picture.time_base = stream.codec_context.time_base
            picture.pts = position if times_s is None else round(Fraction(times_s[position]) / clock)
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError(f"{path}: no frames to write")
        container.mux(stream.encode(None))
