"""Videos behind s3://, on a real server of the loopback."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import numpy as np
import pytest

import s3_server
from reelscribe.pipeline.errors import NetworkError, VideoNotFoundError, VideoPermissionError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import ClipRequest, read_clip
from reelscribe.pipeline.video.containers.probe import scan
from reelscribe.pipeline.video.readers.chain import read_frames
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.sources.source import content_digest
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize


def request(uri: str, frames: int = 16) -> ClipRequest:
    return ClipRequest(uri=uri, sampling=UniformSampling(num_frames=frames), size=FrameSize(height=48, width=64))


def put(s3: str, key: str, content: bytes) -> str:
    with s3_server.client(s3).open_output_stream(f"videos/{key}") as file:
        file.write(content)
    return f"s3://videos/{key}"


@pytest.mark.parametrize("name", ["large.mp4", "large.mkv", "vp9.webm"])
def test_the_same_frames(s3: str, store_folder: Path, name: str) -> None:
    here, there = read_clip(request(str(store_folder / name))), read_clip(request(f"s3://videos/{name}"))
    assert np.array_equal(here.views[0].pixels, there.views[0].pixels)
    assert there.info == here.info
    assert there.digest.startswith("remote:")
    assert there.digest == content_digest(f"s3://videos/{name}")


def test_a_key_is_taken_to_the_letter(s3: str, store_folder: Path) -> None:
    uri = put(s3, "a folder/ä b%20#1.mp4", (store_folder / "h264-short-gop.mp4").read_bytes())
    assert read_clip(request(uri, 5)).views[0].index == (7, 21, 35, 49, 63)


def test_what_is_not_there(s3: str) -> None:
    for uri in ("s3://videos/none.mp4", "s3://no-such-bucket/a.mp4", "s3://videos", "s3://videos/"):
        with pytest.raises(VideoNotFoundError, match=uri):
            read_clip(request(uri))


def test_nobody_there(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="NETWORK_CONNECTION"):
        read_clip(request("s3://videos/large.mp4"))


def test_in_a_worker(s3: str) -> None:
    with DecodePool(1, DecodeLimits(timeout_s=60, memory_mb=768)) as pool:
        uris = ["s3://videos/large.mp4", "s3://videos/none.mp4"]
        outcomes = dict(pool.map((uri, request(uri, 4)) for uri in uris))
    assert [getattr(outcomes[uri], "failure", "frames") for uri in uris] == ["frames", "not_found"]


def test_strangers_are_refused(s3: str) -> None:
    open_before = scan("s3://videos/large.mp4")
    allow_unchecked_requests(s3, 0)
    try:
        with pytest.raises(VideoPermissionError, match="the store refuses"):
            read_clip(request("s3://videos/large.mp4"))
        with pytest.raises(VideoPermissionError, match="the store refuses"):  # credentials that end in the middle
            read_frames(open_before, [20.0])
    finally:
        allow_unchecked_requests(s3, 1_000_000)


def allow_unchecked_requests(s3: str, count: int) -> None:
    wanted = urllib.request.Request(f"{s3}/moto-api/reset-auth", data=str(count).encode(), headers={"Content-Type": "text/plain"})
    urllib.request.urlopen(wanted).close()


def test_an_object_that_goes_in_the_middle_is_not_found(s3: str, store_folder: Path) -> None:
    found = scan(put(s3, "going.mp4", (store_folder / "large.mp4").read_bytes()))
    s3_server.client(s3).delete_file("videos/going.mp4")
    with pytest.raises(VideoNotFoundError, match=r"going\.mp4"):
        read_frames(found, [20.0])


def test_an_object_that_is_replaced_in_the_middle_is_given_up(s3: str, store_folder: Path) -> None:
    found = scan(put(s3, "changing.mp4", (store_folder / "large.mp4").read_bytes()))
    put(s3, "changing.mp4", (store_folder / "large-front.mp4").read_bytes())
    with pytest.raises(NetworkError, match="replaced while it was read"):
        found.source.digest()
