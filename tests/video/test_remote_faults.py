"""Connections that are cut, fall silent or crawl, between us and a real web server and a real S3 server."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fault_proxy import FaultProxy, between
from range_server import serve
from reelscribe.pipeline.errors import DecodeTimeoutError, NetworkError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import ClipRequest, read_clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize


@dataclass
class Store:
    proxy: FaultProxy
    uri: Callable[[str], str]


@pytest.fixture(params=["http", "s3"])
def store(request: pytest.FixtureRequest, store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store behind a proxy."""
    if request.param == "http":
        with serve(store_folder) as server, between(server.address) as proxy:
            yield Store(proxy, lambda name: f"{proxy.address}/plain/{name}")
        return
    with between(request.getfixturevalue("s3")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        yield Store(proxy, lambda name: f"s3://videos/{name}")


def clip_of(uri: str) -> ClipRequest:
    return ClipRequest(uri=uri, sampling=UniformSampling(num_frames=8), size=FrameSize(height=48, width=64))


@pytest.mark.parametrize(
    ("name", "after_bytes"),
    [
        ("large.mp4", 5_000),  # in the first answers
        ("large.mp4", 100_000),  # among the ranges
        ("large.mkv", 3_000_000),  # while all of it is fetched
    ],
)
def test_a_connection_that_is_cut_is_tried_again(store: Store, store_folder: Path, name: str, after_bytes: int) -> None:
    store.proxy.cuts, store.proxy.after_bytes = 2, after_bytes
    there, here = read_clip(clip_of(store.uri(name))), read_clip(clip_of(str(store_folder / name)))
    assert store.proxy.faults == 2
    assert np.array_equal(there.views[0].pixels, here.views[0].pixels)
    assert (there.views[0].index, there.views[0].pts_seconds, there.info) == (here.views[0].index, here.views[0].pts_seconds, here.info)


def test_a_connection_that_is_always_cut_is_the_networks_failure(store: Store) -> None:
    store.proxy.cuts, store.proxy.after_bytes = math.inf, 5_000
    with pytest.raises(NetworkError, match=store.uri("large.mp4")) as caught:
        read_clip(clip_of(store.uri("large.mp4")))
    assert caught.value.retryable
    assert store.proxy.faults == 4


@pytest.mark.parametrize("fault", [{"bytes_per_s": 30_000}, {"stalls": math.inf, "after_bytes": 100_000}], ids=["slow", "silent"])
def test_what_crawls_or_falls_silent_is_bounded_by_the_limit(store: Store, fault: dict[str, float]) -> None:
    vars(store.proxy).update(fault)
    with DecodePool(1, DecodeLimits(timeout_s=1)) as pool:  # all of the file would take ten minutes
        ((_, outcome),) = pool.map([(0, clip_of(store.uri("large.mkv")))])
    assert isinstance(outcome, DecodeTimeoutError)
    assert outcome.retryable
