"""Videos behind http://, on a real server of the loopback: the same frames, few bytes, and every fault in its class."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from range_server import RangeServer, serve
from reelscribe.pipeline.errors import NetworkError, NotAVideoError, VideoError, VideoNotFoundError, VideoPermissionError
from reelscribe.pipeline.sampling import KeyframeSampling, UniformSampling
from reelscribe.pipeline.video.clip import ClipRequest, read_clip
from reelscribe.pipeline.video.containers.probe import scan
from reelscribe.pipeline.video.readers.chain import read_frames
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.sources import remote
from reelscribe.pipeline.video.sources.http_store import HttpStore
from reelscribe.pipeline.video.sources.local import digest
from reelscribe.pipeline.video.sources.source import content_digest
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize

SIZE = FrameSize(height=48, width=64)
LARGE = ("large.mp4", "large-front.mp4", "large-fragments.mp4")


@pytest.fixture
def server(store_folder: Path) -> Iterator[RangeServer]:
    with serve(store_folder) as running:
        yield running


@pytest.fixture
def by_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest file."""
    monkeypatch.setattr(remote, "SMALL_BYTES", 0)
    monkeypatch.setattr(remote, "BLOCK_BYTES", 512)
    monkeypatch.setattr(remote, "_KEPT_BLOCKS", 4)  # what was fetched to open the file does not serve the pass over the packets


def request(uri: str, frames: int = 16) -> ClipRequest:
    return ClipRequest(uri=uri, sampling=UniformSampling(num_frames=frames), size=SIZE)


@pytest.mark.parametrize("name", LARGE)
def test_sixteen_frames_of_a_large_file_fetch_a_part_of_it(server: RangeServer, store_folder: Path, name: str) -> None:
    here, there = read_clip(request(str(store_folder / name))), read_clip(request(server.uri(name)))
    assert np.array_equal(here.views[0].pixels, there.views[0].pixels)
    assert (here.views[0].index, here.views[0].pts_seconds, here.info) == (there.views[0].index, there.views[0].pts_seconds, there.info)
    size = (store_folder / name).stat().st_size
    assert size > 15_000_000
    if name != LARGE[2]:  # its headers stand every ten frames: most of its blocks hold one
        assert server.sent < size / 4
        assert server.requests.total() < 150
    assert server.sent < 1.6 * size


def test_keyframes_fetch_less_still(server: RangeServer, store_folder: Path) -> None:
    plan = ClipRequest(uri=server.uri(LARGE[0]), sampling=KeyframeSampling(num_frames=4), size=SIZE)
    pixels = read_clip(plan).views[0].pixels
    assert server.sent < (store_folder / LARGE[0]).stat().st_size / 15
    local = ClipRequest(uri=str(store_folder / LARGE[0]), sampling=plan.sampling, size=SIZE)
    assert np.array_equal(pixels, read_clip(local).views[0].pixels)


@pytest.mark.usefixtures("by_ranges")
def test_headers_alone_give_the_same_timeline(server: RangeServer, counting: dict[str, Path]) -> None:
    for path in counting.values():
        here, there = scan(str(path)), scan(server.uri(path.name))
        assert here.info == there.info, path.name
        assert np.array_equal(here.timeline.pts, there.timeline.pts)
        assert np.array_equal(here.timeline.keyframes, there.timeline.keyframes)
        assert (here.timeline.end, here.claimed_frames) == (there.timeline.end, there.claimed_frames)
        frames = [read_clip(request(uri, 5)).views[0].pixels for uri in (str(path), server.uri(path.name))]
        assert np.array_equal(*frames), path.name


def test_containers_without_an_index_of_times_are_fetched_once(server: RangeServer, store_folder: Path) -> None:
    size = (store_folder / "large.mkv").stat().st_size
    here, there = read_clip(request(str(store_folder / "large.mkv"))), read_clip(request(server.uri("large.mkv")))
    assert np.array_equal(here.views[0].pixels, there.views[0].pixels)
    assert size < server.sent < size + 2 * remote.BLOCK_BYTES + 10


