"""What augmentation may change, and what a seed depends on."""

from __future__ import annotations

import numpy as np
import torch

from reelscribe.pipeline.config import AugmentationConfig
from reelscribe.pipeline.training.augment import augment
from reelscribe.pipeline.training.data import stable_seed
from reelscribe.pipeline.training.evaluation import _reorder
from reelscribe.pipeline.video.types import Frames


def test_augmentation_off_changes_nothing() -> None:
    frames = torch.randint(0, 255, (3, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment(frames, AugmentationConfig(), seed=1), frames)


def test_every_frame_of_a_clip_is_changed_alike() -> None:
    frames = torch.randint(0, 255, (1, 3, 24, 32), dtype=torch.uint8).expand(5, -1, -1, -1)
    config = AugmentationConfig(crop_scale=0.5, brightness=0.4, contrast=0.4, horizontal_flip=True)
    for seed in range(10):
        changed = augment(frames, config, seed=seed)
        assert changed.shape == frames.shape
        assert changed.dtype == torch.uint8
        assert torch.equal(changed, changed[:1].expand_as(changed))
        assert torch.equal(changed, augment(frames, config, seed=seed))


def test_only_a_flip_turns_left_into_right() -> None:
    frames = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    frames[..., 8:] = 200  # the right is bright, also in every crop that keeps 80 percent
    lefts, rights = [], []
    for flip in (False, True):
        for seed in range(20):
            columns = augment(frames, AugmentationConfig(crop_scale=0.8, horizontal_flip=flip), seed=seed).float().mean(dim=(0, 1, 2))
            (rights if columns[-1] > columns[0] else lefts).append(flip)
    assert lefts
    assert all(lefts)
    assert rights.count(False) == 20


def test_seeds_do_not_depend_on_the_process() -> None:
    assert stable_seed(0, "order", 1) == 1332101017241992705
    assert stable_seed(0, "order", 1) != stable_seed(0, "order", 2)


def test_frames_keep_their_times_when_reordered() -> None:
    pixels = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    frames = Frames(pixels=pixels, index=(0, 5, 9), pts_seconds=(0.0, 0.5, 0.9), backend="pyav")
    turned = _reorder(frames, [2, 0, 1])
    assert turned.pixels[:, 0, 0, 0].tolist() == [2, 0, 1]
    assert turned.index == (9, 0, 5)
    assert turned.pts_seconds == (0.9, 0.0, 0.5)
