"""Where a labelling job stands, told from its folder alone: by any process, on any machine that sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from reelscribe.pipeline.errors import UsageError
from reelscribe.pipeline.labeling.folder import open_folder
from reelscribe.pipeline.labeling.store import JOB_FILE, ShardStore
from reelscribe.pipeline.labeling.work import count


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """A look at a job. What its open shards hold is not counted: it is not committed."""

    job_id: str
    out: str
    state: Literal["running", "stopped", "done"]
    holder: dict[str, Any] | None  # the process that works on it: pid, host, since
    total: int
    labelled: int
    failed: int
    failed_by_class: dict[str, int]
    sessions: int
    updated: datetime | None  # when the last shard was committed
    rows_per_s: float | None  # committed rows of the running session
    seconds_left: float | None


def job_status(out: str) -> JobStatus:
    """Raises UsageError where there is no job."""
    folder = open_folder(out)
    store = ShardStore(folder)
    job = store.job()
    if job is None:
        raise UsageError(f"{out} holds no labelling job (no {JOB_FILE}); give the --out of `reelscribe label`")
    holder, marks = folder.holder(), store.committed().values()
    counts = count(store.planned(job), marks)
    done = counts.labelled + counts.failed
    running = job.state == "running" and holder is not None
    session, earlier = job.sessions[-1], job.counts.labelled + job.counts.failed
    seconds = (datetime.now(UTC) - session.started).total_seconds()
    rate = (done - earlier) / seconds if running and done > earlier else None
    return JobStatus(
        job_id=job.job_id,
        out=folder.name,
        state="running" if running else "done" if job.state == "done" else "stopped",
        holder=holder if running else None,
        total=counts.total,
        labelled=counts.labelled,
        failed=counts.failed,
        failed_by_class=counts.failed_by_class,
        sessions=len(job.sessions),
        updated=store.updated(),
        rows_per_s=rate,
        seconds_left=(counts.total - done) / rate if rate else None,
    )
