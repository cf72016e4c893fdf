"""torchcodec, where its FFmpeg libraries load; and what is said where they do not, or where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from exactness import Exactness
from optional import lacking
from reelscribe.pipeline.errors import UnsupportedCodecError, VideoError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import ClipRequest, read_clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import Backend, DecodeLimits, FrameSize
from videos import CASES

# No times (AVI, MPEG program streams), or not those of the frames that it gives (MPEG-TS).
CANNOT = {"h264-ts", "h264-avi", "mpeg4-avi", "mpeg4-avi-b-frames", "mpeg1-ps", "mpeg2-ts", "mjpeg-avi"}


def request(path: Path, backend: Backend = "torchcodec") -> ClipRequest:
    return ClipRequest(uri=str(path), sampling=UniformSampling(), size=FrameSize(height=48, width=64), backend=backend)


@pytest.mark.slow  # it loads torch
def test_it_gives_the_right_frames_or_refuses(counting: dict[str, Path]) -> None:
    with DecodePool(1, DecodeLimits(timeout_s=120), read="exactness:count_right") as pool:
        outcomes: dict[str, Exactness | VideoError] = dict(pool.map((name, request(counting[name])) for name in CASES))  # type: ignore[assignment]
    if "does not load" in (words := str(outcomes["h264-short-gop"])):
        lacking(f"{words}; it needs FFmpeg's libraries")
    for name, outcome in outcomes.items():
        if name in CANNOT:
            assert isinstance(outcome, UnsupportedCodecError), (name, outcome)
        else:
            assert isinstance(outcome, Exactness), (name, outcome)
            assert outcome.right == outcome.asked > CASES[name].num_frames


def test_a_library_that_does_not_load_is_said(counting: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise RuntimeError('Could not load libtorchcodec')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "reelscribe.pipeline.video.readers.torchcodec", raising=False)
    with pytest.raises(UnsupportedCodecError, match="does not load"):
        read_clip(request(counting["h264-short-gop"]))
