"""The cache: computed once, and never stale."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reelscribe.models.recognizer import Recognizer
from reelscribe.pipeline.errors import NotAVideoError, VideoError, VideoNotFoundError
from reelscribe.pipeline.features import AnyArray, ArrayRequest, FeatureCache, module_digest
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize


class Counting:
    """Mean of each frame, and how often it was asked."""

    calls = 0

    def __call__(self, clip: Clip, request: ArrayRequest) -> AnyArray:
        self.calls += 1
        return clip.views[0].pixels.mean(axis=(1, 2, 3)) + len(request.recipe)


@pytest.fixture
def video(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound(drawn)[0], tmp_path / "a clip.mp4"))


def sound(drawn: Path) -> list[Path]:
    """New videos that are not broken."""
    return [drawn / row.partition(",")[0] for row in (drawn / "truth.csv").read_text().splitlines()[1:]]


def request_for(video: Path) -> ArrayRequest:
    clip = ClipRequest(uri=str(video), sampling=UniformSampling(num_frames=4), size=FrameSize(height=16, width=16))
    return ArrayRequest(clip=clip, recipe=("encoder",))


def fill(folder: Path, *requests: ArrayRequest) -> tuple[dict[ArrayRequest, Path | VideoError], int]:
    compute = Counting()
    with DecodePool(1, DecodeLimits()) as pool:
        return dict(FeatureCache(folder).fill(requests, pool=pool, compute=compute)), compute.calls


def test_an_array_is_computed_once(video: Path, tmp_path: Path) -> None:
    request = request_for(video)
    first, calls = fill(tmp_path / "cache", request)
    again, more = fill(tmp_path / "cache", request)
    assert (calls, more) == (1, 0)
    assert first == again
    path = first[request]
    assert isinstance(path, Path)
    assert np.load(path).shape == (4,)
    assert not list((tmp_path / "cache").rglob(".*"))


def test_a_moved_file_is_the_same_file(video: Path, tmp_path: Path) -> None:
    fill(tmp_path / "cache", request_for(video))
    moved = Path(shutil.move(video, tmp_path / "moved.mp4"))
    assert fill(tmp_path / "cache", request_for(moved))[1] == 0


def test_whatever_changes_the_array_changes_its_name(video: Path, drawn: Path, tmp_path: Path) -> None:
    request = request_for(video)
    fill(tmp_path / "cache", request)
    changed = [
        replace(request, recipe=("other encoder",)),
        replace(request, clip=replace(request.clip, sampling=UniformSampling(num_frames=5))),
        replace(request, clip=replace(request.clip, size=FrameSize(height=16, width=17))),
        replace(request, clip=replace(request.clip, jitter_seed=3)),
        replace(request, clip=replace(request.clip, end_s=1.0)),
    ]
    assert fill(tmp_path / "cache", *changed)[1] == len(changed)
    shutil.copy(sound(drawn)[1], video)
    assert fill(tmp_path / "cache", request)[1] == 1


def test_a_bad_video_is_an_answer_and_leaves_nothing(video: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    missing, text, good = (request_for(p) for p in (tmp_path / "missing.mp4", tmp_path / "text.mp4", video))
    found, calls = fill(tmp_path / "cache", missing, text, good)
    assert isinstance(found[missing], VideoNotFoundError)
    assert isinstance(found[text], NotAVideoError)
    assert isinstance(found[good], Path)
    assert calls == 1


def test_a_network_has_the_digest_of_its_weights() -> None:
    import torch

    def network(seed: int) -> Recognizer:
        torch.manual_seed(seed)
        return Recognizer(num_classes=2, frame_size=(16, 16), encoder="tiny", weights="none", stride=4)

    assert module_digest(network(0)) == module_digest(network(0))
    assert module_digest(network(0)) != module_digest(network(1))
