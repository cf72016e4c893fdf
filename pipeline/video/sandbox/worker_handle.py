"""One decode worker as its supervisor sees it: start, ask, take the answer, kill, say why it died."""

from __future__ import annotations

import json
import math
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict

import numpy as np

from reelscribe.pipeline.errors import DecoderCrashError, DecoderMemoryError, VideoError
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox.wire import HEADER, Kind, receive_exactly
from reelscribe.pipeline.video.types import DecodeLimits, Frames

START_LIMIT_S = 120.0  # importing three libraries takes about a second; from a cold network disk much longer
_OUT_OF_MEMORY_WORDS = ("bad_alloc", "memoryerror", "cannot allocate", "out of memory", "failed to allocate", "insufficient memory")


class WorkerLostError(Exception):
    """The worker's end of the socket is closed."""


class WorkerHandle:
    """A fresh interpreter that reads clips, one at a time."""

    def __init__(self, *, limits: DecodeLimits, read: str) -> None:
        self.ready = False
        self.retiring = False  # it grew too much and exits by itself
        self.killed = False  # it is dead, and by SIGKILL
        self.deadline = time.monotonic() + START_LIMIT_S  # of the start, then of the clip being read; infinite in between
        self.socket, theirs = socket.socketpair()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - what native libraries print; read after a crash
        setup = {"fd": theirs.fileno(), "parent": os.getpid(), "limits": asdict(limits), "read": read}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from reelscribe.pipeline.video.sandbox.worker import main; main()", json.dumps(setup)],
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                process_group=0,  # Ctrl-C is for the parent alone
            )

    def send(self, request: ClipRequest, *, deadline: float) -> None:
        """Ask for a clip. A worker that has just died is noticed when its answer is awaited."""
        self.deadline = deadline
        self._words.truncate(0)
        message = pickle.dumps(request)
        try:
            self.socket.sendall(HEADER.pack(Kind.REQUEST, len(message), 0) + message)
        except (BrokenPipeError, ConnectionResetError):
            return

    def has_answered(self) -> bool:
        """Whether something waits to be received."""
        waiting = select.poll()  # and not select.select, which fails beyond 1024 open files
        waiting.register(self.socket, select.POLLIN)
        return bool(waiting.poll(0))

    def receive(self) -> Clip | VideoError | None:
        """The answer; None where the worker only says that it is ready. Raises WorkerLostError."""
        try:
            head, descriptors, _, _ = socket.recv_fds(self.socket, HEADER.size, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
            if head:
                head += receive_exactly(self.socket, HEADER.size - len(head))
        except (ConnectionError, EOFError):
            raise WorkerLostError from None
        if not head:
            raise WorkerLostError
        kind, meta_bytes, total_bytes = HEADER.unpack(head)
        if kind == Kind.READY:
            self.ready, self.deadline = True, math.inf
            return None
        self.deadline = math.inf
        self.retiring = kind == Kind.LAST_RESULT
        return _unpack(descriptors[0], meta_bytes, total_bytes)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; harmless where it is dead already."""
        self._process.kill()
        self._process.wait()
        self.socket.close()
        self._words.close()

    def cause_of_death(self, uri: str) -> VideoError:
        """What to tell of the clip that this worker was reading when it died."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it closed its socket and lives on
            self._process.kill()
            status = self._process.wait()
        words = self._last_words()
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        text = f"{uri}: the decoder process died {how}" + (f" ({words})" if words else "")
        if any(sign in words.lower() for sign in _OUT_OF_MEMORY_WORDS):
            return DecoderMemoryError(text)
        self.killed = status == -signal.SIGKILL
        if self.killed:
            return DecoderMemoryError(f"{text}; the system kills in this way what takes its last memory")
        return DecoderCrashError(text)

    def _last_words(self) -> str:
        self._words.seek(0)
        text = self._words.read().decode("utf-8", "replace")
        lines = [line.strip() for line in "".join(c if c.isprintable() or c == "\n" else " " for c in text).splitlines() if line.strip()]
        return "; ".join(lines[-3:])[-300:]


def _unpack(descriptor: int, meta_bytes: int, total_bytes: int) -> Clip | VideoError:
    """Take over the shared memory: first the pickled clip without its pixels, then the pixels of its views, one after another.

    The one copy here buys that a kept clip holds neither a file descriptor nor a memory map, of which a process has few.
    """
    memory = np.empty(total_bytes, dtype=np.uint8)
    done = 0
    try:
        while done < total_bytes:
            done += os.preadv(descriptor, [memory[done:].data], done)
    finally:
        os.close(descriptor)
    meta = pickle.loads(memory[:meta_bytes].data)  # noqa: S301 - from our own child, over a socket pair
    if not isinstance(meta, tuple):  # a failure, or what a reader of another kind gives
        return meta  # type: ignore[no-any-return]
    info, digest, facts = meta
    views, offset = [], meta_bytes
    for index, pts_seconds, backend, shape in facts:
        count = math.prod(shape)
        pixels = memory[offset : offset + count].reshape(shape)
        views.append(Frames(pixels=pixels, index=index, pts_seconds=pts_seconds, backend=backend))
        offset += count
    return Clip(views=tuple(views), info=info, digest=digest)
