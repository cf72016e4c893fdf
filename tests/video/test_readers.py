"""Every reader on every way to write a video: what is decoded is the frame asked for, or a VideoError says that it is not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from exactness import Exactness
from reelscribe.pipeline.errors import TruncatedVideoError, UnsupportedCodecError, VideoError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import Clip, ClipRequest, read_clip
from reelscribe.pipeline.video.containers.probe import probe, scan
from reelscribe.pipeline.video.readers.chain import CHAIN, load_reader, read_frames
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.scaling import scale
from reelscribe.pipeline.video.types import Backend, FrameSize, ReaderName
from videos import CASES, Case, counting_frame, number_shown

# What each library cannot do. Everything else is exact, and all of it is exact with `auto`.
CANNOT: dict[ReaderName, set[str]] = {
    "pyav": set(),
    "opencv": {"av1", "av1-webm", "h264-interlaced"},
    "decord": {"av1", "av1-webm", "gif", "h264-ts", "mpeg2-ts", "mpeg1-ps"},
}


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    """decord is only ever loaded in a worker: its library puts old symbols in the way of PyAV's encoders."""
    with DecodePool(1) as pool:
        yield pool


def upright(frame: np.ndarray, rotation_degrees: int) -> np.ndarray:
    """Undo a clockwise turn."""
    return np.rot90(frame, rotation_degrees // 90)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", ["auto", "pyav", "opencv"])
def test_every_frame_and_every_jump_is_exact(counting: dict[str, Path], name: str, backend: Backend) -> None:
    case, found = CASES[name], scan(str(counting[name]))
    count = len(found.timeline)
    assert count == case.num_frames
    begins_s = [*(found.timeline.seconds(i) for i in range(count)), found.info.end_s]
    middle_s = [(begin + end) / 2 for begin, end in pairwise(begins_s)]
    if backend != "auto" and name in CANNOT[backend]:
        with pytest.raises(UnsupportedCodecError):
            read_frames(found, middle_s, backend=backend)
        return
    frames = read_frames(found, middle_s, backend=backend)
    assert frames.index == tuple(range(count))
    assert frames.backend == ("pyav" if backend == "auto" else backend)
    assert [number_shown(upright(p, case.rotation_degrees)) for p in frames.pixels] == list(range(count))
    truth_s, offset_s = case.truth_s(), found.info.begin_s - (case.truth_s()[0] if case.times_s else 0)
    if case.suffix not in {".ts", ".flv", ".mpg"} and case.codec != "mpeg4":  # these muxers move the start to make room for reordering
        assert offset_s == pytest.approx(0, abs=1e-3)
    assert np.allclose(np.array(frames.pts_seconds) - offset_s, truth_s, atol=6e-4)  # Matroska and FLV round to milliseconds
    chosen = random.Random(name)
    for _ in range(8):  # few frames far apart: this is where seeks happen; in any order, with repetition
        wanted = [chosen.randrange(count) for _ in range(chosen.choice([1, 2, 5]))]
        some = read_frames(found, [middle_s[i] for i in wanted], backend=backend)
        assert some.index == tuple(wanted)
        assert all(np.array_equal(pixels, frames.pixels[i]) for pixels, i in zip(some.pixels, wanted, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_keyframes_decoded_alone_are_those_decoded_through(counting: dict[str, Path], name: str) -> None:
    case, found = CASES[name], scan(str(counting[name]))
    reader = load_reader("pyav")
    every = reader.read(found, tuple(range(case.num_frames)), None)
    keyframes = tuple(int(k) for k in found.timeline.keyframes)
    for chosen in (keyframes, keyframes[1::2] or keyframes, keyframes[-1:]):
        alone = reader.read(found, chosen, None)
        assert [number_shown(upright(p, case.rotation_degrees)) for p in alone] == list(chosen)
        assert np.array_equal(alone, every[list(chosen)])


def test_decord_is_exact_or_says_that_it_cannot(counting: dict[str, Path]) -> None:
    plan, size = UniformSampling(), FrameSize(height=96, width=128)
    requests = {name: ClipRequest(uri=str(counting[name]), sampling=plan, size=size, backend="decord") for name in CASES}
    with DecodePool(1, read="exactness:count_right") as pool:
        outcomes: dict[str, Exactness | VideoError] = dict(pool.map(requests.items()))  # type: ignore[arg-type]
    for name, outcome in outcomes.items():
        if name in CANNOT["decord"]:
            assert isinstance(outcome, UnsupportedCodecError), name
        else:
            assert isinstance(outcome, Exactness), (name, outcome)
            assert outcome.right == outcome.asked > CASES[name].num_frames


@pytest.mark.slow
def test_readers_agree_on_real_clips(shared_data: Path, pool: DecodePool) -> None:
    """To the bit at the picture's own size, but for 10-bit files: their mean difference is a few levels of 255.

    Scaled, PyAV gives what the others would within 2 levels (3 of 10-bit files): it goes to the small picture without rounding a large one.
    torchcodec may lack its FFmpeg libraries here.
    """
    suffixes = {".mp4", ".avi", ".mkv", ".mov", ".webm"}
    files = [f for folder in ("clips", "zoo") for f in sorted((shared_data / folder).rglob("*")) if f.suffix in suffixes]
    tolerance = {
        "h265_10bits.mp4": {"opencv": 1.5, "decord": 5, "torchcodec": 2.5, "scaled": 3},
        "video_colr_nclx_hdr10_full_range.mp4": {"opencv": 6, "decord": 6},
    }
    plan, small, compared = UniformSampling(num_frames=5), FrameSize(height=60, width=80), 0
    for file in files:
        try:
            info = probe(str(file))
        except VideoError:
            continue
        size = FrameSize(height=info.height, width=info.width)
        clips = dict(pool.map((b, ClipRequest(uri=str(file), sampling=plan, size=size, backend=b)) for b in (*CHAIN, "torchcodec")))
        truth = clips["pyav"]
        if isinstance(truth, VideoError):
            continue
        for backend in ("opencv", "decord", "torchcodec"):
            other = clips[backend]
            if isinstance(other, VideoError):
                assert isinstance(other, UnsupportedCodecError), other
                continue
            compared += 1
            assert other.views[0].index == truth.views[0].index
            assert mean_difference(other, truth.views[0].pixels) <= tolerance.get(file.name, {}).get(backend, 0), (file.name, backend)
        scaled = read_clip(ClipRequest(uri=str(file), sampling=plan, size=small))
        expected = np.stack([scale(pixels, (small.height, small.width)) for pixels in truth.views[0].pixels])
        assert mean_difference(scaled, expected) <= tolerance.get(file.name, {}).get("scaled", 2), file.name
    assert compared > 60


def mean_difference(clip: Clip, pixels: np.ndarray) -> float:
    got = clip.views[0].pixels
    return 0.0 if np.array_equal(got, pixels) else float(np.abs(got.astype(np.int16) - pixels).mean())


@pytest.mark.slow
def test_a_jump_gives_the_same_frame_as_decoding_through_on_real_clips(shared_data: Path) -> None:
    checked = 0
    for file in [*sorted((shared_data / "clips").glob("*.*")), *sorted((shared_data / "zoo").rglob("*.*"))]:
        try:
            found = scan(str(file))
        except VideoError:
            continue
        with av.open(str(file), metadata_errors="replace") as container:
            container.streams.video[0].codec_context.thread_count = 1
            try:
                shown = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
            except av.error.InvalidDataError:
                continue
        chosen = random.Random(file.name)
        wanted = sorted({chosen.randrange(len(shown)) for _ in range(4)})
        with av.open(str(file), metadata_errors="replace") as container:
            through = {i: f.to_rgb(interpolation="BICUBIC").to_ndarray() for i, f in enumerate(container.decode(video=0)) if i in wanted}
        for index in wanted:  # one at a time: each is a jump from the start
            pixels = load_reader("pyav").read(found, (index,), None)[0]
            assert np.array_equal(upright(pixels, found.info.rotation_degrees), through[index]), (file.name, index)
            checked += 1
    assert checked > 120


@pytest.mark.parametrize(("colorspace", "matrix"), [(1, "bt709"), (5, "bt601")])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("backend", ["pyav", "opencv"])
@pytest.mark.parametrize("size", [None, (16, 24), (90, 100)])
def test_colours_follow_the_matrix_and_the_range_of_the_file(
    tmp_path: Path, colorspace: int, matrix: str, full_range: bool, backend: ReaderName, size: tuple[int, int] | None
) -> None:
    """Against the equations of ITU-R BT.601 and BT.709 within 3 levels of 255."""
    kr, kb = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}[matrix]
    luma, blue, red = 120.0, 90.0, 170.0
    path = tmp_path / "colour.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, 2 if full_range else 1
        planes = np.concatenate([np.full(64 * 64, luma), np.full(32 * 32, blue), np.full(32 * 32, red)]).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(planes.reshape(96, 64), format="yuv420p")
        frame.colorspace, frame.color_range = colorspace, 2 if full_range else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    black, luma_span, chroma_span = (0, 255, 255) if full_range else (16, 219, 224)
    y, cb, cr = (luma - black) / luma_span, (blue - 128) / chroma_span, (red - 128) / chroma_span
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    got = read_frames(scan(str(path)), [0.0], size=size, backend=backend).pixels[0].reshape(-1, 3).mean(axis=0)
    assert np.abs(got - 255 * np.array([r, g, b])).max() <= 3


def test_an_edit_list_hides_the_frames_before_its_start(tmp_path: Path, counting: dict[str, Path]) -> None:
    """A cut without recoding keeps the frames from the last keyframe on and tells the player to begin later."""
    path = tmp_path / "edited.mp4"
    with av.open(str(counting["h264-short-gop"])) as source, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        shift = round(17 / 25 / source.streams.video[0].time_base)
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts is not None and packet.pts >= round(12 / 25 / packet.time_base):
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = stream
                target.mux(packet)
    found = scan(str(path))
    assert found.info.num_frames == 70 - 17
    for backend in ("pyav", "opencv"):
        frames = read_frames(found, [found.timeline.seconds(i) for i in range(53)], backend=backend)  # type: ignore[arg-type]
        assert [number_shown(p) for p in frames.pixels] == list(range(17, 70))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_pictures_that_are_refreshed_bit_by_bit_are_exact(tmp_path: Path, suffix: str) -> None:
    """Nothing but the first frame decodes alone, whatever the container says of the frames where a refresh begins."""
    case = Case(suffix=suffix, codec="libx264", options={"preset": "veryfast", "x264-params": "intra-refresh=1:keyint=20"})
    found = scan(str(case.write(tmp_path / f"refreshed{suffix}")))
    for wanted in ([50], [23, 24, 41, 69], list(range(70))):
        frames = read_frames(found, [found.timeline.seconds(index) for index in wanted])
        assert [number_shown(pixels) for pixels in frames.pixels] == wanted


def test_auto_falls_back_and_says_which_reader_served(counting: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelscribe.pipeline.video.readers.chain.CHAIN", ("opencv", "pyav"))
    found = scan(str(counting["av1"]))
    frames = read_frames(found, [0.1, 1.0])
    assert frames.backend == "pyav"
    assert [number_shown(p) for p in frames.pixels] == [2, 25]
    monkeypatch.setattr("reelscribe.pipeline.video.readers.chain.CHAIN", ("opencv",))
    with pytest.raises(UnsupportedCodecError, match="OpenCV"):
        read_frames(found, [0.1])


def test_a_reader_that_is_not_installed_says_so(counting: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelscribe.pipeline.video.readers.chain.find_spec", lambda _: None)
    with pytest.raises(UnsupportedCodecError, match=r"'decord'.*not installed"):
        read_frames(scan(str(counting["gif"])), [0.0], backend="decord")


@pytest.mark.parametrize("packet", [24, 25, 26, 27, 30])
def test_damage_in_the_middle_fails_what_it_touches_and_nothing_else(tmp_path: Path, counting: dict[str, Path], packet: int) -> None:
    """Frames before the damage and after the next keyframe are exact; those that lean on the broken one are refused.

    So are the few that the decoder still held back for reordering when it failed: nothing tells that they are sound.
    """
    data = bytearray(counting["h264-short-gop"].read_bytes())
    with av.open(str(counting["h264-short-gop"])) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    broken = packets[packet]  # in the third group of pictures (24 to 35)
    data[broken.pos : broken.pos + broken.size] = b"\xff" * broken.size
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    found = scan(str(path))
    wrong, refused = [], []
    for index in range(70):
        try:
            (pixels,) = load_reader("pyav").read(found, (index,), None)
        except TruncatedVideoError:
            refused.append(index)
        else:
            wrong += [index] if number_shown(pixels) != index else []
    assert wrong == []
    assert refused
    assert set(refused) <= set(range(20, 36))


def test_damage_that_the_decoder_only_mumbles_about_is_refused(tmp_path: Path, counting: dict[str, Path]) -> None:
    """FFV1 has a checksum for each slice; what builds on the damaged frame is refused with it."""
    data = bytearray(counting["ffv1"].read_bytes())
    with av.open(str(counting["ffv1"])) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    data[packets[14].pos + packets[14].size // 2] ^= 0x10
    path = tmp_path / "damaged.mkv"
    path.write_bytes(data)
    found = scan(str(path))
    keyframe = next(int(k) for k in found.timeline.keyframes if k > 14)
    for index in range(found.info.num_frames):
        if 14 <= index < keyframe:
            with pytest.raises(TruncatedVideoError):
                load_reader("pyav").read(found, (index,), None)
        else:
            assert number_shown(load_reader("pyav").read(found, (index,), None)[0]) == index


def test_pixels_are_those_drawn(counting: dict[str, Path]) -> None:
    pixels = load_reader("pyav").read(scan(str(counting["ffv1"])), (21,), None)[0]
    assert np.abs(pixels.astype(int) - counting_frame(21).astype(int)).max() <= 2


def test_opencv_is_the_build_that_was_asked_for() -> None:
    assert "FFMPEG:                      YES" in cv2.getBuildInformation()
