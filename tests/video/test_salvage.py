"""What is used of cut and damaged videos: frames that show what they should, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import TruncatedVideoError, VideoError
from reelscribe.pipeline.sampling import KeyframeSampling, RateSampling, UniformSampling
from reelscribe.pipeline.video.clip import Clip, ClipRequest, read_clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.sources.local import digest
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize
from videos import CASES, number_shown

USE = DecodeLimits(truncated="use")
EVERY_FRAME = RateSampling(frames_per_second=100, max_frames=1000)


def request(path: Path) -> ClipRequest:
    return ClipRequest(uri=str(path), sampling=EVERY_FRAME, size=FrameSize(height=48, width=64))


def cut(path: Path, to: Path, share: float) -> Path:
    data = path.read_bytes()
    to.write_bytes(data[: int(len(data) * share)])
    return to


def shown(clip: Clip) -> list[int]:
    return [number_shown(pixels) for pixels in clip.views[0].pixels]


@pytest.mark.parametrize("name", ["h264-mkv-ntsc", "vp9", "mpeg4-avi"])
def test_a_cut_video_gives_its_beginning(counting: dict[str, Path], tmp_path: Path, name: str) -> None:
    path = cut(counting[name], tmp_path / f"cut{CASES[name].suffix}", 0.8)
    with pytest.raises(TruncatedVideoError):
        read_clip(request(path))
    clip = read_clip(request(path), USE)
    numbers = sorted(set(shown(clip)))
    assert [round(t * CASES[name].frame_rate) for t in clip.views[0].pts_seconds] == shown(clip)
    assert numbers[:10] == list(range(10))
    assert 20 < len(numbers) < 69
    assert clip.info.num_frames == len(numbers)
    assert clip.digest == "damaged:" + digest(str(path))


def test_a_cut_film_with_its_index_in_front(counting: dict[str, Path], tmp_path: Path) -> None:
    with (
        av.open(str(counting["h264-short-gop"])) as given,
        av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as made,
    ):
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    path = cut(tmp_path / "a.mp4", tmp_path / "cut.mp4", 0.85)
    with pytest.raises(TruncatedVideoError, match="missing at its end"):
        read_clip(request(path))
    clip = read_clip(request(path), USE)
    assert [round(t * 25) for t in clip.views[0].pts_seconds] == shown(clip)
    assert 12 < clip.info.num_frames < 60
    keys = read_clip(replace(request(path), sampling=KeyframeSampling(num_frames=3)), USE)
    assert all(number % 12 == 0 for number in shown(keys))


def test_a_hole_leaves_what_is_around_it(counting: dict[str, Path], tmp_path: Path) -> None:
    """The index of an MP4 stands elsewhere, and the next group of 12 frames is built upon nothing before it."""
    data = bytearray(counting["h264-short-gop"].read_bytes())
    with av.open(str(counting["h264-short-gop"])) as container:
        (hit,) = [packet for packet in container.demux(video=0) if packet.size and packet.pts * packet.time_base == Fraction(24, 25)]
        data[hit.pos : hit.pos + hit.size] = bytes(hit.size)
    path = tmp_path / "hole.mp4"
    path.write_bytes(data)
    with pytest.raises(TruncatedVideoError):
        read_clip(request(path))
    clip = read_clip(request(path), USE)
    numbers = sorted(set(shown(clip)))
    assert numbers[0] == 0
    assert numbers == [*range(22), *range(36, 70)]  # two B-frames may have referred to frame 24
    assert len(numbers) == clip.info.num_frames
    assert [round(t * 25) for t in clip.views[0].pts_seconds] == shown(clip)
    assert shown(clip)[100:140] == [21] * 40  # it stays on screen


def test_what_is_whole_is_read_as_ever(counting: dict[str, Path]) -> None:
    for name in ("h264-ts", "mpeg4-avi", "vp8"):
        one = replace(request(counting[name]), sampling=UniformSampling(num_frames=5))
        plain, use = read_clip(one), read_clip(one, USE)
        assert np.array_equal(plain.views[0].pixels, use.views[0].pixels)
        assert plain.digest == use.digest


def test_where_nothing_decodes_it_stays_a_failure(counting: dict[str, Path], tmp_path: Path) -> None:
    path = cut(counting["h264-short-gop"], tmp_path / "cut.mp4", 0.5)  # the index stood at its end
    with pytest.raises(TruncatedVideoError):
        read_clip(request(path), USE)


def test_the_policy_reaches_the_workers(counting: dict[str, Path], tmp_path: Path) -> None:
    path = cut(counting["vp9"], tmp_path / "cut.webm", 0.5)
    outcomes = []
    for policy in ("fail", "use"):
        with DecodePool(1, DecodeConfig.model_validate({"truncated": policy}).limits) as pool:
            outcomes += [outcome for _, outcome in pool.map([(0, request(path))])]
    assert isinstance(outcomes[0], VideoError)
    assert isinstance(outcomes[1], Clip)
