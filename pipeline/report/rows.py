"""What the report shows of a job's tables, read batch by batch so that a table of any length fits in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

CONFIDENCE_BINS = 20
MAX_FAILURES_PER_CLASS = 100  # rows shown; the count is of all
_SHOWN_COLUMNS = ["video_id", "uri", "start_s", "end_s", "label", "confidence", "top_k", "reader", "content_digest", "duration_s"]


@dataclass(frozen=True, kw_only=True)
class ShownVideo:
    """One labelled video of the report."""

    video_id: str
    uri: str
    start_s: float | None
    end_s: float | None
    label: str
    confidence: float
    top_k: tuple[tuple[str, float], ...]
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


def read_results(out: Path, *, max_videos: int) -> Results:
    """Read ``labels/`` and ``failures/`` of a job's folder."""
    by_label: Counter[str] = Counter()
    edges = np.arange(CONFIDENCE_BINS + 1) / CONFIDENCE_BINS
    bins = np.zeros(CONFIDENCE_BINS, dtype=np.int64)
    least: npt.NDArray[np.float64] = np.empty(0)
    total_confidence = video_s = 0.0
    for batch in _batches(out / "labels", ["label", "confidence", "start_s", "end_s", "duration_s"]):
        confidence = batch["confidence"].to_numpy(zero_copy_only=False)
        by_label.update(batch["label"].to_pylist())
        bins += np.histogram(confidence, bins=edges)[0]
        least = np.sort(np.concatenate([least, confidence]))[:max_videos]
        total_confidence += float(confidence.sum())
        ends_s = pc.min_element_wise(batch["end_s"], batch["duration_s"])  # without the nulls
        video_s += pc.sum(pc.subtract(ends_s, pc.coalesce(batch["start_s"], 0.0))).as_py() or 0.0
    failures = _read_failures(out / "failures")
    labelled = by_label.total()
    return Results(
        labelled=labelled,
        failed=sum(group.count for group in failures),
        video_s=video_s,
        by_label=tuple(sorted(by_label.items(), key=lambda item: (-item[1], item[0]))),
        confidence_bins=tuple(int(count) for count in bins),
        mean_confidence=total_confidence / labelled if labelled else None,
        shown=_read_shown(out / "labels", float(least[-1]), max_videos) if len(least) else (),
        failures=tuple(failures),
    )


def _read_shown(folder: Path, at_most: float, max_videos: int) -> tuple[ShownVideo, ...]:
    """The least confident videos, of those not more confident than ``at_most``."""
    batches = _batches(folder, _SHOWN_COLUMNS, pc.field("confidence") <= at_most)
    rows = [row for batch in batches for row in batch.to_pylist()]
    rows.sort(key=lambda row: (row["confidence"], row["video_id"]))
    return tuple(
        ShownVideo(**row | {"top_k": tuple((one["label"], one["confidence"]) for one in row["top_k"])}) for row in rows[:max_videos]
    )


def _read_failures(folder: Path) -> list[FailureGroup]:
    groups: dict[str, FailureGroup] = {}
    for batch in _batches(folder, ["video_id", "uri", "failure", "cause", "advice", "retryable"]):
        for row in batch.to_pylist():
            group = groups.setdefault(
                row["failure"], FailureGroup(failure=row["failure"], advice=row["advice"], retryable=row["retryable"])
            )
            group.count += 1
            if len(group.rows) < MAX_FAILURES_PER_CLASS:
                group.rows.append((row["video_id"], row["cause"].removeprefix(f"{row['uri']}: ")))
    return sorted(groups.values(), key=lambda group: (-group.count, group.failure))


def _batches(folder: Path, columns: list[str], where: pc.Expression | None = None) -> Iterator[pa.RecordBatch]:
    """Record batches of all whole Parquet files of a folder; none where it does not exist yet."""
    if folder.is_dir() and any(folder.glob("*.parquet")):
        yield from ds.dataset(folder, format="parquet").to_batches(columns=columns, filter=where)
