"""The report of a labelling job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import OutputConflictError
from reelscribe.pipeline.report.html import render_page
from reelscribe.pipeline.report.rows import MAX_FAILURES_PER_CLASS, Results, read_results
from reelscribe.pipeline.report.thumbnails import Strip, read_strips
from reelscribe.pipeline.stores import locate

REPORT_FILE = "report.html"
MAX_BARS = 60  # labels with a bar of their own; the rest is one bar


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a histogram; ``share`` of the longest, 0 to 1."""

    name: str
    count: int
    share: float


def write_job_report(out: str | Path, *, decode: DecodeConfig | None = None, max_videos: int = 60) -> str:
    """Write ``report.html`` into a finished job's folder, here or on s3://; returns its path.

    Up to ``max_videos`` labelled videos, least confident first, are decoded again for their pictures; one that cannot be read any
    more is shown with the cause in the pictures' place. Raises OutputConflictError where ``out`` holds no job.
    """
    files, base = locate(out)
    try:
        with files.open_input_stream(f"{base}/job.json") as file:
            job: dict[str, Any] = json.loads(file.read())
    except FileNotFoundError:
        raise OutputConflictError(f"{out} holds no labelling job (no job.json); give the --out of `reelscribe label`") from None
    results = read_results(out, max_videos=max_videos)
    strips = read_strips(results.shown, sampling=job["fingerprint"]["sampling"], decode=decode or DecodeConfig())
    _write(files, f"{base}/{REPORT_FILE}", render(job, results, strips))
    return f"{out}/{REPORT_FILE}"


def render(job: dict[str, Any], results: Results, strips: Sequence[Strip]) -> str:
    """The page as text. ``job`` is the content of ``job.json``; ``strips`` holds one entry per video of ``results.shown``."""
    return render_page(
        "page.html.jinja",
        job=job,
        model=job["model"],
        sessions=job["sessions"],
        results=results,
        label_bars=label_bars(results.by_label),
        confidence_bars=confidence_bars(results.confidence_bins),
        videos=list(zip(results.shown, strips, strict=True)),
        max_failures=MAX_FAILURES_PER_CLASS,
        span=_span,
    )


def label_bars(by_label: Sequence[tuple[str, int]]) -> list[Bar]:
    """One bar per label, most frequent first; what is past MAX_BARS becomes one."""
    shown, rest = list(by_label[:MAX_BARS]), by_label[MAX_BARS:]
    if rest:
        shown.append((f"{len(rest)} other labels", sum(count for _, count in rest)))
    longest = max((count for _, count in shown), default=1)
    return [Bar(name=name, count=count, share=count / longest) for name, count in shown]


def confidence_bars(bins: Sequence[int]) -> list[Bar]:
    """One bar per bin of equal width between 0 and 1."""
    width, highest = 1 / len(bins), max(*bins, 1)
    return [Bar(name=f"{i * width:.2f} to {(i + 1) * width:.2f}", count=count, share=count / highest) for i, count in enumerate(bins)]


def _span(seconds: float) -> str:
    """Seconds in the two largest units that say something."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _write(files: fs.FileSystem, path: str, text: str) -> None:
    """Replace the file in one step: a store of objects does so by itself."""
    local = isinstance(files, fs.LocalFileSystem)
    written = f"{path}.tmp" if local else path
    with files.open_output_stream(written) as file:
        file.write(text.encode())
    if local:
        files.move(written, path)
