"""What a seed depends on, and clips with their frames shuffled."""

from __future__ import annotations

import numpy as np

from reelscribe.pipeline.training.data import stable_seed
from reelscribe.pipeline.training.evaluation import _reorder
from reelscribe.pipeline.video.types import Frames


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
