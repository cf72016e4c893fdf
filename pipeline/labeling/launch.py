"""From the words of a command to a labelling job and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from reelscribe.pipeline.bundle import load_bundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.labeling.job import JobSummary, Progress, run_job
from reelscribe.pipeline.manifest import list_videos
from reelscribe.pipeline.report.page import write_job_report
from reelscribe.pipeline.sampling import Windows
from reelscribe.pipeline.tracking.registry import fetch_model


def label_videos(
    model: str,
    videos: str,
    *,
    out: Path,
    engine: Literal["local", "ray"],
    address: str,
    device: str,
    decode: DecodeConfig,
    tracking: str,
    progress: OpenProgress,
    windows: Windows | None = None,
) -> JobSummary:
    """Fetch the model, list the input, run the job, write ``report.html``."""
    table = list_videos(videos)
    found = fetch_model(model, uri=tracking)
    bundle = load_bundle(found.folder)
    bundle.spec.require_single_label("a labelling job")
    with progress("labelling") as advance:

        def on_progress(now: Progress) -> None:
            advance(now.done, now.total, f"{now.failed} failed" if now.failed else "")

        summary = run_job(
            bundle=bundle,
            identity=found,
            videos=table,
            out=out,
            engine=engine,
            decode=decode,
            device=device,
            cluster_address=address,
            windows=windows,
            on_progress=on_progress,
        )
    write_job_report(out, decode=decode)
    return summary
