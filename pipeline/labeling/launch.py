"""From the words of a command to a labelling job and its report."""

from __future__ import annotations

from collections.abc import Callable

from reelscribe.pipeline.bundle import load_bundle
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.work import JobSummary, Progress
from reelscribe.pipeline.listing import list_input
from reelscribe.pipeline.report.page import write_job_report
from reelscribe.pipeline.tracking.registry import fetch_model


def label_videos(model: str, videos: str, *, out: str, options: JobOptions, tracking: str, progress: OpenProgress) -> JobSummary:
    """Fetch the model, list the input, run the job, write ``report.html``."""
    table = list_input(videos)
    found = fetch_model(model, uri=tracking)
    bundle = load_bundle(found.folder)
    with progress("labelling") as advance:
        summary = run_job(bundle=bundle, identity=found, videos=table, out=out, options=options, on_progress=shown(advance))
    write_job_report(out, decode=options.decode)
    return summary


def shown(advance: Callable[..., None]) -> Callable[[Progress], None]:
    """A job's progress on a progress line."""
    return lambda now: advance(now.done, now.total, f"{now.failed} failed" if now.failed else "")
