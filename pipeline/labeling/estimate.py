"""What a job will take, from a small sample of it that is really decoded and labelled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.labeling.job import JobOptions, stages_of
from reelscribe.pipeline.labeling.local import BoundBy, Clock, memory_mb, run_stages
from reelscribe.pipeline.labeling.stages import DecodeStage, Labelled, Outcome, PredictStage, Video
from reelscribe.pipeline.labeling.work import length_s
from reelscribe.pipeline.listing import list_input
from reelscribe.pipeline.tracking.registry import fetch_model

SAMPLE_SIZE = 24  # videos, evenly from the input
_WARM_UP = 2  # that are not timed: they wait for processes to start and libraries to load
_MOST_S = 60.0  # seconds of timed work: windows of videos that are hours long would take hours themselves


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
    memory_limit_mb: int  # were each worker to take as much as it may before it is stopped
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
        warm = list(_warmed_up(sample[:_WARM_UP], decode, predict))
        ready, clock = time.monotonic(), Clock()
        timed = list(_in_time(sample[_WARM_UP:] or sample, decode, predict, clock))
        seconds, taken_mb = time.monotonic() - ready, memory_mb()
    finally:
        decode.teardown()
    outcomes = {o.video.position: o for o in sorted([*warm, *timed], key=lambda o: isinstance(o.result, Labelled))}  # a label, if any
    asked = {video.position: video for video in sample}
    lengths = [length_s(asked[position], o.result) for position, o in outcomes.items() if isinstance(o.result, Labelled)]
    windows = {o.video.position: o.video.num_windows for o in timed}
    rows_per_video = sum(windows.values()) / max(1, len(windows))
    startup_s, rest_s = ready - started, seconds / max(1, len(timed)) * rows_per_video * table.num_rows
    return Estimate(
        videos=table.num_rows,
        sampled=len(outcomes),
        sampled_failed=len(outcomes) - len(lengths),
        video_s=sum(lengths) / max(1, len(lengths)) * table.num_rows,
        seconds=startup_s + rest_s,
        startup_s=startup_s,
        memory_mb=taken_mb,
        memory_limit_mb=taken_mb + decode.workers * options.decode.memory_mb,
        bound_by=clock.bound_by,
        with_a_second_machine_s=startup_s + rest_s / 2,
    )


def _warmed_up(videos: list[Video], decode: DecodeStage, predict: PredictStage) -> Iterator[Outcome]:
    """Whole videos, however long: one clip of each."""
    windows, decode.windows = decode.windows, None
    try:
        yield from run_stages(videos, decode, predict, Clock())
    finally:
        decode.windows = windows


def _in_time(videos: list[Video], decode: DecodeStage, predict: PredictStage, clock: Clock) -> Iterator[Outcome]:
    """The outcomes of about a minute, in order of completion."""
    end = time.monotonic() + _MOST_S
    with closing(run_stages(videos, decode, predict, clock)) as outcomes:
        for outcome in outcomes:
            yield outcome
            if time.monotonic() > end:
                return


def _sample(table: pa.Table) -> Iterator[Video]:
    """Rows in even steps through the input, as the first rows may all be of one kind."""
    count = min(SAMPLE_SIZE, table.num_rows)
    places = [i * table.num_rows // count for i in range(count)]
    rows = table.select(["video_id", "uri", "start_s", "end_s"]).take(places).to_pylist()
    return (Video(position=place, **row) for place, row in zip(places, rows, strict=True))
