"""Scaling and cropping against plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelscribe.pipeline.errors import UnsupportedCodecError
from reelscribe.pipeline.video.scaling import crop_middle, scale, size_to_scale, stack
from reelscribe.pipeline.video.types import FrameSize

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("factor_y", "factor_x"), [(2, 2), (3, 1), (5, 4)])
def test_shrinking_by_whole_factors_is_the_mean_of_each_block(factor_y: int, factor_x: int) -> None:
    frame = RNG.integers(0, 256, size=(12 * factor_y, 16 * factor_x, 3), dtype=np.uint8)
    means = frame.reshape(12, factor_y, 16, factor_x, 3).mean(axis=(1, 3))
    assert np.abs(scale(frame, (12, 16)).astype(float) - means).max() <= 0.5 + 1e-9


def test_a_flat_picture_stays_flat_at_any_size() -> None:
    frame = np.full((37, 53, 3), (10, 128, 250), dtype=np.uint8)
    for size in [(1, 1), (37, 10), (80, 20), (200, 300)]:
        scaled = scale(frame, size)
        assert scaled.shape == (*size, 3)
        assert (scaled == (10, 128, 250)).all()


def test_the_same_size_changes_nothing() -> None:
    frame = RNG.integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
    assert np.array_equal(scale(frame, (5, 7)), frame)
    assert np.array_equal(scale(frame, None), frame)


@given(height=st.integers(1, 2000), width=st.integers(1, 2000), to_height=st.integers(1, 400), to_width=st.integers(1, 400))
def test_crop_scales_to_the_least_cover_and_keeps_the_proportions(height: int, width: int, to_height: int, to_width: int) -> None:
    scaled_height, scaled_width = size_to_scale(height=height, width=width, to=FrameSize(height=to_height, width=to_width, fit="crop"))
    assert scaled_height >= to_height
    assert scaled_width >= to_width
    assert scaled_height == to_height or scaled_width == to_width
    free_height, free_width = height * scaled_width / width, width * scaled_height / height
    assert abs(scaled_height - free_height) <= 0.5 or abs(scaled_width - free_width) <= 0.5 or 1 in (to_height, to_width)


def test_stretch_ignores_the_proportions() -> None:
    assert size_to_scale(height=10, width=999, to=FrameSize(height=64, width=32)) == (64, 32)


def test_the_middle_is_kept() -> None:
    pixels = np.arange(2 * 5 * 8 * 3, dtype=np.uint8).reshape(2, 5, 8, 3)
    assert np.array_equal(crop_middle(pixels, FrameSize(height=2, width=4)), pixels[:, 1:3, 2:6])
    assert np.array_equal(crop_middle(pixels, FrameSize(height=5, width=8)), pixels)


def test_a_picture_that_changes_its_size_cannot_be_stacked() -> None:
    with pytest.raises(UnsupportedCodecError, match="4 x 3, 9 x 8"):
        stack([np.zeros((3, 4, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], path="a.mp4")


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_a_size_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        FrameSize(height=size[0], width=size[1])
