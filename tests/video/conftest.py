"""Counting videos, written once per test run, and stores that hold them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

import s3_server
from reelscribe.pipeline.video.writer import write_video
from videos import CASES


@pytest.fixture(scope="session")
def counting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of each case. Written before any test may load decord, whose library disturbs the VP8 encoder of PyAV."""
    folder = tmp_path_factory.mktemp("counting")
    return {name: case.write(folder / f"{name}{case.suffix}") for name, case in CASES.items()}


@pytest.fixture(scope="session")
def store_folder(counting: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every counting video, and noise that does not compress: the index at its end, at its front, and in fragments."""
    folder = tmp_path_factory.mktemp("store")
    for path in counting.values():
        (folder / path.name).symlink_to(path)
    noise = np.random.default_rng(7).integers(0, 255, (50, 96, 128, 3), dtype=np.uint8)
    options = {"preset": "ultrafast", "qp": "8", "g": "10"}
    large = folder / "large.mp4"
    write_video(large, (noise[i * 7 % 50] for i in range(1000)), frame_rate=25, options=options)
    front, fragments = {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}
    for name, flags in (("large-front.mp4", front), ("large-fragments.mp4", fragments), ("large.mkv", {})):
        with av.open(str(large)) as given, av.open(str(folder / name), "w", options=flags) as made:
            stream = made.add_stream_from_template(given.streams.video[0])
            for packet in given.demux(given.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    made.mux(packet)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video, and longer than a header")
    return folder


@pytest.fixture(scope="session")
def s3_address(store_folder: Path, s3_server_address: str) -> str:
    """An S3 server whose bucket 'videos' holds a few of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.ENVIRONMENT.items():
            patch.setenv(name, value)
        store = s3_server.client(s3_server_address)
        store.create_dir("videos")
        for name in ("large.mp4", "large.mkv", "h264-short-gop.mp4", "vp9.webm"):
            with store.open_output_stream(f"videos/{name}") as file:
                file.write((store_folder / name).read_bytes())
    return s3_server_address


@pytest.fixture
def s3(s3_address: str, s3: str) -> str:
    """The address of the S3 server with its videos, which the environment names."""
    return s3
