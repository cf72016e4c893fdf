"""What a job will take, from a small sample of it that is really decoded and labelled."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.labeling.job import JobOptions, stages_of
from reelscribe.pipeline.labeling.local import BoundBy, Clock, run_stages
from reelscribe.pipeline.labeling.stages import Labelled, Video
from reelscribe.pipeline.listing import list_input
from reelscribe.pipeline.tracking.registry import fetch_model

SAMPLE_SIZE = 24  # videos, evenly from the input
_WARM_UP = 2  # that are not timed: they wait for processes to start and libraries to load


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the sample says of the whole job, on this machine, with nothing else running."""

    videos: int  # rows of the input
    sampled: int
    sampled_failed: int
    video_s: float  # length of all videos together; of failures nothing is known
    seconds: float  # from start to end
    startup_s: float  # part of it, until the first label
    memory_mb: int  # this process and its decode workers, at their largest
    bound_by: BoundBy
    with_a_second_machine_s: float  # as --engine ray would share it out, with a machine like this one


def estimate_job(model: str, videos: str, *, options: JobOptions, tracking: str) -> Estimate:
    """Fetch the model, list the input, label a sample of it; nothing is written."""
    table = list_input(videos)
    return estimate(load_bundle(fetch_model(model, uri=tracking).folder), table, options)


def estimate(bundle: ModelBundle, table: pa.Table, options: JobOptions) -> Estimate:
    """See ``estimate_job``."""
    started = time.monotonic()
    sample = list(_sample(table))
    decode, predict = stages_of(bundle, options)
    predict.setup()
    decode.setup()
    try:
        outcomes = list(run_stages(sample[:_WARM_UP], decode, predict, Clock()))
        ready, clock = time.monotonic(), Clock()
        outcomes += run_stages(sample[_WARM_UP:], decode, predict, clock)
        seconds = time.monotonic() - ready
    finally:
        decode.teardown()
    timed = max(1, len(sample) - _WARM_UP)
    startup_s, rest_s = ready - started, seconds / timed * table.num_rows
    lengths = {o.video.position: o.result.duration_s for o in outcomes if isinstance(o.result, Labelled)}
    return Estimate(
        videos=table.num_rows,
        sampled=len(sample),
        sampled_failed=len({o.video.position for o in outcomes} - lengths.keys()),
        video_s=sum(lengths.values()) / max(1, len(lengths)) * table.num_rows,
        seconds=startup_s + rest_s,
        startup_s=startup_s,
        memory_mb=_peak_mb(resource.RUSAGE_SELF) + decode.workers * _peak_mb(resource.RUSAGE_CHILDREN),
        bound_by=clock.bound_by,
        with_a_second_machine_s=startup_s + rest_s / 2,
    )


def _sample(table: pa.Table) -> Iterator[Video]:
    """Rows in even steps through the input, as the first rows may all be of one kind."""
    count = min(SAMPLE_SIZE, table.num_rows)
    places = [i * table.num_rows // count for i in range(count)]
    rows = table.select(["video_id", "uri", "start_s", "end_s"]).take(places).to_pylist()
    return (Video(position=place, **row) for place, row in zip(places, rows, strict=True))


def _peak_mb(who: int) -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(who).ru_maxrss * unit // 10**6