@pytest.mark.parametrize("backend", ["opencv", "decord"])
def test_readers_that_need_a_path_get_one(server: RangeServer, counting: dict[str, Path], backend: str) -> None:
    name = counting["h264-short-gop"].name
    there = read_clip(ClipRequest(uri=server.uri(name), sampling=UniformSampling(num_frames=5), size=SIZE, backend=backend))  # type: ignore[arg-type]
    assert there.views[0].index == (7, 21, 35, 49, 63)
    assert there.views[0].backend == backend


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("404", VideoNotFoundError, "404"),
        ("410", VideoNotFoundError, "410"),
        ("401", VideoPermissionError, "401"),
        ("403", VideoPermissionError, "403"),
        ("418", NetworkError, "418"),
    ],
)
def test_what_a_server_refuses_has_its_class(server: RangeServer, fault: str, error: type[VideoError], words: str) -> None:
    uri = server.uri(LARGE[0], fault)
    with pytest.raises(error, match=words) as caught:
        read_clip(request(uri))
    assert uri in str(caught.value)
    assert server.requests.total() == 1  # nothing to be gained from asking again


@pytest.mark.parametrize("name", ["empty.mp4", "text.mp4"])
def test_what_is_no_video_there_is_none_here(server: RangeServer, name: str) -> None:
    with pytest.raises(NotAVideoError, match=name):
        read_clip(request(server.uri(name)))


@pytest.mark.parametrize("fault", ["flaky", "busy", "moved", "whole", "anonymous"])
def test_faults_that_pass_are_overcome(server: RangeServer, store_folder: Path, fault: str) -> None:
    name = "h264-short-gop.mp4"
    clip = read_clip(request(server.uri(name, fault), 5))
    assert clip.views[0].index == (7, 21, 35, 49, 63)
    if fault == "anonymous":  # the store does not vouch for anything
        assert clip.digest == digest(str(store_folder / name))
    else:
        assert clip.digest.startswith("remote:")


def test_a_file_that_changes_while_it_is_read_is_given_up(server: RangeServer) -> None:
    with pytest.raises(NetworkError, match="replaced"):
        read_clip(request(server.uri(LARGE[0], "changing")))


def test_a_server_that_says_nothing_is_left(server: RangeServer) -> None:
    with pytest.raises(NetworkError, match="timed out"):
        HttpStore(server.uri(LARGE[0], "silent"), timeout_s=0.1)
    assert server.requests.total() == 4


def test_nobody_there() -> None:
    with pytest.raises(NetworkError, match="refused"):
        read_clip(request("http://127.0.0.1:9/a.mp4"))


def test_a_failure_in_the_middle_does_not_haunt_the_next_video(store_folder: Path) -> None:
    with serve(store_folder) as server:
        source = scan(server.uri(LARGE[0]))
    with pytest.raises(NetworkError):
        read_frames(source, [20.0])
    assert read_clip(request(str(store_folder / "h264-short-gop.mp4"), 5)).views[0].index == (7, 21, 35, 49, 63)


def test_temporary_files_go_with_the_clip(server: RangeServer) -> None:
    read_clip(request(server.uri("mpeg4-avi.avi"), 5))  # the connection is kept
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(5):
        read_clip(request(server.uri("mpeg4-avi.avi"), 5))
    gc.collect()
    assert len(list(Path("/dev/fd").iterdir())) <= before


def test_digests_tell_one_content_from_another(server: RangeServer, store_folder: Path) -> None:
    uri = server.uri("h264-short-gop.mp4")
    assert content_digest(uri) == content_digest(uri) == read_clip(request(uri, 1)).digest
    assert content_digest(uri) != content_digest(server.uri("h264-ts.ts"))
    assert content_digest(str(store_folder / "h264-ts.ts")) == digest(str(store_folder / "h264-ts.ts"))
    sent = server.sent
    content_digest(server.uri(LARGE[0]))
    assert server.sent - sent == 1


def test_workers_read_remote_videos_and_go_on_after_failures(server: RangeServer) -> None:
    uris = [server.uri("h264-short-gop.mp4"), server.uri("none.mp4", "404"), server.uri(LARGE[0]), server.uri("x", "403")]
    with DecodePool(1, DecodeLimits(timeout_s=60, memory_mb=512)) as pool:
        outcomes = dict(pool.map((uri, request(uri, 4)) for uri in uris))
    assert [getattr(outcomes[uri], "failure", "frames") for uri in uris] == ["frames", "not_found", "frames", "permission"]
