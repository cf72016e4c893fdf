"""Random changes of a clip, the same for all of its frames, so that motion stays true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from reelscribe.pipeline.config import AugmentationConfig

_T = TypeVar("_T")

# of arXiv 1708.04896, and so of torchvision's RandomErasing: share of the picture, and height by width
_ERASED_AREA = (0.02, 0.33)
_ERASED_ASPECT = (0.3, 3.3)


def augment(frames: Tensor, config: AugmentationConfig, *, seed: int) -> Tensor:
    """One random crop, flip, change of colours and erased box for a whole clip.

    ``frames`` is uint8 (T, 3, H, W) and so is the result. The crop keeps at least ``crop_scale`` of each side and is scaled back, so that
    directions are kept; only ``horizontal_flip`` changes them.
    """
    if config.of_pixels == AugmentationConfig().of_pixels:
        return frames  # and torchvision, which takes seconds to import, is not needed
    from torchvision.transforms.v2 import functional as F

    generator = torch.Generator().manual_seed(seed)
    side, x, y, flip, brightness, contrast = torch.rand(6, generator=generator).tolist()
    saturation, hue, erasing, *box = torch.rand(7, generator=generator).tolist()
    height, width = frames.shape[-2:]
    scale = config.crop_scale + side * (1 - config.crop_scale)
    if scale < 1:
        crop_height, crop_width = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = round(y * (height - crop_height)), round(x * (width - crop_width))
        frames = F.resized_crop(frames, top, left, crop_height, crop_width, [height, width], antialias=True)
    if config.horizontal_flip and flip < 0.5:
        frames = F.horizontal_flip(frames)
    if config.brightness:
        frames = F.adjust_brightness(frames, 1 + config.brightness * (2 * brightness - 1))
    if config.contrast:
        factor = 1 + config.contrast * (2 * contrast - 1)
        mean = F.rgb_to_grayscale(frames).float().mean()  # of the clip: torchvision's adjust_contrast takes each frame's own
        frames = (factor * frames.float() + (1 - factor) * mean).clamp(0, 255).to(torch.uint8)
    if config.saturation:
        frames = F.adjust_saturation(frames, 1 + config.saturation * (2 * saturation - 1))
    if config.hue:
        frames = F.adjust_hue(frames, config.hue * (2 * hue - 1))
    if erasing < config.erasing:
        colour = frames.float().mean(dim=(0, 2, 3)).to(torch.uint8).view(3, 1, 1)  # the clip's own, so that the box is no beacon
        frames = F.erase(frames, *_box(height, width, *box), colour)
    return frames


def _box(height: int, width: int, area: float, aspect: float, y: float, x: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of a box inside the picture, from four numbers in [0, 1)."""
    pixels = height * width * (_ERASED_AREA[0] + area * (_ERASED_AREA[1] - _ERASED_AREA[0]))
    ratio = math.exp(math.log(_ERASED_ASPECT[0]) + aspect * math.log(_ERASED_ASPECT[1] / _ERASED_ASPECT[0]))
    box_height = min(height, max(1, round(math.sqrt(pixels * ratio))))
    box_width = min(width, max(1, round(math.sqrt(pixels / ratio))))
    return round(y * (height - box_height)), round(x * (width - box_width)), box_height, box_width


def augment_stored(array: Tensor, config: AugmentationConfig, *, seed: int) -> Tensor:
    """Other frames of a clip, and noise on its features; quick enough to be made anew each time that the clip is read.

    ``array`` is frames uint8 (T, 3, H, W) or features (T, D, h, w); the result has the same type and at least one frame. Noise is for
    features only; its size is counted in the standard deviation of each channel over the clip.
    """
    if not (config.changes_time or config.feature_noise):
        return array
    generator = torch.Generator().manual_seed(seed)
    frames = chosen_frames(len(array), config, generator)
    if frames != list(range(len(array))):
        array = array[frames]
    if config.feature_noise and array.is_floating_point():
        features = array.float()
        spread = features.std(dim=(0, *range(2, features.ndim)), keepdim=True, correction=0)
        array = (features + config.feature_noise * spread * torch.randn(features.shape, generator=generator)).to(array.dtype)
    return array


def augment_frames(of_frames: Sequence[_T], config: AugmentationConfig, *, seed: int) -> tuple[_T, ...]:
    """What belongs to the frames that ``augment_stored`` chooses with the same seed."""
    if not config.changes_time:
        return tuple(of_frames)
    return tuple(of_frames[i] for i in chosen_frames(len(of_frames), config, torch.Generator().manual_seed(seed)))


def chosen_frames(count: int, config: AugmentationConfig, generator: torch.Generator) -> list[int]:
    """Which of ``count`` frames a clip is made of, in order: a random window, its middle moved, played at a random speed, frames left out.

    Moving one point of the time axis and stretching both sides of it is the time warping of arXiv 1904.08779.
    """
    if not config.changes_time:
        return list(range(count))
    size, place, warp, speed = torch.rand(4, generator=generator).tolist()
    window = max(1, round(count * (config.time_crop + (1 - config.time_crop) * size)))
    start = int(place * (count - window + 1))
    wanted = max(1, round(window * (1 + config.speed) ** (2 * speed - 1)))
    middle = 0.5 * (1 + config.time_warp * (2 * warp - 1))
    times = start + window * np.interp((np.arange(wanted) + 0.5) / wanted, [0, 0.5, 1], [0, middle, 1])
    kept = torch.rand(wanted, generator=generator).numpy() >= config.frame_dropout
    kept[wanted // 2] |= not kept.any()
    return [min(int(time), count - 1) for time in times[kept]]
