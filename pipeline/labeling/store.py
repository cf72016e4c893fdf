"""The commit protocol: what a job leaves in its output folder, in which order, so that it can be killed at any moment.

    job.json                     what the job is (before anything else), and its counts and timings (last)
    _job/inputs-00000.parquet    the input rows, in order; further files hold rows that the input gained later
    labels/part-00000.parquet    one shard's labels        } whole or absent: written in _job/tmp,
    failures/part-00000.parquet  the same shard's failures } then renamed
    _job/shards/00000.json       the shard is committed: its counts and the sizes of its two files
    _job/lock                    held by the process that writes
    _job/tmp/                    files being written

The input is cut into shards by its order, ``shard_size`` rows each. A shard is committed by its marker, which comes last; a shard without
a marker, or with files that are not as the marker says, is done again as a whole, and replaces what is there under the same names. So no
row is lost and none is doubled, whatever is killed when.

An input may grow: rows that the job has not seen become new shards after the old ones. Rows that it has seen must all still be there with
the same file and times, anywhere in the order; otherwise it is another job.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from reelscribe.pipeline.errors import ManifestError, OutputConflictError
from reelscribe.pipeline.labeling.folder import OutputFolder
from reelscribe.pipeline.labeling.record import MAX_DIFFERENCES, JobRecord, differences
from reelscribe.pipeline.labeling.schema import FAILURES, LABELS, Trace, failures_table, labels_table
from reelscribe.pipeline.labeling.stages import Labelled, Outcome, Video

JOB_FILE = "job.json"
INPUT_SCHEMA = pa.schema([LABELS.field(name) for name in ("video_id", "uri", "start_s", "end_s")])


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Rows ``start`` to ``stop`` (excluded) of the input, committed together."""

    number: int
    start: int
    stop: int


class ShardMark(BaseModel):
    """The marker of a committed shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: int
    labelled: int
    failed: int
    failed_by_class: dict[str, int]
    labelled_video_s: float
    labels_bytes: int
    failures_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All rows of a job in order (INPUT_SCHEMA), and how they are cut."""

    inputs: pa.Table
    shards: tuple[Shard, ...]

    def shard_of(self, position: int) -> Shard:
        """The shard that holds the row at ``position``."""
        return self.shards[bisect_right(self.shards, position, key=lambda shard: shard.start) - 1]

    def videos(self, shards: Sequence[Shard]) -> Iterator[Video]:
        """The rows of some shards, in order, without holding them all as objects."""
        for shard in shards:
            for offset, row in enumerate(self.inputs.slice(shard.start, shard.stop - shard.start).to_pylist()):
                yield Video(position=shard.start + offset, **row)


