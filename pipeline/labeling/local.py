"""The local engine: decode processes feed the network in this process, both at work at the same time."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from reelscribe.pipeline.labeling.stages import DecodeStage, Outcome, PredictStage, Video

BoundBy = Literal["decoding", "inference"]
BATCH_SIZE = 8  # decoded clips, of any videos, handed to the predictor together


@dataclass
class Clock:
    """Where a session's time went, in seconds; the engine adds to it as it goes."""

    predict_s: float = 0.0
    wait_s: float = 0.0
    memory_mb: int | None = None  # at the end; None on Ray

    @property
    def bound_by(self) -> BoundBy:
        """What kept the session from being faster."""
        return "decoding" if self.wait_s > self.predict_s else "inference"


def memory_mb() -> int:
    """What this process and the decode workers that it has now have taken at their largest; without the workers where there is no /proc."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)  # bytes there
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread or a worker that has just ended
            for child in children.read_text().split():
                # Not RUSAGE_CHILDREN: Linux counts there what the parent had when it started the child.
                found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{child}/status").read_text())
                kib += int(found[1]) if found else 0
    return kib * 1024 // 10**6


def label_locally(videos: Iterable[Video], decode: DecodeStage, predict: PredictStage, clock: Clock) -> Generator[Outcome]:
    """One outcome per video, in order of completion.

    The decode processes run ahead by a bounded number of clips while the network works, so a batch is either there already or
    decoding is what the job waits for.
    """
    predict.setup()
    decode.setup()
    try:
        yield from run_stages(videos, decode, predict, clock)
        clock.memory_mb = memory_mb()
    finally:
        decode.teardown()


def run_stages(videos: Iterable[Video], decode: DecodeStage, predict: PredictStage, clock: Clock) -> Generator[Outcome]:
    """``label_locally`` with stages that are set up."""
    decoded = decode(videos)
    while True:
        asked = time.monotonic()
        batch = list(islice(decoded, BATCH_SIZE))
        got = time.monotonic()
        clock.wait_s += got - asked
        if not batch:
            return
        outcomes = predict(batch)
        clock.predict_s += time.monotonic() - got
        yield from outcomes
