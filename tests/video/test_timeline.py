"""Index arithmetic against its definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelscribe.pipeline.video.containers.timeline import TIME_TOLERANCE_S, Timeline

TIME_BASES = st.sampled_from([Fraction(1, 90_000), Fraction(1, 1000), Fraction(1001, 30_000), Fraction(1, 25), Fraction(1, 12_800)])


def timeline(pts: list[int], *, step: int = 1, base: Fraction = Fraction(1, 1000), keys: list[int] | None = None) -> Timeline:
    return Timeline(
        pts=np.array(pts, dtype=np.int64),
        end=pts[-1] + step,
        time_base=base,
        keyframes=np.array([0] if keys is None else keys, dtype=np.int64),
        recognizable=True,
    )


@given(
    pts=st.lists(st.integers(-10_000, 1_000_000), min_size=1, max_size=60, unique=True).map(sorted),
    base=TIME_BASES,
    times=st.lists(st.floats(-20, 2000), max_size=20),
)
def test_the_frame_on_screen_is_the_last_one_that_has_begun(pts: list[int], base: Fraction, times: list[float]) -> None:
    line = timeline(pts, base=base)
    for time, index in zip(times, line.on_screen(times), strict=True):
        begun = [i for i, p in enumerate(pts) if float(p * base) <= time + TIME_TOLERANCE_S]
        near = any(abs(float(p * base) - time - TIME_TOLERANCE_S) < 1e-9 for p in pts)  # the two ways to round may differ there
        assert near or index == (begun[-1] if begun else 0)


@given(pts=st.lists(st.integers(0, 10_000_000), min_size=1, max_size=60, unique=True).map(sorted), base=TIME_BASES)
def test_a_frame_is_on_screen_at_its_own_time_and_until_the_next(pts: list[int], base: Fraction) -> None:
    line = timeline(pts, base=base, step=7)
    own = [line.seconds(i) for i in range(len(pts))]
    assert line.on_screen(own) == tuple(range(len(pts)))
    just_before_next = [t - 3e-6 for t in [*own[1:], line.end_s]]
    assert line.on_screen(just_before_next) == tuple(range(len(pts)))


def test_sums_of_floats_reach_the_frame_they_mean() -> None:
    line = timeline(list(range(100)), base=Fraction(1, 10))
    assert line.on_screen([sum([0.1] * n) for n in range(100)]) == tuple(range(100))


@given(keys=st.lists(st.integers(0, 99), min_size=1, unique=True).map(sorted), index=st.integers(0, 99))
def test_the_keyframe_before(keys: list[int], index: int) -> None:
    line = timeline(list(range(100)), keys=keys)
    assert line.keyframe_before(index) == max((k for k in keys if k <= index), default=0)


@given(keys=st.lists(st.integers(0, 99), unique=True).map(sorted), start=st.integers(-(10**12), 10**12), base=TIME_BASES)
def test_keyframes_are_shown_when_their_frames_are(keys: list[int], start: int, base: Fraction) -> None:
    line = timeline([start + 7 * i for i in range(100)], base=base, keys=keys)
    assert line.keyframes_s() == tuple(line.seconds(key) for key in keys)


@pytest.mark.parametrize("pts", [[], [3, 3], [3, 2]])
def test_times_that_do_not_increase_are_refused(pts: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        timeline(pts, step=1) if pts else Timeline(
            pts=np.array([], dtype=np.int64), end=1, time_base=Fraction(1), keyframes=np.array([], dtype=np.int64), recognizable=True
        )


def test_a_last_frame_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="last frame"):
        timeline([1, 2], step=0)
