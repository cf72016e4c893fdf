"""Decoding in worker processes that are killed from outside: a hang, a crash or a greedy file costs one failure and one worker.

The workers are fresh interpreters (no fork of a process with threads, no import of the caller's ``__main__``) that never import torch.
One thread of the caller's process, the supervisor, feeds them, takes their results and keeps their time; frames come back in anonymous
shared memory that is passed as a file descriptor, so nothing is pickled and nothing has a name that could be left behind. A worker dies
with the caller's process: by the end of its socket, and on Linux by a signal from the kernel (prctl PR_SET_PDEATHSIG) even while it spins
inside native code.
"""

from __future__ import annotations

import math
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from reelscribe.pipeline.errors import DecodeTimeoutError, ReelScribeError, VideoError
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox.worker_handle import START_LIMIT_S, WorkerHandle, WorkerLostError
from reelscribe.pipeline.video.types import DecodeLimits

K = TypeVar("K", bound=Hashable)

IN_FLIGHT_PER_WORKER = 4  # clips asked for, being read or waiting to be taken
_FAILED_STARTS = 3  # workers that die before they are ready, one after another, until the pool gives up


@dataclass(eq=False)
class _Job:
    request: ClipRequest
    key: Hashable
    results: queue.SimpleQueue[tuple[Hashable, Clip | VideoError] | BaseException]
    again: bool = False  # its worker was killed by somebody else, and it was given to another one


