"""Bringing frames to a size: one method for every reader.

Shrinking is the area average (each output pixel is the mean of the pixels that it covers, so nothing aliases); enlarging is bilinear. Here
both work on a full-size RGB picture, by OpenCV's ``INTER_AREA`` and ``INTER_LINEAR``. The PyAV reader does the same while it converts
colours, in a tenth of the time.
"""

from __future__ import annotations

import cv2
import numpy as np

from reelscribe.pipeline.errors import UnsupportedCodecError
from reelscribe.pipeline.video.types import FrameSize, Uint8Array

cv2.setNumThreads(1)  # clips are decoded side by side by processes, not by threads inside one


def scale(frame: Uint8Array, size: tuple[int, int] | None) -> Uint8Array:
    """(H, W, 3) to (height, width, 3); ``None`` keeps the size."""
    if size is None or frame.shape[:2] == size:
        return frame
    height, width = size
    shrinks = height <= frame.shape[0] and width <= frame.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=method), dtype=np.uint8)


def size_to_scale(*, height: int, width: int, to: FrameSize) -> tuple[int, int]:
    """(height, width) to scale a whole frame to, before ``crop_middle``: the target itself, or the least cover of it in proportion."""
    if to.fit == "stretch":
        return to.height, to.width
    factor = max(to.height / height, to.width / width)
    return max(to.height, round(height * factor)), max(to.width, round(width * factor))


def crop_middle(pixels: Uint8Array, to: FrameSize) -> Uint8Array:
    """(T, H, W, 3) to its middle (T, to.height, to.width, 3); a whole number of pixels, the odd one left at the bottom or right."""
    top = (pixels.shape[1] - to.height) // 2
    left = (pixels.shape[2] - to.width) // 2
    return np.ascontiguousarray(pixels[:, top : top + to.height, left : left + to.width])


def stack(frames: list[Uint8Array], *, path: str) -> Uint8Array:
    """(T, H, W, 3). Raises UnsupportedCodecError where the picture changes its size on the way and no size was asked for."""
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1:
        raise UnsupportedCodecError(f"{path}: the picture changes its size: {', '.join(f'{w} x {h}' for h, w, _ in sorted(shapes))}")
    return np.stack(frames)
