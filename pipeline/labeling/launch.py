"""From the words of a command to a labelling job and its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reelscribe.pipeline.bundle import load_bundle
from reelscribe.pipeline.console import OpenProgress, note
from reelscribe.pipeline.errors import ServiceUnavailableError
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.record import JobRecord
from reelscribe.pipeline.labeling.subtitling import SUBTITLE_FOLDER, write_subtitles
from reelscribe.pipeline.labeling.work import JobSummary, Progress
from reelscribe.pipeline.listing import list_input
from reelscribe.pipeline.report.page import write_job_report
from reelscribe.pipeline.subtitles import SubtitleFormat
from reelscribe.pipeline.tracking.lineage import LabellingJob, record_labelling
from reelscribe.pipeline.tracking.registry import fetch_model


def label_videos(
    model: str,
    videos: str,
    *,
    out: str,
    options: JobOptions,
    tracking: str,
    progress: OpenProgress,
    subtitles: SubtitleFormat | None = None,
) -> JobSummary:
    """Fetch the model, list the input, run the job, write ``report.html``, and ``subtitles/`` where they are asked for."""
    table = list_input(videos)
    found = fetch_model(model, uri=tracking)
    bundle = load_bundle(found.folder)

    def on_record(job: JobRecord) -> None:
        if found.name and found.version:
            _write_down(job, found.name, found.version, out, tracking)

    with progress("labelling") as advance:
        summary = run_job(
            bundle=bundle, identity=found, videos=table, out=out, options=options, on_progress=shown(advance), on_record=on_record
        )
    write_job_report(out, decode=options.decode)
    if subtitles:
        count = write_subtitles(out, subtitles)
        note(f"subtitles {out}/{SUBTITLE_FOLDER} ({count} files)")
    return summary


def _write_down(job: JobRecord, model: str, version: str, out: str, tracking: str) -> None:
    """Say beside the registered version that it is used; labels do not depend on whether the store answers."""
    where = out if "://" in out else str(Path(out).absolute())
    used = LabellingJob(
        job_id=job.job_id,
        model=model,
        version=version,
        state=job.state,
        out=where,
        labelled=job.counts.labelled,
        failed=job.counts.failed,
    )
    try:
        record_labelling(used, uri=tracking)
    except ServiceUnavailableError as error:
        note(f"this job is not written down with its model: {error}")


def shown(advance: Callable[..., None]) -> Callable[[Progress], None]:
    """A job's progress on a progress line."""
    return lambda now: advance(now.done, now.total, _speed(now))


def _speed(now: Progress) -> str:
    words = [f"{now.failed} failed"]
    if now.rows_per_s is not None and now.video_s_per_s is not None:
        words += [f"{now.rows_per_s:.1f} rows/s", f"{now.video_s_per_s:.1f} h of video/h"]
    return ", ".join(words)
