"""What the report shows of a job's tables, read batch by batch so that a table of any length fits in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from reelscribe.pipeline.stores import locate

CONFIDENCE_BINS = 20
MAX_FAILURES_PER_CLASS = 100  # rows shown; the count is of all
_ANSWER_COLUMNS = ["label", "confidence", "labels", "value", "segments", "top_k"]
_SHOWN_COLUMNS = ["video_id", "uri", "start_s", "end_s", "reader", "content_digest", "duration_s"]


@dataclass(frozen=True, kw_only=True)
class ShownVideo:
    """One labelled video of the report."""

    video_id: str
    uri: str
    start_s: float | None
    end_s: float | None
    answer: str  # in words
    confidence: float | None
    others: tuple[tuple[str, float], ...]  # what the model would say next
    reader: str
    content_digest: str
    duration_s: float


@dataclass(kw_only=True)
class FailureGroup:
    """Failures of one class."""

    failure: str
    advice: str
    retryable: bool
    count: int = 0
    rows: list[tuple[str, str]] = field(default_factory=list)  # (video id, cause without the path), the first MAX_FAILURES_PER_CLASS


@dataclass(frozen=True, kw_only=True)
class Results:
    """The two tables in figures, and the rows to show."""

    labelled: int
    failed: int
    video_s: float  # length of all that is labelled, together
    by_label: tuple[tuple[str, int], ...]  # most frequent first
    confidence_bins: tuple[int, ...]  # of equal width from 0 to 1
    mean_confidence: float | None
    shown: tuple[ShownVideo, ...]  # least confident first
    failures: tuple[FailureGroup, ...]  # largest group first


def read_results(out: str | Path, *, max_videos: int) -> Results:
    """Read ``labels/`` and ``failures/`` of a job's folder, here or on s3://."""
    by_label: Counter[str] = Counter()
    edges = np.arange(CONFIDENCE_BINS + 1) / CONFIDENCE_BINS
    bins = np.zeros(CONFIDENCE_BINS, dtype=np.int64)
    least: npt.NDArray[np.float64] = np.empty(0)
    labelled, total_confidence, video_s = 0, 0.0, 0.0
    for batch in batches(out, "labels", ["label", "labels", "segments", "confidence", "start_s", "end_s", "duration_s"]):
        confidence = batch["confidence"].drop_null().to_numpy(zero_copy_only=False)
        for row in batch.select(["label", "labels", "segments"]).to_pylist():
            by_label.update(_labels(row))
        bins += np.histogram(confidence, bins=edges)[0]
        least = np.sort(np.concatenate([least, confidence]))[:max_videos]
        labelled += batch.num_rows
        total_confidence += float(confidence.sum())
        video_s += labelled_s(batch)
    failures = _read_failures(out)
    confident = int(bins.sum())
    return Results(
        labelled=labelled,
        failed=sum(group.count for group in failures),
        video_s=video_s,
        by_label=tuple(sorted(by_label.items(), key=lambda item: (-item[1], item[0]))),
        confidence_bins=tuple(int(count) for count in bins),
        mean_confidence=total_confidence / confident if confident else None,
        shown=_read_shown(out, float(least[-1]) if len(least) else None, max_videos) if labelled else (),
        failures=tuple(failures),
    )


def labelled_s(labels: pa.Table | pa.RecordBatch) -> float:
    """Length of all that labels speak of, in seconds: whole videos, clips and windows."""
    ends_s = pc.min_element_wise(labels["end_s"], labels["duration_s"])  # without the nulls
    return float(pc.sum(pc.subtract(ends_s, pc.coalesce(labels["start_s"], 0.0))).as_py() or 0.0)


def _labels(row: Mapping[str, Any]) -> set[str]:
    """Every label that a row of any task gives."""
    return {row["label"]} - {None} | set(row["labels"] or ()) | {part["label"] for part in row["segments"] or ()}


def _read_shown(out: str | Path, at_most: float | None, max_videos: int) -> tuple[ShownVideo, ...]:
    """The least confident videos, of those not more confident than ``at_most``; without confidences the first ones."""
    found = batches(out, "labels", [*_SHOWN_COLUMNS, *_ANSWER_COLUMNS], None if at_most is None else pc.field("confidence") <= at_most)
    rows: list[dict[str, Any]] = []
    for batch in found:
        rows += batch.to_pylist()
        if at_most is None and len(rows) >= max_videos:
            break
    if at_most is not None:
        rows.sort(key=lambda row: (row["confidence"], row["video_id"]))
    return tuple(_shown(row) for row in rows[:max_videos])


def _shown(row: Mapping[str, Any]) -> ShownVideo:
    """A row of labels for the page, whatever the task."""
    said = _labels(row)
    others = tuple((one["label"], one["confidence"]) for one in row["top_k"] or () if one["label"] not in said)[:2]
    if row["label"] is not None:
        answer = row["label"]
    elif row["value"] is not None:
        answer = f"{row['value']:.4g}"
    elif row["segments"] is not None:
        answer = ", ".join(f"{part['start_s']:.2f} s {part['label']}" for part in row["segments"])
    else:
        answer = ", ".join(row["labels"]) or "no label"
    return ShownVideo(answer=answer, confidence=row["confidence"], others=others, **{name: row[name] for name in _SHOWN_COLUMNS})


def _read_failures(out: str | Path) -> list[FailureGroup]:
    groups: dict[str, FailureGroup] = {}
    for batch in batches(out, "failures", ["video_id", "uri", "failure", "cause", "advice", "retryable"]):
        for row in batch.to_pylist():
            group = groups.setdefault(
                row["failure"], FailureGroup(failure=row["failure"], advice=row["advice"], retryable=row["retryable"])
            )
            group.count += 1
            if len(group.rows) < MAX_FAILURES_PER_CLASS:
                group.rows.append((row["video_id"], row["cause"].removeprefix(f"{row['uri']}: ")))
    return sorted(groups.values(), key=lambda group: (-group.count, group.failure))


def batches(out: str | Path, table: str, columns: list[str], where: pc.Expression | None = None) -> Iterator[pa.RecordBatch]:
    """Record batches of all whole Parquet files of a table; none where it does not exist yet."""
    files, base = locate(out)
    parts = [info.path for info in files.get_file_info(fs.FileSelector(f"{base}/{table}", allow_not_found=True))]
    if parts := [path for path in parts if path.endswith(".parquet")]:
        yield from ds.dataset(sorted(parts), filesystem=files, format="parquet").to_batches(columns=columns, filter=where)
