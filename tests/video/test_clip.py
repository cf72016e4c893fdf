"""From a request to the frames that a model sees."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from reelscribe.pipeline.errors import UnsupportedCodecError, VideoError, VideoTooLargeError, VideoTooShortError
from reelscribe.pipeline.sampling import DenseSampling, KeyframeSampling, RateSampling, UniformSampling
from reelscribe.pipeline.video.clip import Clip, ClipRequest, read_clip
from reelscribe.pipeline.video.containers.probe import scan
from reelscribe.pipeline.video.readers.chain import read_frames
from reelscribe.pipeline.video.sources.local import digest
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize
from videos import number_shown

SIZE = FrameSize(height=48, width=64)


@pytest.fixture
def request_all(counting: dict[str, Path]) -> ClipRequest:
    return ClipRequest(uri=str(counting["h264-short-gop"]), sampling=UniformSampling(num_frames=70), size=SIZE)


def shown(request: ClipRequest) -> list[list[int]]:
    return [[number_shown(p) for p in view.pixels] for view in read_clip(request).views]


def test_uniform_frames_and_their_facts(request_all: ClipRequest) -> None:
    clip = read_clip(replace(request_all, sampling=UniformSampling(num_frames=7)))
    (view,) = clip.views
    assert view.pixels.shape == (7, 48, 64, 3)
    assert view.index == tuple(number_shown(p) for p in view.pixels) == (5, 15, 25, 35, 45, 55, 65)
    assert view.pts_seconds == pytest.approx([i / 25 for i in view.index])
    assert view.backend == "pyav"
    assert clip.info == scan(request_all.uri).info
    assert clip.digest == hashlib.sha256(Path(request_all.uri).read_bytes()).hexdigest()


def test_the_content_is_named_where_that_is_asked_for(request_all: ClipRequest, tmp_path: Path) -> None:
    assert read_clip(replace(request_all, digest=False)).digest == ""
    path = tmp_path / "a.mp4"
    for content in (b"one", b"two", b"six"):
        path.write_bytes(content)
        os.utime(path, ns=(0, int.from_bytes(content)))  # changes come faster here than a file system's clock ticks
        assert digest(str(path)) == digest(str(path)) == hashlib.sha256(content).hexdigest()


def test_more_frames_than_there_are_repeat(request_all: ClipRequest) -> None:
    (numbers,) = shown(replace(request_all, sampling=UniformSampling(num_frames=140)))
    assert numbers == [i // 2 for i in range(140)]


def test_a_window_is_counted_from_the_first_frame(counting: dict[str, Path], request_all: ClipRequest) -> None:
    window = replace(request_all, sampling=RateSampling(frames_per_second=25), start_s=0.4, end_s=0.8)
    assert shown(window) == [list(range(10, 20))]
    assert shown(replace(window, end_s=99.0, start_s=2.6)) == [list(range(65, 70))]
    late = ClipRequest(uri=str(counting["h264-ts"]), sampling=RateSampling(frames_per_second=25), size=SIZE, start_s=0.4, end_s=0.8)
    assert shown(late) == [list(range(10, 20))]  # its first frame is shown at 10 s
    assert read_clip(late).views[0].pts_seconds[0] == pytest.approx(10.4)


@pytest.mark.parametrize(("start_s", "end_s"), [(2.8, None), (5.0, 6.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_a_window_outside_the_video_is_too_short(request_all: ClipRequest, start_s: float, end_s: float | None) -> None:
    with pytest.raises(VideoTooShortError, match="not inside"):
        read_clip(replace(request_all, start_s=start_s, end_s=end_s))


def test_dense_views(request_all: ClipRequest) -> None:
    views = shown(replace(request_all, sampling=DenseSampling(num_frames=4, stride_s=0.2, num_views=3)))
    assert len(views) == 3
    assert all(np.diff(view).tolist() == [5, 5, 5] for view in views)
    assert views[0][0] < views[1][0] < views[2][0]
    with pytest.raises(VideoTooShortError, match="stride"):
        read_clip(replace(request_all, sampling=DenseSampling(num_frames=40, stride_s=0.2)))


def test_keyframes_plan(counting: dict[str, Path], request_all: ClipRequest) -> None:
    plan = KeyframeSampling(num_frames=4)
    assert shown(replace(request_all, sampling=plan)) == [
        [12, 24, 48, 60]
    ]  # keyframes at 0, 12, ... 60, wanted near 8.75, 26.25, 43.75, 61.25
    assert shown(replace(request_all, sampling=plan, start_s=0.9, end_s=2.0)) == [[24, 36, 36, 48]]
    with pytest.raises(VideoTooShortError, match="no keyframe"):
        read_clip(replace(request_all, sampling=plan, start_s=0.5, end_s=0.9))
    with pytest.raises(UnsupportedCodecError, match="avi does not tell"):
        read_clip(replace(request_all, sampling=plan, uri=str(counting["mpeg4-avi"])))


def test_jitter_is_the_seeds(request_all: ClipRequest) -> None:
    sampling = UniformSampling(num_frames=5)
    one, again, other, none = (shown(replace(request_all, sampling=sampling, jitter_seed=seed)) for seed in (1, 1, 2, None))
    assert one == again
    assert one not in (other, none)


def test_stretch_and_crop(counting: dict[str, Path]) -> None:
    whole = read_frames(scan(str(counting["h264-short-gop"])), [1.0]).pixels[0]  # 96 x 128
    request = ClipRequest(uri=str(counting["h264-short-gop"]), sampling=UniformSampling(num_frames=1), size=SIZE, start_s=1.0, end_s=1.001)
    stretched = read_clip(replace(request, size=FrameSize(height=24, width=24))).views[0].pixels[0]
    assert nearly_equal(stretched, cv2.resize(whole, (24, 24), interpolation=cv2.INTER_AREA))
    cropped = read_clip(replace(request, size=FrameSize(height=48, width=48, fit="crop"))).views[0].pixels[0]
    assert nearly_equal(cropped, cv2.resize(whole, (64, 48), interpolation=cv2.INTER_AREA)[:, 8:56])


def nearly_equal(pixels: np.ndarray, expected: np.ndarray) -> bool:
    """Equal in shape, and but for the rounding of colours in content."""
    return pixels.shape == expected.shape and float(np.abs(pixels.astype(int) - expected).mean()) <= 1.5


def test_limits_of_pixels_and_duration(request_all: ClipRequest) -> None:
    with pytest.raises(VideoTooLargeError, match="128 x 96 pixels"):
        read_clip(request_all, DecodeLimits(max_pixels=128 * 96 - 1))
    with pytest.raises(VideoTooLargeError, match="s long"):
        read_clip(request_all, DecodeLimits(max_duration_s=2.0))
    assert read_clip(request_all, DecodeLimits(max_pixels=128 * 96, max_duration_s=2.8))


def test_every_file_of_the_zoo_gives_all_its_frames_or_one_class(shared_data: Path) -> None:
    """With any of its 16 frames, whatever is wrong with the file; what comes must be reproducible."""
    outcomes: Counter[str] = Counter()
    for file in sorted(f for folder in ("zoo", "clips") for f in (shared_data / folder).rglob("*") if f.is_file()):
        request = ClipRequest(uri=str(file), sampling=UniformSampling(num_frames=16), size=SIZE)
        outcome = clip_or_failure(request)
        outcomes[outcome.failure if isinstance(outcome, VideoError) else "frames"] += 1
        if isinstance(outcome, VideoError):
            assert type(outcome) is not VideoError
            assert file.name in str(outcome)
            assert str(outcome).isprintable()
            assert outcome.advice
            assert isinstance(pickle.loads(pickle.dumps(outcome)), type(outcome))
        else:
            assert outcome.views[0].pixels.shape == (16, 48, 64, 3)
            assert np.array_equal(outcome.views[0].pixels, read_clip(request).views[0].pixels)
    assert outcomes == {"frames": 43, "not_a_video": 10, "no_video_stream": 10, "truncated": 4, "encrypted": 2}


def clip_or_failure(request: ClipRequest) -> Clip | VideoError:
    try:
        return read_clip(request)
    except VideoError as error:
        return error