class DecodePool:
    """``workers`` decoding processes. Use it in a ``with`` block; several ``map`` calls may share it.

    ``read`` names the function that the workers call, as ``module:function`` with the parameters of ``clip.read_clip``; what it returns
    is what ``map`` yields.
    """

    def __init__(self, workers: int, limits: DecodeLimits | None = None, *, read: str = "reelscribe.pipeline.video.clip:read_clip") -> None:
        if workers < 1:
            raise ValueError(f"{workers} decode workers: at least one is needed")
        self._size = workers
        self._limits = limits or DecodeLimits()
        self._read = read
        self._waiting: deque[_Job] = deque()
        self._lock = threading.Lock()  # over _waiting
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="decode-supervisor", daemon=True)
        self._workers: dict[WorkerHandle, _Job | None] = {}  # only the supervisor touches these
        self._failed_starts = 0
        self._broken: BaseException | None = None

    def __enter__(self) -> DecodePool:
        self._wake_in, self._wake_out = socket.socketpair()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        self._wake()
        self._thread.join()
        self._wake_in.close()
        self._wake_out.close()

    def map(self, requests: Iterable[tuple[K, ClipRequest]]) -> Iterator[tuple[K, Clip | VideoError]]:
        """Read clips; yield (key, clip or failure) in the order in which they are done.

        ``requests`` is drawn in the calling thread, at most IN_FLIGHT_PER_WORKER clips a worker ahead. A video that cannot be used
        never raises. Raises ReelScribeError when workers cannot be started at all.
        """
        if self._broken is not None:
            raise self._broken
        if not self._thread.is_alive():
            raise RuntimeError("a DecodePool works inside its 'with' block")
        results: queue.SimpleQueue[tuple[K, Clip | VideoError] | BaseException] = queue.SimpleQueue()
        source, in_flight, more = iter(requests), 0, True
        try:
            while True:
                while more and in_flight < IN_FLIGHT_PER_WORKER * self._size:
                    try:
                        key, request = next(source)
                    except StopIteration:
                        more = False
                        break
                    self._submit(_Job(request, key, results))  # type: ignore[arg-type]
                    in_flight += 1
                if not in_flight:
                    return
                outcome = results.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                in_flight -= 1
                yield outcome
        finally:
            with self._lock:  # jobs that nobody waits for any more; a clip being read is finished and dropped
                self._waiting = deque(job for job in self._waiting if job.results is not results)

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._broken is not None:
                raise self._broken
            self._waiting.append(job)
        self._wake()

    def _wake(self) -> None:
        self._wake_in.send(b"w")

    # -- the supervisor's thread ------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._wake_out, selectors.EVENT_READ)
        try:
            while not self._closing.is_set():
                self._hire(selector)
                self._dispatch()
                for ready, _ in selector.select(self._patience_s()):
                    if ready.data is None:
                        self._wake_out.recv(4096)
                    else:
                        self._receive(ready.data, selector)
                self._kill_late(selector)
        except BaseException as error:  # whatever it is, the consumers must hear of it and not wait for ever
            self._break(error)
            if not isinstance(error, ReelScribeError):
                raise
        finally:
            for worker in list(self._workers):
                self._dismiss(worker, selector)
            selector.close()

    def _hire(self, selector: selectors.BaseSelector) -> None:
        """Start workers while there are more jobs than hands."""
        free = sum(1 for job in self._workers.values() if job is None)
        while len(self._workers) < self._size and len(self._waiting) > free:
            worker = WorkerHandle(limits=self._limits, read=self._read)
            self._workers[worker] = None
            selector.register(worker.socket, selectors.EVENT_READ, worker)
            free += 1

    def _dispatch(self) -> None:
        for worker, job in list(self._workers.items()):
            if job is not None or not worker.ready:
                continue
            with self._lock:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            self._workers[worker] = job
            worker.send(job.request, deadline=time.monotonic() + self._limits.timeout_s)

    def _receive(self, worker: WorkerHandle, selector: selectors.BaseSelector) -> None:
        """Take what a worker says: ready, a result, or its end."""
        job = self._workers[worker]
        try:
            outcome = worker.receive()
        except WorkerLostError:
            self._lose(worker, job, selector)
            return
        self._failed_starts = 0
        if outcome is None:  # it has started
            return
        self._workers[worker] = None
        if job is not None:
            job.results.put((job.key, outcome))
        if worker.retiring:
            self._dismiss(worker, selector)

    def _lose(self, worker: WorkerHandle, job: _Job | None, selector: selectors.BaseSelector) -> None:
        """A worker died by itself: a failure for its clip, none for the others.

        One that was killed from outside says little of its clip: the system, short of memory, picks whom it likes. The clip is
        tried once more.
        """
        started = worker.ready
        failure = worker.cause_of_death(job.request.uri if job else "")
        self._dismiss(worker, selector)
        if job is not None and worker.killed and not job.again:
            job.again = True
            with self._lock:
                self._waiting.appendleft(job)
        elif job is not None:
            job.results.put((job.key, failure))
        elif not started:
            self._count_failed_start(str(failure))

    def _count_failed_start(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= _FAILED_STARTS:
            raise ReelScribeError(f"decode workers do not start: {reason}")

    def _kill_late(self, selector: selectors.BaseSelector) -> None:
        """SIGKILL every worker whose clip, or whose start, is past its time, unless its answer has just come in."""
        now = time.monotonic()
        for worker, job in list(self._workers.items()):
            if now < worker.deadline or worker.has_answered():
                continue
            self._dismiss(worker, selector)
            if job is None:
                self._count_failed_start(f"not ready within {START_LIMIT_S:g} s")
                continue
            limit = self._limits.timeout_s
            job.results.put((job.key, DecodeTimeoutError(f"{job.request.uri}: not read within {limit:g} s; the decoder was killed")))

    def _patience_s(self) -> float | None:
        """Seconds until the next deadline; None where nothing is awaited."""
        next_deadline = min((worker.deadline for worker in self._workers), default=math.inf)
        return None if next_deadline == math.inf else max(0.0, next_deadline - time.monotonic())

    def _dismiss(self, worker: WorkerHandle, selector: selectors.BaseSelector) -> None:
        selector.unregister(worker.socket)
        del self._workers[worker]
        worker.kill()

    def _break(self, error: BaseException) -> None:
        """Pass an error of the supervisor to everybody who waits."""
        with self._lock:
            self._broken = error
            waiting = [*self._waiting, *(job for job in self._workers.values() if job is not None)]
            self._waiting.clear()
        for results in {id(job.results): job.results for job in waiting}.values():
            results.put(error)