class ShardStore:
    """The output folder of one job, held by this process. Made by ``open_store``."""

    def __init__(self, folder: OutputFolder) -> None:
        self.folder = folder

    def begin(self, job: JobRecord) -> JobRecord:
        """Start ``job``, or go on with the one that is there. Raises OutputConflictError if that is a different one."""
        earlier = read_job(self.folder.root)
        if earlier is None:
            self.write_job(job)
            return job
        different = differences(earlier.fingerprint, job.fingerprint)
        if different:
            raise _conflict(self.folder.root, earlier.job_id, different)
        return earlier

    def write_job(self, job: JobRecord) -> None:
        """Store ``job.json``."""
        self.folder.put(JOB_FILE, (job.model_dump_json(indent=2) + "\n").encode())

    def plan(self, videos: pa.Table, job: JobRecord) -> Plan:
        """The job's rows: those planned before, then those that ``videos`` adds, which are noted before they are worked on.

        Raises ManifestError for a video id that is there twice, OutputConflictError where a planned row is gone or changed.
        """
        inputs = videos.select(INPUT_SCHEMA.names).cast(INPUT_SCHEMA)
        _require_unique(inputs)
        segments = self._planned()
        if segments:
            known = pa.concat_tables(segments)
            _require_kept(known, inputs, self.folder.root, job.job_id)
            inputs = inputs.filter(pc.invert(pc.is_in(inputs["video_id"], value_set=known["video_id"].combine_chunks())))
        if inputs.num_rows:
            self.folder.put(f"_job/inputs-{len(segments):05}.parquet", _parquet(inputs))
            segments.append(inputs)
        table = pa.concat_tables(segments) if segments else INPUT_SCHEMA.empty_table()
        return Plan(inputs=table.combine_chunks(), shards=cut([s.num_rows for s in segments], job.shard_size))

    def committed(self) -> dict[int, ShardMark]:
        """Markers of the shards whose two files are as the marker says, by number."""
        labels, failures = self.folder.sizes("labels"), self.folder.sizes("failures")
        marks = {}
        for name in self.folder.sizes("_job/shards"):
            mark = ShardMark.model_validate_json(self.folder.get(f"_job/shards/{name}") or b"")
            part = part_name(mark.shard)
            if (labels.get(part), failures.get(part)) == (mark.labels_bytes, mark.failures_bytes):
                marks[mark.shard] = mark
        return marks

    def commit(self, shard: Shard, outcomes: Sequence[Outcome], trace: Trace) -> ShardMark:
        """Write a shard: its labels, its failures, then the marker. ``outcomes``: its rows, all their windows, in any order."""
        ordered = sorted(outcomes, key=lambda outcome: (outcome.video.position, outcome.video.window or 0))
        got = [(outcome.video.position, outcome.video.window or 0) for outcome in ordered]
        num_windows = {outcome.video.position: outcome.video.num_windows for outcome in ordered}
        if got != [(position, i) for position in range(shard.start, shard.stop) for i in range(num_windows.get(position, 1))]:
            raise ValueError(f"shard {shard.number} is rows {shard.start} to {shard.stop - 1}, got {len(ordered)} other outcomes")
        labels, failures = _parquet(labels_table(ordered, trace)), _parquet(failures_table(ordered, trace))
        failed = Counter(o.result.failure for o in ordered if not isinstance(o.result, Labelled))
        mark = ShardMark(
            shard=shard.number,
            labelled=len(ordered) - failed.total(),
            failed=failed.total(),
            failed_by_class=dict(failed),
            labelled_video_s=sum(o.labelled_s for o in ordered),
            labels_bytes=len(labels),
            failures_bytes=len(failures),
        )
        self.folder.put(f"labels/{part_name(shard.number)}", labels)
        self.folder.put(f"failures/{part_name(shard.number)}", failures)
        self.folder.put(f"_job/shards/{shard.number:05}.json", mark.model_dump_json().encode())
        return mark

    def _planned(self) -> list[pa.Table]:
        names = sorted(name for name in self.folder.sizes("_job") if name.startswith("inputs-"))
        return [pq.read_table(io.BytesIO(self.folder.get(f"_job/{name}") or b""), schema=INPUT_SCHEMA) for name in names]


@contextmanager
def open_store(root: Path) -> Iterator[ShardStore]:
    """Hold an output folder for writing; it is made where it is missing.

    Raises OutputConflictError if another process holds it, or if there are files in it and no job of ours.
    """
    _require_ours(root)
    folder = OutputFolder(root)
    with folder.locked():
        folder.sweep()
        yield ShardStore(folder)


def read_job(root: Path) -> JobRecord | None:
    """The record of the job in a folder, or None. Raises OutputConflictError if there is a ``job.json`` that is not ours."""
    data = OutputFolder(root).get(JOB_FILE)
    if data is None:
        return None
    try:
        return JobRecord.model_validate_json(data)
    except ValidationError as error:
        raise OutputConflictError(
            f"{root / JOB_FILE} is not a labelling job that this version reads ({error.error_count()} problems, "
            f"first: {error.errors()[0]['msg']}); give another --out"
        ) from error


