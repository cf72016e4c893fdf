"""Properties of the plans, and their numbers."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from reelscribe.pipeline.errors import UsageError, VideoTooShortError
from reelscribe.pipeline.sampling import (
    DenseSampling,
    KeyframeSampling,
    RateSampling,
    SamplingSpec,
    UniformSampling,
    Windows,
    plan_times,
    plan_windows,
)

SPECS = st.one_of(
    st.builds(UniformSampling, num_frames=st.integers(1, 64)),
    st.builds(RateSampling, frames_per_second=st.floats(0.05, 60), max_frames=st.integers(1, 300)),
    st.builds(DenseSampling, num_frames=st.integers(1, 32), stride_s=st.floats(0.001, 1), num_views=st.integers(1, 5)),
)
Spec = UniformSampling | RateSampling | DenseSampling
STARTS, LENGTHS, SEEDS = st.floats(-100, 100_000), st.floats(0.01, 36_000), st.none() | st.integers(0, 2**32)


def plan(spec: Spec, start_s: float, length_s: float, seed: int | None) -> tuple[tuple[float, ...], ...]:
    """A plan; examples in which the clip is too short for it are dropped."""
    end_s = start_s + length_s
    assume(not isinstance(spec, DenseSampling) or (spec.num_frames - 1) * spec.stride_s < end_s - start_s)
    return plan_times(spec, start_s=start_s, end_s=end_s, jitter_seed=seed)


@given(spec=SPECS, start_s=STARTS, length_s=LENGTHS, seed=SEEDS)
def test_times_lie_in_the_clip_and_never_go_back(spec: Spec, start_s: float, length_s: float, seed: int | None) -> None:
    for view in plan(spec, start_s, length_s, seed):
        assert len(view) >= 1
        assert all(start_s <= t < start_s + length_s for t in view)
        assert list(view) == sorted(view)


@given(spec=SPECS, start_s=STARTS, length_s=LENGTHS, seed=SEEDS)
def test_a_plan_is_a_function_of_its_arguments(spec: Spec, start_s: float, length_s: float, seed: int | None) -> None:
    assert plan(spec, start_s, length_s, seed) == plan(spec, start_s, length_s, seed)


@given(spec=SPECS, start_s=STARTS, length_s=LENGTHS, seed=SEEDS)
def test_the_number_of_times(spec: Spec, start_s: float, length_s: float, seed: int | None) -> None:
    views = plan(spec, start_s, length_s, seed)
    match spec:
        case UniformSampling(num_frames=count):
            assert [len(view) for view in views] == [count]
        case DenseSampling(num_frames=count, num_views=num_views):
            assert [len(view) for view in views] == [count] * num_views
        case RateSampling(frames_per_second=rate, max_frames=limit):
            assert len(views[0]) <= limit
            assert min(limit, length_s * rate - 2) <= len(views[0]) <= max(1, length_s * rate + 1)


@given(spec=SPECS, start_s=st.floats(0, 1000), length_s=st.floats(1, 1000), shift_s=st.floats(0, 1000), seed=SEEDS)
def test_a_clip_that_begins_later_has_the_same_plan_later(
    spec: Spec, start_s: float, length_s: float, shift_s: float, seed: int | None
) -> None:
    here, there = (
        plan(spec, start, length_s, seed) if not isinstance(spec, RateSampling) else plan(spec, start, round(length_s), seed)
        for start in (start_s, start_s + shift_s)
    )
    for view, moved in zip(here, there, strict=True):
        for a, b in zip(view, moved, strict=False):  # the length of a sum of floats may decide about a last frame
            assert b == pytest.approx(a + shift_s, abs=1e-5 * max(1.0, length_s))


@given(count=st.integers(1, 64), start_s=STARTS, length_s=LENGTHS, seed=st.integers(0, 1000))
def test_uniform_takes_one_time_from_each_part_and_its_middle_without_jitter(
    count: int, start_s: float, length_s: float, seed: int
) -> None:
    part = length_s / count
    slack = 1e-5 * max(1.0, length_s, abs(start_s))
    (jittered,), (fixed,) = (plan(UniformSampling(num_frames=count), start_s, length_s, s) for s in (seed, None))
    for i, (a, b) in enumerate(zip(jittered, fixed, strict=True)):
        assert start_s + i * part - slack <= a <= start_s + (i + 1) * part + slack
        assert b == pytest.approx(start_s + (i + 0.5) * part, abs=slack)


@given(
    count=st.integers(2, 32),
    stride_s=st.floats(0.01, 1),
    views=st.integers(1, 5),
    start_s=st.floats(0, 1000),
    slack_s=st.floats(0.01, 100),
    seed=SEEDS,
)
def test_dense_keeps_its_stride(count: int, stride_s: float, views: int, start_s: float, slack_s: float, seed: int | None) -> None:
    length_s = (count - 1) * stride_s + slack_s
    for view in plan(DenseSampling(num_frames=count, stride_s=stride_s, num_views=views), start_s, length_s, seed):
        for i, t in enumerate(view[:-1]):
            assert t - view[0] == pytest.approx(i * stride_s, abs=1e-5 * max(1.0, length_s))


def test_seeds_differ() -> None:
    spec = UniformSampling(num_frames=8)
    plans = {plan_times(spec, start_s=0, end_s=10, jitter_seed=seed) for seed in range(200)}
    assert len(plans) == 200


def test_numbers() -> None:
    assert plan_times(UniformSampling(num_frames=4), start_s=10, end_s=12) == ((10.25, 10.75, 11.25, 11.75),)
    assert plan_times(RateSampling(frames_per_second=2), start_s=1, end_s=3) == ((1.0, 1.5, 2.0, 2.5),)
    assert plan_times(RateSampling(frames_per_second=2, max_frames=3), start_s=1, end_s=9) == ((1.0, 1.5, 2.0),)
    assert plan_times(RateSampling(frames_per_second=0.5), start_s=1, end_s=1.5) == ((1.0,),)
    assert plan_times(DenseSampling(num_frames=3, stride_s=0.5, num_views=2), start_s=0, end_s=5) == ((1.0, 1.5, 2.0), (3.0, 3.5, 4.0))


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 0), (2, 1)])
def test_a_clip_without_length_is_too_short(start_s: float, end_s: float) -> None:
    with pytest.raises(VideoTooShortError, match="no length"):
        plan_times(UniformSampling(), start_s=start_s, end_s=end_s)


def test_a_window_that_does_not_fit_is_too_short() -> None:
    with pytest.raises(VideoTooShortError, match=r"16 frames at a stride of 0\.1 s need more than 1\.5 s, the clip has 1\.5 s"):
        plan_times(DenseSampling(), start_s=0, end_s=1.5)


@given(
    count=st.integers(1, 32),
    keyframes_s=st.lists(st.floats(0, 100), min_size=1, max_size=30, unique=True).map(sorted),
    window_s=st.tuples(st.floats(0, 100), st.floats(0.01, 100)),
    seed=SEEDS,
)
def test_keyframes_are_the_nearest_ones_inside_the_clip(
    count: int, keyframes_s: list[float], window_s: tuple[float, float], seed: int | None
) -> None:
    start_s, end_s = window_s[0], window_s[0] + window_s[1]
    inside = [t for t in keyframes_s if start_s <= t < end_s - 1e-3]
    assume(inside and inside == [t for t in keyframes_s if start_s <= t < end_s])
    arguments = {"start_s": start_s, "end_s": end_s, "jitter_seed": seed}
    (view,) = plan_times(KeyframeSampling(num_frames=count), keyframes_s=keyframes_s, **arguments)
    (even,) = plan_times(UniformSampling(num_frames=count), **arguments)
    for taken, wanted in zip(view, even, strict=True):
        assert taken in inside
        assert abs(taken - wanted) <= min(abs(t - wanted) for t in inside) + 1e-3
    assert list(view) == sorted(view)


def test_a_clip_without_a_keyframe_is_too_short() -> None:
    with pytest.raises(VideoTooShortError, match="no keyframe"):
        plan_times(KeyframeSampling(), start_s=1, end_s=2, keyframes_s=(0.0, 2.0))


@given(spec=SPECS | st.builds(KeyframeSampling, num_frames=st.integers(1, 9)))
def test_a_spec_is_data(spec: Spec) -> None:
    adapter: TypeAdapter[Spec] = TypeAdapter(SamplingSpec)
    assert adapter.validate_json(adapter.dump_json(spec)) == spec


@pytest.mark.parametrize(
    "wrong", [{"kind": "random"}, {"kind": "uniform", "frames": 3}, {"kind": "uniform", "num_frames": 0}, {"kind": "dense", "stride_s": 0}]
)
def test_a_wrong_spec_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(SamplingSpec).validate_python(wrong)


WINDOWS = st.builds(Windows, length_s=st.floats(1, 60), hop_s=st.floats(1, 60))


@given(spec=WINDOWS, start_s=st.floats(0, 1000), length_s=st.floats(0.01, 400))
def test_windows_follow_each_other_from_the_start_of_the_video_to_its_end(spec: Windows, start_s: float, length_s: float) -> None:
    windows = plan_windows(spec, start_s=start_s, end_s=start_s + length_s)
    assert windows[0][0] == start_s
    assert all(start < end <= start_s + length_s for start, end in windows)
    assert [start for start, _ in windows] == pytest.approx([start_s + i * spec.hop_s for i in range(len(windows))])
    for start, end in windows[:-1]:
        assert end - start == pytest.approx(spec.length_s)
    assert len(windows) == 1 or windows[-1][1] - windows[-1][0] < spec.length_s + min(spec.length_s, spec.hop_s) / 2 + 1e-6


@given(spec=WINDOWS, start_s=st.floats(0, 1000), length_s=st.floats(0.01, 400))
def test_windows_leave_out_only_the_gaps_between_them(spec: Windows, start_s: float, length_s: float) -> None:
    windows = plan_windows(spec, start_s=start_s, end_s=start_s + length_s)
    last_s = windows[-1][1]
    if spec.hop_s <= spec.length_s:
        assert last_s == start_s + length_s
    else:
        assert start_s + length_s - last_s < spec.hop_s - spec.length_s / 2 + 1e-6


@pytest.mark.parametrize(
    ("text", "end_s", "expected"),
    [
        ("10s", 30.0, [(0, 10), (10, 20), (20, 30)]),
        ("10", 34.9, [(0, 10), (10, 20), (20, 34.9)]),
        ("10s", 35.0, [(0, 10), (10, 20), (20, 30), (30, 35)]),
        ("10s", 3.0, [(0, 3)]),
        ("10s/5s", 20.0, [(0, 10), (5, 15), (10, 20)]),
        ("10s/5s", 23.0, [(0, 10), (5, 15), (10, 20), (15, 23)]),
        ("10s/1m", 130.0, [(0, 10), (60, 70), (120, 130)]),
        ("10s/1m", 124.0, [(0, 10), (60, 70)]),
        ("500ms", 1.0, [(0, 0.5), (0.5, 1.0)]),
    ],
)
def test_windows_in_words(text: str, end_s: float, expected: list[tuple[float, float]]) -> None:
    assert list(plan_windows(Windows.parse(text), start_s=0.0, end_s=end_s)) == expected


@pytest.mark.parametrize("text", ["", "0", "10 apples", "-3s", "10s/0s", "10s/", "nan", "1e9"])
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected a length such as 10s"):
        Windows.parse(text)


def test_a_clip_without_length_has_no_windows() -> None:
    with pytest.raises(VideoTooShortError, match="no length"):
        plan_windows(Windows.parse("1s"), start_s=2.0, end_s=2.0)
