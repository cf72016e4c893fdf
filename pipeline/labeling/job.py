"""A labelling job: every row of the input becomes exactly one row of labels or failures, whatever is killed when."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.config import DecodeConfig, usable_cores
from reelscribe.pipeline.labeling.local import Clock, label_locally
from reelscribe.pipeline.labeling.record import Counts, Engine, JobRecord, Machine, Session, new_job_id
from reelscribe.pipeline.labeling.schema import SCHEMA_VERSION
from reelscribe.pipeline.labeling.stages import DecodeStage, Labelled, Outcome, PredictStage
from reelscribe.pipeline.labeling.store import Plan, Shard, ShardMark, ShardStore, open_store
from reelscribe.pipeline.sampling import Windows

SHARD_SIZE = 128  # rows committed together: what a killed job does again at most, for each shard it had open
WINDOWED_SHARD_SIZE = 8  # of videos that may be hours long


class ModelIdentity(Protocol):
    """Where a model comes from; ``tracking.registry.ResolvedModel`` is one. None where it was taken from a folder."""

    @property
    def name(self) -> str | None:
        """Registered name."""

    @property
    def version(self) -> str | None:
        """Registered version."""

    @property
    def alias(self) -> str | None:
        """Alias it was asked for by."""

    @property
    def run_id(self) -> str | None:
        """Training run."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is. ``done`` counts labels and failures, those of earlier sessions too; ``total`` those to come, as far as known:
    how many windows a video has shows when it is opened."""

    done: int
    failed: int
    total: int
    seconds_left: float | None  # None until there is something to reckon from


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """What a job came to."""

    job_id: str
    out: Path
    engine: Engine
    total: int  # rows of the two tables
    labelled: int
    failed: int
    failed_by_class: dict[str, int]
    resumed: int  # rows that earlier sessions had committed
    seconds: float  # wall clock of this session
    first_outcome_s: float | None
    videos_per_s: float | None  # of this session, from opening the folder to the end; None where nothing was left to do
    bound_by: Literal["decoding", "inference"] | None


def run_job(
    *,
    bundle: ModelBundle,
    identity: ModelIdentity,
    videos: pa.Table,
    out: Path,
    engine: Engine = "local",
    decode: DecodeConfig | None = None,
    device: str = "auto",
    cluster_address: str = "",
    windows: Windows | None = None,
    shard_size: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> JobSummary:
    """Label ``videos`` (columns video_id, uri, start_s, end_s) into the folder ``out``; goes on where the same job stopped.

    With ``windows``, each window of a video has its own row.

    Files under ``out`` itself are no input, so it may lie inside the folder that is labelled.
    ``cluster_address`` is for the engine ``ray``: empty starts a cluster on this machine. A job that goes on keeps its first
    ``shard_size``. Raises ManifestError for ids that are there twice, OutputConflictError where ``out`` holds something else or
    is in use, ReelScribeError where it cannot be written; never anything for a bad video.
    """
    decode = decode or DecodeConfig()
    started = time.monotonic()
    session = Session(started=datetime.now(UTC), engine=engine, device=device, decode=decode, machine=_machine())
    with open_store(out) as store:
        shard_size = shard_size or (SHARD_SIZE if windows is None else WINDOWED_SHARD_SIZE)
        job = store.begin(_new_job(bundle, identity, decode, windows, shard_size))
        plan = store.plan(_outside(videos, out), job)
        marks = store.committed()
        pending = [shard for shard in plan.shards if shard.number not in marks]
        job = job.model_copy(update={"state": "running", "sessions": [*job.sessions, session], "counts": _counts(plan, marks.values())})
        work = _Work(store, job, plan, marks, started)
        if pending or job.finished is None:
            store.write_job(job)
            clock = Clock()
            if pending:
                with closing(_outcomes(bundle, session, windows, cluster_address, plan, pending, clock)) as outcomes:
                    work.consume(outcomes, on_progress)
            job = work.finish(clock if engine == "local" else None)
            store.write_job(job)
    return work.summary(job, out, time.monotonic() - started)


@dataclass(kw_only=True)
class _OpenShard:
    """Outcomes of a shard that is not complete yet."""

    missing: int  # outcomes to come, as far as known: one for each row that has not come, all windows of one that has
    outcomes: list[Outcome] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)  # positions

    def add(self, outcome: Outcome) -> int:
        """Take an outcome; returns how many more than one are now known to come of its row."""
        video = outcome.video
        more = 0 if video.position in self.seen else video.num_windows - 1
        self.seen.add(video.position)
        self.outcomes.append(outcome)
        self.missing += more - 1
        return more


class _Work:
    """Collects outcomes into shards and commits each as soon as it is complete."""

    def __init__(self, store: ShardStore, job: JobRecord, plan: Plan, marks: dict[int, ShardMark], started: float) -> None:
        self.store = store
        self.job = job
        self.plan = plan
        self.marks = marks
        self.started = started
        self.resumed = sum(mark.labelled + mark.failed for mark in marks.values())
        self.finished = 0
        self.total = job.counts.total
        self.failed = sum(mark.failed for mark in marks.values())
        self.first_outcome_s: float | None = None

    def consume(self, outcomes: Iterable[Outcome], on_progress: Callable[[Progress], None] | None) -> None:
        """Commit all outcomes. Open shards are held in memory: as many as the engine works on at the same time."""
        trace = self.job.trace()
        waiting: dict[int, _OpenShard] = {}
        for outcome in outcomes:
            shard = self.plan.shard_of(outcome.video.position)
            rows = waiting.setdefault(shard.number, _OpenShard(missing=shard.stop - shard.start))
            self.total += rows.add(outcome)
            if not rows.missing:
                self.marks[shard.number] = self.store.commit(shard, waiting.pop(shard.number).outcomes, trace)
            self._count(outcome)
            if on_progress is not None:
                on_progress(self._progress())
        if waiting:
            raise RuntimeError(f"the engine ended without the outcomes of {len(waiting)} shards")

    def finish(self, clock: Clock | None) -> JobRecord:
        """The record of the finished job."""
        seconds = time.monotonic() - self.started
        update: dict[str, Any] = {
            "ended": datetime.now(UTC),
            "videos": self.finished,
            "seconds": seconds,
            "first_outcome_s": self.first_outcome_s,
        }
        if self.finished:
            update["videos_per_s"] = self.finished / seconds
        if self.finished and clock is not None:
            update |= {"predict_s": clock.predict_s, "wait_s": clock.wait_s}
            update["bound_by"] = "decoding" if clock.wait_s > clock.predict_s else "inference"
        *earlier, session = self.job.sessions
        return self.job.model_copy(
            update={
                "state": "done",
                "finished": datetime.now(UTC),
                "counts": _counts(self.plan, self.marks.values()),
                "sessions": [*earlier, session.model_copy(update=update)],
            }
        )

    def _count(self, outcome: Outcome) -> None:
        if self.first_outcome_s is None:
            self.first_outcome_s = time.monotonic() - self.started
        self.finished += 1
        self.failed += not isinstance(outcome.result, Labelled)

    def _progress(self) -> Progress:
        done = self.resumed + self.finished
        working = time.monotonic() - self.started - (self.first_outcome_s or 0.0)
        left = (self.total - done) * working / (self.finished - 1) if self.finished > 1 else None
        return Progress(done=done, failed=self.failed, total=self.total, seconds_left=left)

    def summary(self, job: JobRecord, out: Path, seconds: float) -> JobSummary:
        """What to tell of the finished job."""
        session = job.sessions[-1]
        return JobSummary(
            job_id=job.job_id,
            out=out,
            engine=session.engine,
            total=job.counts.total,
            labelled=job.counts.labelled,
            failed=job.counts.failed,
            failed_by_class=job.counts.failed_by_class,
            resumed=self.resumed,
            seconds=seconds,
            first_outcome_s=self.first_outcome_s,
            videos_per_s=session.videos_per_s if self.finished else None,
            bound_by=session.bound_by if self.finished else None,
        )


def _outside(videos: pa.Table, out: Path) -> pa.Table:
    """The rows whose files do not lie in the output folder."""
    uris = videos["uri"]
    inside = [pc.starts_with(uris, pattern=f"{folder}{os.sep}") for folder in {str(out.absolute()), str(out.resolve())}]
    return videos.filter(pc.invert(functools.reduce(pc.or_, inside)))


def _outcomes(
    bundle: ModelBundle,
    session: Session,
    windows: Windows | None,
    cluster_address: str,
    plan: Plan,
    pending: Sequence[Shard],
    clock: Clock,
) -> Generator[Outcome]:
    """The outcomes of the pending shards, in any order, from the session's engine."""
    backend, limits, workers = session.decode.backend, session.decode.limits, session.decode.num_workers
    predict = PredictStage(bundle, device=session.device)
    if session.engine == "local":
        decode = DecodeStage(bundle, backend=backend, limits=limits, workers=workers, windows=windows)
        return label_locally(plan.videos(pending), decode, predict, clock)
    from reelscribe.pipeline.labeling.ray_launch import label_on_ray

    decode = DecodeStage(bundle, backend=backend, limits=limits, workers=1, windows=windows)
    return label_on_ray(
        plan.videos(pending), decode, predict, num_videos=sum(shard.stop - shard.start for shard in pending), address=cluster_address
    )