def read_labels(root: Path) -> pa.Table:
    """All committed labels, in the order of the input, as LABELS; from another process too, while the job runs."""
    return _read_parts(root, "labels", LABELS)


def read_failures(root: Path) -> pa.Table:
    """All committed failures, in the order of the input, as FAILURES; from another process too, while the job runs."""
    return _read_parts(root, "failures", FAILURES)


def cut(segment_rows: Sequence[int], shard_size: int) -> tuple[Shard, ...]:
    """Shards of segments that follow each other; a shard never spans two segments, so that old ones stay as they are."""
    shards: list[Shard] = []
    start = 0
    for rows in segment_rows:
        bounds = [*range(start, start + rows, shard_size), start + rows]
        shards += [Shard(number=len(shards) + i, start=a, stop=b) for i, (a, b) in enumerate(pairwise(bounds))]
        start += rows
    return tuple(shards)


def part_name(shard: int) -> str:
    """File name of a shard in ``labels/`` and ``failures/``."""
    return f"part-{shard:05}.parquet"


def _read_parts(root: Path, table: str, schema: pa.Schema) -> pa.Table:
    marks = ShardStore(OutputFolder(root)).committed()
    parts = [pq.read_table(root / table / part_name(number), schema=schema) for number in sorted(marks)]
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _require_ours(root: Path) -> None:
    """Refuse a file, and a folder with other people's files."""
    if root.exists() and not root.is_dir():
        raise OutputConflictError(f"{root} is a file; give a folder as --out")
    if not root.is_dir() or (root / JOB_FILE).is_file():
        return
    foreign = sorted(entry.name for entry in root.iterdir() if entry.name != "_job")
    if foreign:
        raise OutputConflictError(
            f"{root} holds other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}) and no {JOB_FILE}; "
            "give a new or empty folder as --out"
        )


def _require_unique(inputs: pa.Table) -> None:
    counts = inputs.group_by("video_id").aggregate([([], "count_all")])
    twice = [row["video_id"] for row in counts.filter(pc.field("count_all") > 1).to_pylist()]
    if twice:
        raise ManifestError(
            f"the input names {len(twice)} video ids more than once: {', '.join(map(repr, twice[:5]))}{', ...' if len(twice) > 5 else ''}; "
            "every row needs its own video_id"
        )


def _require_kept(known: pa.Table, inputs: pa.Table, root: Path, job_id: str) -> None:
    """Every planned row is in the input, with the same file and times."""
    where = pc.index_in(known["video_id"], value_set=inputs["video_id"].combine_chunks())
    gone = known.filter(pc.is_null(where))["video_id"]
    found, now = known.filter(pc.is_valid(where)), inputs.take(where.drop_null())
    different = [f"input: {len(gone)} of {known.num_rows} rows are gone, e.g. {gone[0].as_py()!r}"] if len(gone) else []
    for name in ("uri", "start_s", "end_s"):
        changed = pc.not_equal(_as_text(found[name]), _as_text(now[name]))
        old, new = found.filter(changed), now.filter(changed)
        if old.num_rows:
            example = differences(old[name][0].as_py(), new[name][0].as_py(), f"input {old['video_id'][0].as_py()!r} {name}")
            different += [f"{example[0]} ({old.num_rows} rows differ so)"]
    if different:
        raise _conflict(root, job_id, different)


def _as_text(column: Any) -> Any:
    """Null becomes the empty text, so that null equals null."""
    return pc.fill_null(column.cast(pa.string()), "")


def _conflict(root: Path, job_id: str, different: list[str]) -> OutputConflictError:
    shown = "\n".join(f"  {line}" for line in different[:MAX_DIFFERENCES])
    more = f"\n  and {len(different) - MAX_DIFFERENCES} more differences" if len(different) > MAX_DIFFERENCES else ""
    return OutputConflictError(
        f"{root} holds another job ({job_id}):\n{shown}{more}\ngive another --out, or the command that this folder was made with"
    )
