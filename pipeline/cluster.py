"""Joining a Ray cluster, or starting one on this machine, without its chatter."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from reelscribe.pipeline.errors import ServiceUnavailableError

LOCAL = "local"
_KILLED = (
    "reelscribe: killed in mid-work: this machine's part of the Ray cluster died, or somebody ended this process (kill -9, memory); "
    "what was written stays, and the same command goes on from there"
)
_ANSWER_S = 5.0  # for a cluster to take a connection; Ray itself tries for more than five minutes


def cluster_address(address: str) -> str:
    """The cluster that an address means, see `cluster`."""
    return address or os.environ.get("RAY_ADDRESS") or LOCAL


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """A connection to the cluster at ``address``; ``local`` starts one bound to the loopback and stops it at the end.

    Empty takes the cluster that ``RAY_ADDRESS`` names, as Ray does for a job that runs on it, else it is ``local``.
    A connection that is already open is used and left open. Raises ServiceUnavailableError where no cluster answers.
    """
    address = cluster_address(address)
    local = address == LOCAL
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # workers without a GPU still see those there are; said here, Ray does not warn
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ side writes to stderr, past every logger
    if local:  # without it Ray swaps the loopback for the machine's outer address; it is read when Ray is imported
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        if not local:
            _require_answer(address)
        import ray

        begun = ray.is_initialized()
        facts = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"} if local else {"address": address}
        if not begun:
            with _without_stderr():
                ray.init(**facts, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # one that does not start within Ray's 30 seconds is a bare Exception
        if local:
            raise ServiceUnavailableError(
                f"Ray does not start on this machine: {error} Try again when it is less busy, or without Ray"
            ) from error
        if not isinstance(error, OSError | RuntimeError | ValueError):
            raise
        raise ServiceUnavailableError(
            f"no Ray cluster answers at '{address}': {error}; start one (ray start --head), or leave cluster.address empty"
        ) from error
    if begun:
        yield
        return
    with _last_words():
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _last_words() -> Iterator[None]:
    """Where the node that this process belongs to dies, Ray ends the process from its C++ side, and no Python is asked any more.

    So a shell waits at the other end of a pipe, and speaks when that closes without a word.
    """
    command = ["sh", "-c", 'read -r ended || printf "%s\\n" "$0" >&2', _KILLED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as shell:  # not to be ended by Ctrl-C
        try:
            yield
        finally:
            shell.communicate(b"ended\n")


def quiet_data() -> None:
    """Who uses Ray Data tells of the progress itself, and its errors are raised."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _require_answer(address: str) -> None:
    """Raises OSError or ValueError unless something takes connections at ``HOST:PORT``; Ray looks ``auto`` up by itself."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    if ":" in address:
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's C++ side writes a line to the file itself as it starts, at whatever level; what goes wrong is raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - a device
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