def _new_job(bundle: ModelBundle, identity: ModelIdentity, decode: DecodeConfig, windows: Windows | None, shard_size: int) -> JobRecord:
    """The record of a job that starts now."""
    spec = bundle.spec.model_dump(mode="json")
    model = {
        "model_name": identity.name or bundle.spec.name,
        "model_version": identity.version,
        "run_id": identity.run_id,
        "weights_digest": bundle.weights_digest,
    }
    return JobRecord(
        job_id=new_job_id(),
        state="running",
        created=datetime.now(UTC),
        fingerprint={
            "schema_version": SCHEMA_VERSION,
            **model,
            **{key: spec[key] for key in ("task", "labels", "model", "sampling", "transform", "temperature")},
            "windows": windows and windows.model_dump(mode="json"),
            "decode": {"backend": decode.backend},
        },
        model=model
        | {"model_alias": identity.alias}
        | {key: spec[key] for key in ("config_digest", "data_digest", "git_commit", "metrics")},
        shard_size=shard_size,
    )


def _counts(plan: Plan, marks: Iterable[ShardMark]) -> Counts:
    marks = list(marks)
    by_class: Counter[str] = Counter()
    for mark in marks:
        by_class.update(mark.failed_by_class)
    committed = {mark.shard for mark in marks}
    labelled = sum(mark.labelled for mark in marks)
    return Counts(
        total=labelled + by_class.total() + sum(shard.stop - shard.start for shard in plan.shards if shard.number not in committed),
        labelled=labelled,
        failed=by_class.total(),
        failed_by_class=dict(by_class.most_common()),
        labelled_video_s=sum(mark.labelled_video_s for mark in marks),
    )


def _machine() -> Machine:
    return Machine(host=platform.node(), platform=platform.platform(), python=platform.python_version(), cores=usable_cores())
