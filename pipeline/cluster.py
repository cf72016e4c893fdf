"""Joining a Ray cluster, or starting one on this machine, without its chatter."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from reelscribe.pipeline.errors import ServiceUnavailableError


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """A connection to the cluster at ``address``; empty or ``local`` starts one bound to the loopback and stops it at the end.

    A connection that is already open is used and left open. Raises ServiceUnavailableError where no cluster answers.
    """
    local = address in ("", "local")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # workers without a GPU still see those there are; said here, Ray does not warn
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ side writes to stderr, past every logger
    if local:  # without it Ray swaps the loopback for the machine's outer address; it is read when Ray is imported
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        if local:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ServiceUnavailableError(
            f"no Ray cluster answers at '{address}': {error}; start one (ray start --head), or leave cluster.address empty"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
