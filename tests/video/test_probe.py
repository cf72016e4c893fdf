"""Facts against ffprobe's, and a class for every file that cannot be used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from optional import lacking
from reelscribe.pipeline.errors import (
    EncryptedVideoError,
    NotAVideoError,
    NoVideoStreamError,
    TruncatedVideoError,
    VideoError,
    VideoNotFoundError,
    VideoPermissionError,
)
from reelscribe.pipeline.video.containers.probe import probe, scan
from reelscribe.pipeline.video.sources.local import local_path
from reelscribe.pipeline.video.writer import write_video
from videos import CASES, Case, counting_frames

# The files of the zoo that give no frames. What the others are is in ffprobe.tsv.
NO_FRAMES: dict[str, type[VideoError]] = {
    "moviepy/result.webm": NotAVideoError,
    "mp4parse/afconvert-aac-0.5s.mp4": NoVideoStreamError,
    "mp4parse/amr_nb_1f.3gp": NoVideoStreamError,
    "mp4parse/amr_wb_1f.3gp": NoVideoStreamError,
    "mp4parse/bipbop-cenc-audioinit.mp4": NoVideoStreamError,
    "mp4parse/bipbop_480wp_1001kbps-cenc-video-key1-init.mp4": EncryptedVideoError,
    "mp4parse/bipbop_audioinit.mp4": NoVideoStreamError,
    "mp4parse/bipbop_cbcs_audio_init.mp4": NoVideoStreamError,
    "mp4parse/bipbop_nonfragment_header.mp4": TruncatedVideoError,
    "mp4parse/chunk_out_of_range.mp4": TruncatedVideoError,
    "mp4parse/short-cenc.mp4": EncryptedVideoError,
    "mp4parse/sine-3s-xhe-aac-44khz-mono.mp4": NoVideoStreamError,
    "mp4parse/test_case_1185230.mp4": TruncatedVideoError,
    "torchcodec/nasa_13013.mp4.audio_44100.mp3": NoVideoStreamError,
    "torchcodec/sine_mono_s32.wav": NoVideoStreamError,
    "torchcodec/sine_mono_s32_8000.wav": NoVideoStreamError,
}


def test_every_file_of_the_zoo_is_what_ffprobe_says_or_one_class(shared_data: Path) -> None:
    zoo = shared_data / "zoo"
    said = dict(line.split("\t", 1) for line in (zoo / "ffprobe.tsv").read_text().splitlines())
    for file in sorted(f for f in zoo.rglob("*") if f.is_file() and f != zoo / "ffprobe.tsv"):
        name = str(file.relative_to(zoo))
        expected = NotAVideoError if file.name == "LICENSE" else NO_FRAMES.get(name)
        if expected is not None:
            with pytest.raises(expected, match=re.escape(file.name)):
                probe(str(file))
            continue
        facts = dict(re.findall(r"(\w+)=([^=\s]+)", said[name].split("format_name")[0]))
        info = probe(str(file))
        width, height = int(facts["width"]), int(facts["height"])
        turned = "rotation" in facts
        assert (info.width, info.height) == ((height, width) if turned else (width, height)), name
        assert info.rotation_degrees == (-int(facts["rotation"]) % 360 if turned else 0), name
        assert info.codec == facts["codec_name"], name
        assert info.num_frames == int(facts["nb_read_packets"]), name
        if facts["duration"] != "N/A" and file.name not in {"part_0.mp4", "part_1.mp4"}:  # these two have a hole of one frame
            assert info.duration_s == pytest.approx(float(facts["duration"]), abs=2e-6), name
            numerator, denominator = map(int, facts["avg_frame_rate"].split("/"))
            if denominator:
                assert info.frame_rate == pytest.approx(numerator / denominator), name


def test_frame_times_are_those_of_ffprobe(shared_data: Path) -> None:
    """AVI stores no times, and versions of FFmpeg guess others."""
    if shutil.which("ffprobe") is None:
        lacking("no ffprobe here")
    compared = 0
    for file in sorted(f for folder in ("zoo", "clips") for f in (shared_data / folder).rglob("*") if f.is_file() and f.suffix != ".avi"):
        try:
            line = scan(str(file)).timeline
        except VideoError:
            continue
        command = [
            "ffprobe",
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-show_entries",
            "packet=pts_time,flags",
            "-of",
            "csv=p=0",
            str(file),
        ]
        packets = [row.split(",")[:2] for row in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]
        shown_s = sorted(float(time) for time, flags in packets if "D" not in flags)
        assert [line.seconds(i) for i in range(len(line))] == pytest.approx(shown_s, abs=1e-6), file.name
        compared += 1
    assert compared > 35


def test_every_clip_gives_frames(shared_data: Path) -> None:
    counts = {f.name: probe(str(f)).num_frames for f in (shared_data / "clips").glob("*.*")}
    assert counts["R6llTwEh07w.mp4"] == 303
    assert counts["v_SoccerJuggling_g23_c01.avi"] == 240
    assert counts["TrumanShow_wave_f_nm_np1_fr_med_26.avi"] == 48  # 49 packets: B-frames are packed, and one packet is a placeholder


@pytest.mark.parametrize("name", CASES)
def test_facts_of_counting_videos(counting: dict[str, Path], name: str) -> None:
    case, found = CASES[name], scan(str(counting[name]))
    info, truth_s = found.info, case.truth_s()
    turned = case.rotation_degrees in {90, 270}
    assert (info.width, info.height) == ((case.height, case.width) if turned else (case.width, case.height))
    assert info.rotation_degrees == case.rotation_degrees
    assert info.num_frames == case.num_frames
    assert info.end_s - info.begin_s == pytest.approx(truth_s[-1] - truth_s[0] + 1 / case.frame_rate, abs=0.25 if case.times_s else 2e-3)
    if case.times_s is None:
        assert info.frame_rate == pytest.approx(case.frame_rate, rel=5e-3)
    if (
        "g" in case.options
        and "keyint" not in case.options.get("x264-params", "")
        and found.timeline.recognizable
        and case.codec.startswith("libx264")
    ):
        assert list(found.timeline.keyframes) == list(range(0, case.num_frames, int(case.options["g"])))


def write(path: Path) -> Path:
    return Case(suffix=path.suffix, codec="libx264", num_frames=60).write(path)


def failure_of(path: Path) -> str | None:
    """The class of failure, None where there are frames."""
    try:
        probe(str(path))
    except VideoError as error:
        return error.failure
    return None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.02, 0.3, 0.7, 0.99])
def test_a_cut_file_is_frames_or_one_class(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write(tmp_path / f"whole{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    failure = failure_of(path)
    if suffix == ".ts":  # it can be cut anywhere and says nowhere how long it is
        assert failure in {None, "not_a_video", "no_video_stream", "truncated"}
    else:
        assert failure in ({"truncated"} if kept > 0.001 else {"not_a_video"})


def test_a_file_cut_behind_its_index_is_truncated(tmp_path: Path) -> None:
    import av

    whole, front, cut = write(tmp_path / "whole.mp4"), tmp_path / "front.mp4", tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert probe(str(front)).num_frames == 60
    cut.write_bytes(front.read_bytes()[:-400])
    with pytest.raises(TruncatedVideoError, match="cut"):
        probe(str(cut))


@pytest.mark.parametrize(
    "content",
    [b"\x00", b"\x00" * 5000, b"hello, world\n" * 500, b"#EXTM3U\n#EXTINF:10,\n/etc/hostname\n", b"ffconcat version 1.0\nfile 'a.mp4'\n"],
    ids=["one byte", "zeros", "text", "playlist", "concat"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".txt", ".m3u8", ""])
def test_what_is_no_video_is_not_a_video(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"some{suffix}"
    path.write_bytes(content)
    with pytest.raises(NotAVideoError):
        probe(str(path))


def test_a_still_picture_is_not_a_video(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    for suffix in (".png", ".jpg", ".bmp", ".tiff"):
        path = tmp_path / f"picture{suffix}"
        cv2.imwrite(str(path), np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(NotAVideoError, match="still picture"):
            probe(str(path))


def test_paths_of_every_kind_are_read(tmp_path: Path) -> None:
    for name in [
        "a b.mp4",
        "it's.mp4",
        'say "hi".mp4',
        "жизнь と 生活 é.mp4",
        "-dash.mp4",
        "a%20b#c?.mp4",
        "2026:11.mp4",
        "http:x.mp4",
        "100%d.mp4",
    ]:
        path = write(tmp_path / name)
        assert probe(str(path)).num_frames == 60
        assert probe(path.as_uri()).num_frames == 60


def test_a_path_from_the_current_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "-x.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe("-x.mp4").num_frames == 60


def test_what_is_not_there_or_is_no_file_says_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for uri in [
        str(tmp_path / "none.mp4"),
        "file:///none.mp4",
        "file://host/none.mp4",
        "ftp://host/a.mp4",
        "a\0b.mp4",
        str(tmp_path / ("x" * 300)),
    ]:
        with pytest.raises(VideoNotFoundError):
            probe(uri)
    for path in [tmp_path, tmp_path / "pipe.mp4", Path("/dev/null")]:
        with pytest.raises(NotAVideoError):
            probe(str(path))


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(b"x")
    path.chmod(0)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)  # root reads everything: ask as somebody else
    try:
        with pytest.raises(VideoPermissionError):
            local_path(str(path))
    finally:
        os.seteuid(me)


def test_a_file_is_gone_through_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    write_video(path, counting_frames(10), frame_rate=10)
    first = scan(str(path)).timeline
    assert scan(str(path)).timeline is first
    write_video(path, counting_frames(20), frame_rate=10)
    assert (len(first), len(scan(str(path)).timeline)) == (10, 20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError):
        scan(str(path))
