"""What stored arrays and seeds depend on, and clips with their frames shuffled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reelscribe.pipeline.bundle import new_recognizer
from reelscribe.pipeline.config import Config
from reelscribe.pipeline.features import ArrayRequest
from reelscribe.pipeline.training.data import _Recipe, stable_seed
from reelscribe.pipeline.training.scores.evaluation import _reorder
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


def wanted(*, seed: int = 0, **sections: Any) -> list[ArrayRequest]:
    """What is stored of one training clip."""
    tiny = {"encoder": "tiny", "weights": "none", "stride": 8}
    settings = {"name": "x", "seed": seed, "data": {"manifest": "m.csv"}, "augmentation": {"time_jitter": False}, **sections}
    config = Config.model_validate(settings | {"model": tiny | sections.get("model", {})})
    row = {"video_id": "v", "uri": "/v.mp4", "start_s": None, "end_s": None}
    return _Recipe(config, new_recognizer(config.model, config.transform, num_classes=2)).requests(row, train=True)


def test_without_chance_a_clip_is_stored_once_for_all_seeds() -> None:
    assert wanted(seed=0) == wanted(seed=1)
    assert wanted() == wanted(augmentation={"time_jitter": False, "speed": 0.5, "feature_noise": 0.1})  # drawn anew in each epoch


@pytest.mark.parametrize("augmentation", [{"time_jitter": True}, {"time_jitter": False, "brightness": 0.3}])
def test_views_with_chance_differ_by_seed(augmentation: dict[str, Any]) -> None:
    views = [*wanted(seed=0, augmentation=augmentation | {"views": 3}), *wanted(seed=1, augmentation=augmentation | {"views": 3})]
    assert len(set(views)) == 6


def test_what_the_encoder_sees_is_stored_apart() -> None:
    assert wanted() != wanted(model={"encoder_input": "changes"})
    assert wanted() != wanted(model={"time_gaps": True})  # frames with their times
    assert wanted() == wanted(model={"pooling": "mean_max", "recurrent": "lstm"})  # of what comes after the encoder nothing is stored
