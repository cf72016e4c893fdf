"""torchcodec, where it is installed and its FFmpeg libraries load; and what is said where it is not."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from reelscribe.pipeline.errors import UnsupportedCodecError, VideoError
from reelscribe.pipeline.sampling import RateSampling, UniformSampling
from reelscribe.pipeline.video.clip import Clip, ClipRequest, read_clip
from reelscribe.pipeline.video.readers import load_reader
from reelscribe.pipeline.video.sandbox import DecodePool
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize
from videos import CASES, number_shown

SIZE = FrameSize(height=48, width=64)


def loads() -> bool:
    """In a process of its own: a native library that is broken must not break this one."""
    return (
        find_spec("torchcodec") is not None
        and not subprocess.run([sys.executable, "-c", "import torchcodec.decoders"], check=False).returncode
    )


needs_torchcodec = pytest.mark.skipif(not loads(), reason="torchcodec is not installed, or finds no FFmpeg libraries")


@needs_torchcodec
def test_it_gives_the_right_frames_or_refuses(counting: dict[str, Path]) -> None:
    requests = {
        name: ClipRequest(uri=str(counting[name]), sampling=UniformSampling(num_frames=9), size=SIZE, backend="torchcodec")
        for name in CASES
    }
    with DecodePool(1, DecodeLimits(timeout_s=120)) as pool:
        outcomes: dict[str, Clip | VideoError] = dict(pool.map(requests.items()))
    exact, refused = set(), {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, VideoError):
            refused[name] = outcome.failure
            continue
        (view,) = outcome.views
        assert view.backend == "torchcodec"
        turned = [np.rot90(pixels, CASES[name].rotation_degrees // 90) for pixels in view.pixels]
        assert [number_shown(pixels) for pixels in turned] == list(view.index), name
        exact.add(name)
    assert set(refused.values()) <= {"unsupported_codec", "truncated"}
    assert {"h264-short-gop", "h264-long-gop", "h264-open-gop", "hevc", "vp9", "h264-variable-rate"} <= exact


@needs_torchcodec
def test_many_frames(counting: dict[str, Path]) -> None:
    request = ClipRequest(uri=str(counting["h264-short-gop"]), sampling=RateSampling(frames_per_second=25), size=SIZE, backend="torchcodec")
    with DecodePool(1, DecodeLimits(timeout_s=120)) as pool:
        ((_, clip),) = pool.map([(0, request)])
    assert isinstance(clip, Clip)
    assert [number_shown(pixels) for pixels in clip.views[0].pixels] == list(range(70))


def test_a_library_that_is_absent_or_broken_is_said(counting: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("torchcodec") is None:
        with pytest.raises(UnsupportedCodecError, match="not installed"):
            load_reader("torchcodec")
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise RuntimeError('Could not load libtorchcodec')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.delitem(sys.modules, "reelscribe.pipeline.video.torchcodec_reader", raising=False)
    request = ClipRequest(uri=str(counting["h264-short-gop"]), sampling=UniformSampling(), size=SIZE, backend="torchcodec")
    with pytest.raises(UnsupportedCodecError, match="does not load"):
        read_clip(request)
