"""The program of a decode worker: read a clip, hand its frames over, wait for the next. Never imports torch."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import numpy as np

from reelscribe.pipeline.errors import DecoderCrashError, DecoderMemoryError, VideoError
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.readers.chain import CHAIN, is_installed, load_reader
from reelscribe.pipeline.video.sandbox.wire import HEADER, Kind, receive_exactly
from reelscribe.pipeline.video.types import DecodeLimits

ReadClip = Callable[[ClipRequest, DecodeLimits], Clip]
_MIB = 1 << 20
_PR_SET_PDEATHSIG = 1
_ADDRESS_SPACE, _RESIDENT = 0, 1  # columns of /proc/self/statm


def main() -> None:
    """Entry point: the only argument is JSON with the socket's descriptor, the parent's process id, the limits and the reader."""
    setup = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(setup["parent"])
    for name in CHAIN[:2]:  # load them now: the memory limit counts from here; decord's library is kept out until it is asked for
        if is_installed(name):
            load_reader(name)
    module, _, function = setup["read"].partition(":")
    read: ReadClip = getattr(import_module(module), function)
    with socket.socket(fileno=setup["fd"]) as connection:
        connection.sendall(HEADER.pack(Kind.READY, 0, 0))
        with suppress(EOFError, ConnectionError):  # the parent has gone
            _serve(connection, read, DecodeLimits(**setup["limits"]))


def _serve(connection: socket.socket, read: ReadClip, limits: DecodeLimits) -> None:
    start_bytes = _memory_bytes(_RESIDENT)
    while True:
        _, length, _ = HEADER.unpack(receive_exactly(connection, HEADER.size))
        request: ClipRequest = pickle.loads(receive_exactly(connection, length))  # noqa: S301 - from our parent, over a socket pair
        start_bytes += _load_what_is_asked_for(request)
        outcome = _read_within(request, read, limits)
        grown = _has_grown(beyond=start_bytes + limits.memory_mb * _MIB // 4)
        _answer(connection, outcome, Kind.LAST_RESULT if grown else Kind.RESULT)
        if grown:
            return


def _load_what_is_asked_for(request: ClipRequest) -> int:
    """Load a library before the limit of memory is set; returns the bytes that it takes. torchcodec maps gigabytes of torch."""
    before = _memory_bytes(_RESIDENT)
    if request.backend != "auto":
        with suppress(VideoError):  # said when the video is read
            load_reader(request.backend)
    return _memory_bytes(_RESIDENT) - before


def _read_within(request: ClipRequest, read: ReadClip, limits: DecodeLimits) -> Clip | VideoError:
    """The clip, or its failure; the address space may grow by ``memory_mb`` meanwhile."""
    _limit_address_space(_memory_bytes(_ADDRESS_SPACE) + limits.memory_mb * _MIB)
    try:
        return read(request, limits)
    except VideoError as error:
        return error.with_traceback(None)
    except MemoryError:
        return DecoderMemoryError(f"{request.uri}: decoding needs more than {limits.memory_mb} MiB")
    except Exception as error:  # a defect of a reader is a failure of this video, with its name, and not of the job
        return DecoderCrashError(f"{request.uri}: the reader failed with {type(error).__name__}: {error}")
    finally:
        _limit_address_space(resource.RLIM_INFINITY)


def _answer(connection: socket.socket, outcome: Clip | VideoError, kind: Kind) -> None:
    """Write the outcome to anonymous memory and pass its descriptor. Only the frames of a Clip go there unpickled."""
    views = outcome.views if isinstance(outcome, Clip) else ()
    pixels = [np.ascontiguousarray(view.pixels) for view in views]
    meta = pickle.dumps(
        (outcome.info, outcome.digest, [(v.index, v.pts_seconds, v.backend, v.pixels.shape) for v in views])
        if isinstance(outcome, Clip)
        else outcome
    )
    total = len(meta) + sum(part.nbytes for part in pixels)
    descriptor = _anonymous_memory()
    parts = [memoryview(meta), *(array.reshape(-1).data for array in pixels)]
    for part in parts:
        written = 0
        while written < len(part):
            written += os.write(descriptor, part[written:])
    socket.send_fds(connection, [HEADER.pack(kind, len(meta), total)], [descriptor])
    os.close(descriptor)


def _anonymous_memory() -> int:
    """A descriptor of memory without a name: memfd on Linux, an unlinked file elsewhere."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("reelscribe-clip")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _has_grown(*, beyond: int) -> bool:
    """Whether more memory is in use than that, after what is only kept for reuse went back to the system."""
    if _memory_bytes(_RESIDENT) <= beyond:
        return False
    with suppress(AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)
    return _memory_bytes(_RESIDENT) > beyond


def _memory_bytes(column: int) -> int:
    """One number of /proc/self/statm; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text().split()[column]) * resource.getpagesize()


def _limit_address_space(size: int) -> None:
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process with its parent, even while it spins in native code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request
        os._exit(0)
