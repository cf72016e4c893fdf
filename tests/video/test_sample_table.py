"""Timelines out of an MP4's tables against those out of its packets."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.video.containers.probe import Scan, scan, scanned
from reelscribe.pipeline.video.readers.chain import read_frames
from videos import CASES, number_shown

ISO_FILES = [name for name, case in CASES.items() if case.suffix in {".mp4", ".mov"} and case.num_frames > 1]


def by_tables(path: Path) -> tuple[Scan, bool]:
    """The scan, and whether the tables told it all: only then no packet is read, and the container is still open."""
    with scanned(str(path)) as found:
        return replace(found, video=None), found.video is not None


def by_packets(path: Path) -> Scan:
    return scan(str(path), whole=False)  # what may be cut is always gone through


def assert_same(one: Scan, other: Scan) -> None:
    assert one.info == other.info
    assert np.array_equal(one.timeline.pts, other.timeline.pts)
    assert np.array_equal(one.timeline.keyframes, other.timeline.keyframes)
    assert (one.timeline.end, one.timeline.time_base) == (other.timeline.end, other.timeline.time_base)


def remux(path: Path, to: Path, *, delay_s: Fraction = Fraction(0), from_s: Fraction = Fraction(0), flags: str = "faststart") -> Path:
    """The same packets from a time on, with the muxer's flags; shown later, or with a start that an edit list hides."""
    options = {"movflags": flags, "avoid_negative_ts": "disabled" if from_s else "auto"}
    with av.open(str(path)) as given, av.open(str(to), "w", options=options) as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None and packet.pts is not None and packet.pts * packet.time_base >= from_s:
                shift = round(delay_s / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                made.mux(packet)
    return to


@pytest.mark.parametrize("name", ISO_FILES)
def test_tables_tell_what_the_packets_tell(counting: dict[str, Path], name: str) -> None:
    found, told = by_tables(counting[name])
    assert told
    assert_same(found, by_packets(counting[name]))


@pytest.mark.parametrize("flags", ["faststart", "negative_cts_offsets", "rtphint"])
@pytest.mark.parametrize("delay_s", [Fraction(0), Fraction(3, 2)])
@pytest.mark.parametrize("name", ["h264-open-gop", "h264-variable-rate", "mpeg4-mp4"])
def test_muxers_have_their_ways(counting: dict[str, Path], tmp_path: Path, name: str, flags: str, delay_s: Fraction) -> None:
    path = remux(counting[name], tmp_path / "a.mp4", flags=flags, delay_s=delay_s)
    found, told = by_tables(path)
    assert told
    assert_same(found, by_packets(path))
    assert found.timeline.begin_s == pytest.approx(float(delay_s), abs=1e-3)
    frames = read_frames(found, [found.timeline.seconds(i) for i in (3, 40, 69)])
    assert [number_shown(pixels) for pixels in frames.pixels] == [3, 40, 69]


def test_the_picture_is_found_beside_other_tracks(counting: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(counting["h264-short-gop"])) as given, av.open(str(path), "w") as made:
        sound = made.add_stream("aac", rate=8000, layout="mono")
        picture = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                made.mux(packet)
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 320), dtype=np.float32), format="fltp", layout="mono")
                silence.sample_rate = 8000
                made.mux(sound.encode(silence))
        made.mux(sound.encode(None))
    found, told = by_tables(path)
    assert told
    assert_same(found, by_packets(path))


@pytest.mark.parametrize("how", ["fragments", "hidden start", "no list of keyframes"])
def test_what_tables_do_not_tell_is_left_to_the_packets(counting: dict[str, Path], tmp_path: Path, how: str) -> None:
    path, whole = tmp_path / "a.mp4", counting["h264-short-gop"]
    if how == "fragments":
        remux(whole, path, flags="frag_keyframe")
    elif how == "hidden start":
        remux(whole, path, from_s=Fraction(12, 25), delay_s=Fraction(-17, 25))
    else:
        path.write_bytes(whole.read_bytes().replace(b"stss", b"free"))
    found, told = by_tables(path)
    assert not told
    assert_same(found, by_packets(path))
    begin = 17 if how == "hidden start" else 0
    assert len(found.timeline) == 70 - begin
    frames = read_frames(found, [found.timeline.seconds(i) for i in (0, 20, 52)])
    assert [number_shown(pixels) for pixels in frames.pixels] == [begin, begin + 20, begin + 52]


def test_a_list_of_keyframes_that_lies_costs_time_and_no_frame(counting: dict[str, Path], tmp_path: Path) -> None:
    """Frames 13, 25, 37, ... are said to decode alone, and do not."""
    data = bytearray(counting["h264-short-gop"].read_bytes())
    at = data.index(b"stss") + 12
    for entry in range(at + 4, at + 24, 4):
        data[entry : entry + 4] = (int.from_bytes(data[entry : entry + 4], "big") + 1).to_bytes(4, "big")
    path = tmp_path / "lies.mp4"
    path.write_bytes(data)
    found, _ = by_tables(path)
    frames = read_frames(found, [found.timeline.seconds(i) for i in range(0, 70, 3)])
    assert [number_shown(pixels) for pixels in frames.pixels] == list(range(0, 70, 3))


@pytest.mark.parametrize("name", ["h264-short-gop", "h264-variable-rate", "prores"])
def test_damaged_tables_are_refused_or_mean_the_same_to_both(counting: dict[str, Path], tmp_path: Path, name: str) -> None:
    data, chosen, served = counting[name].read_bytes(), random.Random(name), 0
    path = tmp_path / f"damaged{CASES[name].suffix}"
    for _ in range(60):
        damaged = bytearray(data)
        damaged[chosen.randrange(data.rindex(b"moov") + 4, len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(damaged)
        try:
            found, told = by_tables(path)
        except VideoError:
            continue
        served += told
        assert (found.timeline.pts == by_packets(path).timeline.pts).all()
        assert found.timeline.end == by_packets(path).timeline.end
    assert served
