"""The local engine: decode processes feed the network in this process, both at work at the same time."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from reelscribe.pipeline.labeling.stages import DecodeStage, Outcome, PredictStage, Video

BoundBy = Literal["decoding", "inference"]
BATCH_SIZE = 8  # decoded clips, of any videos, handed to the predictor together


@dataclass
class Clock:
    """Where a session's time went, in seconds; the engine adds to it as it goes."""

    predict_s: float = 0.0
    wait_s: float = 0.0

    @property
    def bound_by(self) -> BoundBy:
        """What kept the session from being faster."""
        return "decoding" if self.wait_s > self.predict_s else "inference"


def memory_mb(workers: int) -> int:
    """What this process and so many decode workers have taken at their largest; of workers, those that have ended count."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    own, worker = (resource.getrusage(who).ru_maxrss * unit // 10**6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own + workers * worker


def label_locally(videos: Iterable[Video], decode: DecodeStage, predict: PredictStage, clock: Clock) -> Generator[Outcome]:
    """One outcome per video, in order of completion.

    The decode processes run ahead by a bounded number of clips while the network works, so a batch is either there already or
    decoding is what the job waits for.
    """
    predict.setup()
    decode.setup()
    try:
        yield from run_stages(videos, decode, predict, clock)
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
