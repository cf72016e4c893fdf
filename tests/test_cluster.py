"""A cluster that is not there is said at once; what there is, other tests use."""

from __future__ import annotations

import socket

import pytest

from reelscribe.pipeline.cluster import cluster
from reelscribe.pipeline.errors import ServiceUnavailableError


@pytest.mark.parametrize("by_environment", [False, True])
def test_nobody_there(by_environment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # a port that is taken, and that nobody listens at
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        if by_environment:
            monkeypatch.setenv("RAY_ADDRESS", address)
        words = r"no Ray cluster answers at '[\w.:]+': .*refused; start one \(ray start --head\)"
        with pytest.raises(ServiceUnavailableError, match=words) as caught, cluster("auto" if by_environment else address):
            pass
    assert caught.value.exit_status == 2


def test_an_address_that_is_none() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"no Ray cluster answers at '127\.0\.0\.1:ray'"), cluster("127.0.0.1:ray"):
        pass
