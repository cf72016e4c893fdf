"""One session of a job: outcomes become committed shards, and what there is to say of them on the way and at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from reelscribe.pipeline.labeling.local import BoundBy, Clock
from reelscribe.pipeline.labeling.record import Counts, Engine, JobRecord
from reelscribe.pipeline.labeling.stages import Labelled, Outcome, Video
from reelscribe.pipeline.labeling.store import Plan, Redo, ShardMark, ShardStore


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is. ``done`` counts labels and failures, those of earlier sessions too; ``total`` those to come, as far as known:
    how many windows a video has shows when it is opened."""

    done: int
    failed: int
    total: int
    seconds_left: float | None  # None until there is something to reckon from
    rows_per_s: float | None = None  # of this session, labels and failures
    video_s_per_s: float | None = None  # of this session: seconds of video labelled in a second; hours in an hour


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """What a job came to."""

    job_id: str
    out: str
    engine: Engine
    total: int  # rows of the two tables
    labelled: int
    failed: int
    failed_by_class: dict[str, int]
    resumed: int  # rows that earlier sessions had committed
    seconds: float  # wall clock of this session
    first_outcome_s: float | None
    video_s: float  # length of what this session labelled
    videos_per_s: float | None  # of this session, from opening the folder to the end; None where nothing was left to do
    bound_by: BoundBy | None


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


class Work:
    """Collects outcomes into shards and commits each as soon as it is complete."""

    def __init__(self, store: ShardStore, job: JobRecord, plan: Plan, marks: dict[int, ShardMark], redo: Redo) -> None:
        self.store = store
        self.job = job
        self.plan = plan
        self.marks = marks
        self.redo = redo
        self.started = time.monotonic()
        self.resumed = sum(mark.labelled + mark.failed for mark in marks.values()) - redo.rows
        self.failed = sum(mark.failed for mark in marks.values()) - redo.failed
        self.total = job.counts.total - redo.rows + redo.num_videos
        self.finished = 0
        self.video_s = 0.0
        self.first_outcome_s: float | None = None

    def consume(self, outcomes: Iterable[Outcome], on_progress: Callable[[Progress], None] | None) -> None:
        """Commit all outcomes. Open shards are held in memory: as many as the engine works on at the same time."""
        trace = self.job.trace()
        waiting: dict[int, _OpenShard] = {}
        for outcome in outcomes:
            shard = self.plan.shard_of(outcome.video.position)
            num_videos = len(self.redo.positions.get(shard.number, ())) or shard.stop - shard.start
            rows = waiting.setdefault(shard.number, _OpenShard(missing=num_videos))
            self.total += rows.add(outcome)
            if not rows.missing:
                self.marks[shard.number] = self.store.commit(self.plan, shard, waiting.pop(shard.number).outcomes, trace)
            self._count(outcome)
            if on_progress is not None:
                on_progress(self._progress())
        if waiting:
            raise RuntimeError(f"the engine ended without the outcomes of {len(waiting)} shards")

    def finish(self, clock: Clock) -> JobRecord:
        """The record of the finished job."""
        seconds = time.monotonic() - self.started
        update: dict[str, Any] = {
            "ended": datetime.now(UTC),
            "videos": self.finished,
            "seconds": seconds,
            "first_outcome_s": self.first_outcome_s,
            "video_s": self.video_s,
        }
        if self.finished:
            update |= {"videos_per_s": self.finished / seconds, "predict_s": clock.predict_s, "wait_s": clock.wait_s}
            update["bound_by"] = clock.bound_by
        *earlier, session = self.job.sessions
        update["memory_mb"] = clock.memory_mb
        return self.job.model_copy(
            update={
                "state": "done",
                "finished": datetime.now(UTC),
                "counts": count(self.plan, self.marks.values()),
                "sessions": [*earlier, session.model_copy(update=update)],
            }
        )

    def _count(self, outcome: Outcome) -> None:
        if self.first_outcome_s is None:
            self.first_outcome_s = time.monotonic() - self.started
        self.finished += 1
        if isinstance(outcome.result, Labelled):
            self.video_s += length_s(outcome.video, outcome.result)
        else:
            self.failed += 1

    def _progress(self) -> Progress:
        done = self.resumed + self.finished
        working = time.monotonic() - self.started - (self.first_outcome_s or 0.0)
        if self.finished < 2 or working <= 0:
            return Progress(done=done, failed=self.failed, total=self.total, seconds_left=None)
        rate = (self.finished - 1) / working  # the first waited for everything to start
        return Progress(
            done=done,
            failed=self.failed,
            total=self.total,
            seconds_left=(self.total - done) / rate,
            rows_per_s=rate,
            video_s_per_s=self.video_s / self.finished * rate,
        )

    def summary(self, job: JobRecord) -> JobSummary:
        """What to tell of the finished job."""
        session = job.sessions[-1]
        return JobSummary(
            job_id=job.job_id,
            out=self.store.folder.name,
            engine=session.engine,
            total=job.counts.total,
            labelled=job.counts.labelled,
            failed=job.counts.failed,
            failed_by_class=job.counts.failed_by_class,
            resumed=self.resumed,
            seconds=time.monotonic() - self.started,
            first_outcome_s=self.first_outcome_s,
            video_s=self.video_s,
            videos_per_s=session.videos_per_s if self.finished else None,
            bound_by=session.bound_by if self.finished else None,
        )


def length_s(video: Video, found: Labelled) -> float:
    """Seconds of video that a label speaks of: a whole file, a clip or a window."""
    end_s = found.duration_s if video.end_s is None else min(video.end_s, found.duration_s)
    return max(0.0, end_s - (video.start_s or 0.0))


def count(plan: Plan, marks: Iterable[ShardMark]) -> Counts:
    """Rows of the two tables, and those to come."""
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
