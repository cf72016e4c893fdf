"""Random changes of a clip, the same for all of its frames, so that motion stays true."""

from __future__ import annotations

import torch
from torch import Tensor

from reelscribe.pipeline.config import AugmentationConfig


def augment(frames: Tensor, config: AugmentationConfig, *, seed: int) -> Tensor:
    """One random crop, flip, brightness and contrast for a whole clip.

    ``frames`` is uint8 (T, 3, H, W) and so is the result. The crop keeps at least ``crop_scale`` of each side and is scaled back, so that
    directions are kept; only ``horizontal_flip`` changes them.
    """
    from torchvision.transforms.v2 import functional as F

    generator = torch.Generator().manual_seed(seed)
    side, x, y, flip, brightness, contrast = torch.rand(6, generator=generator).tolist()
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
    return frames
