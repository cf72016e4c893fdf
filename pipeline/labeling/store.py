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
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from reelscribe.pipeline.errors import ManifestError, OutputConflictError
from reelscribe.pipeline.labeling.folder import OutputFolder, open_folder
from reelscribe.pipeline.labeling.record import MAX_DIFFERENCES, JobRecord, differences
from reelscribe.pipeline.labeling.schema import FAILURES, LABELS, Trace, failures_table, labels_table
from reelscribe.pipeline.labeling.stages import Outcome, Video
from reelscribe.pipeline.manifest import repeated_values
from reelscribe.pipeline.report.rows import labelled_s

JOB_FILE = "job.json"
_READERS = 8  # markers of a store of objects that are asked for at the same time
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
class Redo:
    """Rows of the input that are done again though their shards are committed."""

    positions: dict[int, list[int]]  # by shard, increasing
    rows: int  # of the two tables, that are replaced
    failed: int  # failures among these

    @property
    def num_videos(self) -> int:
        """Rows of the input."""
        return sum(map(len, self.positions.values()))


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
            for offset, row in enumerate(self.rows_of(shard).to_pylist()):
                yield Video(position=shard.start + offset, **row)

    def videos_at(self, redo: Redo) -> Iterator[Video]:
        """The rows to do again, in order."""
        for positions in redo.positions.values():
            for position, row in zip(positions, self.inputs.take(positions).to_pylist(), strict=True):
                yield Video(position=position, **row)

    def rows_of(self, shard: Shard) -> pa.Table:
        """The input's rows of a shard."""
        return self.inputs.slice(shard.start, shard.stop - shard.start)


class ShardStore:
    """The output folder of one job, held by this process. Made by ``open_store``."""

    def __init__(self, folder: OutputFolder) -> None:
        self.folder = folder

    def begin(self, job: JobRecord) -> JobRecord:
        """Start ``job``, or go on with the one that is there. Raises OutputConflictError if that is a different one."""
        earlier = self.job()
        if earlier is None:
            self.write_job(job)
            return job
        different = differences(earlier.fingerprint, job.fingerprint)
        if different:
            raise _conflict(self.folder.name, earlier.job_id, different)
        return earlier

    def job(self) -> JobRecord | None:
        """See ``read_job``."""
        data = self.folder.get(JOB_FILE)
        if data is None:
            return None
        try:
            return JobRecord.model_validate_json(data)
        except ValidationError as error:
            raise OutputConflictError(
                f"{self.folder.name}/{JOB_FILE} is not a labelling job that this version reads ({error.error_count()} problems, "
                f"first: {error.errors()[0]['msg']}); give another --out"
            ) from error

    def write_job(self, job: JobRecord) -> None:
        """Store ``job.json``."""
        self.folder.put(JOB_FILE, (job.model_dump_json(indent=2) + "\n").encode())

    def plan(self, videos: pa.Table, job: JobRecord) -> Plan:
        """The job's rows: those planned before, then those that ``videos`` adds, which are noted before they are worked on.

        Raises ManifestError for a video id that is there twice, OutputConflictError where a planned row is gone or changed.
        """
        inputs = videos.select(INPUT_SCHEMA.names).cast(INPUT_SCHEMA)
        _require_unique(inputs)
        segments = self._segments()
        if segments:
            known = pa.concat_tables(segments)
            _require_kept(known, inputs, self.folder.name, job.job_id)
            inputs = inputs.filter(pc.invert(pc.is_in(inputs["video_id"], value_set=known["video_id"].combine_chunks())))
        if inputs.num_rows:
            self.folder.put(f"_job/inputs-{len(segments):05}.parquet", _parquet(inputs))
            segments.append(inputs)
        pa.default_memory_pool().release_unused()  # what telling a million ids apart took
        return _plan(segments, job)

    def planned(self, job: JobRecord) -> Plan:
        """The rows that the job has planned so far."""
        return _plan(self._segments(), job)

    def committed(self) -> dict[int, ShardMark]:
        """Markers of the shards whose two files are as the marker says, by number."""
        labels, failures = self.folder.sizes("labels"), self.folder.sizes("failures")
        marks = {}
        names = [f"_job/shards/{name}" for name in self.folder.sizes("_job/shards")]
        with ThreadPoolExecutor(_READERS) as pool:
            found = [ShardMark.model_validate_json(data) for data in pool.map(self.folder.get, names) if data is not None]
        for mark in found:
            part = part_name(mark.shard)
            if (labels.get(part), failures.get(part)) == (mark.labels_bytes, mark.failures_bytes):
                marks[mark.shard] = mark
        return marks

    def failed_rows(self, plan: Plan, marks: Iterable[ShardMark], classes: Collection[str]) -> Redo:
        """Rows of the input that ended, or of which a window ended, as a failure of one of these classes."""
        wanted = [mark for mark in marks if set(classes) & set(mark.failed_by_class)]
        return self.redo_of(plan, wanted, lambda _, failures: failures.filter(pc.field("failure").isin(list(classes))))

    def redo_of(self, plan: Plan, marks: Iterable[ShardMark], pick: Callable[[pa.Table, pa.Table], pa.Table]) -> Redo:
        """Rows of the input of which ``pick`` takes one or more out of the labels and failures of a shard."""
        positions, rows, failed = {}, 0, 0
        for mark in sorted(marks, key=lambda mark: mark.shard):
            labels, failures = self.tables(mark.shard)
            wanted = pick(labels, failures)["video_id"].unique()
            if not len(wanted):
                continue
            shard = plan.shards[mark.shard]
            places = pc.index_in(wanted, value_set=plan.rows_of(shard)["video_id"].combine_chunks())
            positions[mark.shard] = sorted(shard.start + place for place in places.to_pylist())
            again = [table.filter(pc.field("video_id").isin(wanted)).num_rows for table in (labels, failures)]
            rows, failed = rows + sum(again), failed + again[1]
        return Redo(positions=positions, rows=rows, failed=failed)

    def commit(self, plan: Plan, shard: Shard, outcomes: Sequence[Outcome], trace: Trace) -> ShardMark:
        """Write a shard: its labels, its failures, then the marker.

        ``outcomes``: its rows with all their windows, in any order; of a shard that is committed some of its rows, which replace those
        that are there.
        """
        ordered = sorted(outcomes, key=lambda outcome: (outcome.video.position, outcome.video.window or 0))
        _require_complete(shard, ordered)
        labels, failures = labels_table(ordered, trace), failures_table(ordered, trace)
        done = pa.array({outcome.video.video_id for outcome in ordered}, pa.string())
        if len(done) < shard.stop - shard.start:
            if self.folder.get(_mark_name(shard.number)) is None:
                raise ValueError(f"shard {shard.number} is rows {shard.start} to {shard.stop - 1}, got {len(done)} of them")
            ids = plan.rows_of(shard)["video_id"].combine_chunks()
            kept = [table.filter(~pc.field("video_id").isin(done)) for table in self.tables(shard.number)]
            labels, failures = _in_order([kept[0], labels], ids), _in_order([kept[1], failures], ids)
        classes = failures["failure"].value_counts().to_pylist()
        written = [_parquet(table) for table in (labels, failures)]
        mark = ShardMark(
            shard=shard.number,
            labelled=labels.num_rows,
            failed=failures.num_rows,
            failed_by_class={entry["values"]: entry["counts"] for entry in classes},
            labelled_video_s=labelled_s(labels),
            labels_bytes=len(written[0]),
            failures_bytes=len(written[1]),
        )
        for folder, data in zip(("labels", "failures"), written, strict=True):
            self.folder.put(f"{folder}/{part_name(shard.number)}", data)
        self.folder.put(_mark_name(shard.number), mark.model_dump_json().encode())
        return mark

    def tables(self, number: int) -> tuple[pa.Table, pa.Table]:
        """Labels and failures of a committed shard."""
        labels, failures = (
            pq.read_table(io.BytesIO(self.folder.get(f"{folder}/{part_name(number)}") or b""), schema=schema)
            for folder, schema in (("labels", LABELS), ("failures", FAILURES))
        )
        return labels, failures

    def updated(self) -> datetime | None:
        """When the last shard was committed; None before the first."""
        return max((info.mtime for info in self.folder.entries("_job/shards")), default=None)

    def _segments(self) -> list[pa.Table]:
        names = sorted(name for name in self.folder.sizes("_job") if name.startswith("inputs-"))
        return [pq.read_table(io.BytesIO(self.folder.get(f"_job/{name}") or b""), schema=INPUT_SCHEMA) for name in names]


@contextmanager
def open_store(where: str | Path) -> Iterator[ShardStore]:
    """Hold an output folder for writing; it is made where it is missing.

    Raises OutputConflictError if another process holds it, or if there are files in it and no job of ours.
    """
    folder = open_folder(where)
    _require_ours(folder)
    with folder.locked():
        yield ShardStore(folder)


def read_job(where: str | Path) -> JobRecord | None:
    """The record of the job in a folder, or None. Raises OutputConflictError if there is a ``job.json`` that is not ours."""
    return ShardStore(open_folder(where)).job()


def read_labels(where: str | Path) -> pa.Table:
    """All committed labels, in the order of the input, as LABELS; from another process too, while the job runs."""
    return _read_parts(where, 0, LABELS)


def read_failures(where: str | Path) -> pa.Table:
    """All committed failures, in the order of the input, as FAILURES; from another process too, while the job runs."""
    return _read_parts(where, 1, FAILURES)


def cut(segment_rows: Sequence[int], shard_size: int) -> tuple[Shard, ...]:
    """Shards of segments that follow each other; a shard never spans two segments, so that old ones stay as they are."""
    shards: list[Shard] = []
    start = 0
    for rows in segment_rows:
        bounds = [*range(start, start + rows, shard_size), start + rows]
        shards += [Shard(number=len(shards) + i, start=a, stop=b) for i, (a, b) in enumerate(pairwise(bounds))]
        start += rows
    return tuple(shards)


def _require_complete(shard: Shard, ordered: Sequence[Outcome]) -> None:
    """Every row once, or as often as it has windows. Raises ValueError."""
    num_windows = {outcome.video.position: outcome.video.num_windows for outcome in ordered}
    expected = [(position, i) for position in num_windows for i in range(num_windows[position])]
    inside = all(shard.start <= position < shard.stop for position in num_windows)
    if not ordered or not inside or [(o.video.position, o.video.window or 0) for o in ordered] != expected:
        raise ValueError(f"shard {shard.number} is rows {shard.start} to {shard.stop - 1}, got {len(ordered)} other outcomes")


def _in_order(parts: Sequence[pa.Table], ids: pa.Array) -> pa.Table:
    """Rows of one shard in the order of the input and of the windows."""
    table = pa.concat_tables(parts)
    keys = pa.table({"row": pc.index_in(table["video_id"], value_set=ids), "window": table["window"]})
    return table.take(pc.sort_indices(keys, sort_keys=[("row", "ascending"), ("window", "ascending")]))


def _plan(segments: Sequence[pa.Table], job: JobRecord) -> Plan:
    table = pa.concat_tables(segments) if segments else INPUT_SCHEMA.empty_table()
    return Plan(inputs=table, shards=cut([s.num_rows for s in segments], job.shard_size))


def _mark_name(shard: int) -> str:
    return f"_job/shards/{shard:05}.json"


def part_name(shard: int) -> str:
    """File name of a shard in ``labels/`` and ``failures/``."""
    return f"part-{shard:05}.parquet"


def _read_parts(where: str | Path, which: int, schema: pa.Schema) -> pa.Table:
    store = ShardStore(open_folder(where))
    parts = [store.tables(number)[which] for number in sorted(store.committed())]
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _require_ours(folder: OutputFolder) -> None:
    """Refuse a file, and a folder with other people's files."""
    if folder.is_file():
        raise OutputConflictError(f"{folder.name} is a file; give a folder as --out")
    names = folder.names()
    foreign = [name for name in names if name != "_job"]
    if foreign and JOB_FILE not in names:
        raise OutputConflictError(
            f"{folder.name} holds other files ({', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}) and no {JOB_FILE}; "
            "give a new or empty folder as --out"
        )


def _require_unique(inputs: pa.Table) -> None:
    twice = repeated_values(inputs["video_id"]).to_pylist()
    if twice:
        raise ManifestError(
            f"the input names {len(twice)} video ids more than once: {', '.join(map(repr, twice[:5]))}{', ...' if len(twice) > 5 else ''}; "
            "every row needs its own video_id"
        )


def _require_kept(known: pa.Table, inputs: pa.Table, folder: str, job_id: str) -> None:
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
        raise _conflict(folder, job_id, different)


def _as_text(column: Any) -> Any:
    """Null becomes the empty text, so that null equals null."""
    return pc.fill_null(column.cast(pa.string()), "")


def _conflict(folder: str, job_id: str, different: list[str]) -> OutputConflictError:
    shown = "\n".join(f"  {line}" for line in different[:MAX_DIFFERENCES])
    more = f"\n  and {len(different) - MAX_DIFFERENCES} more differences" if len(different) > MAX_DIFFERENCES else ""
    return OutputConflictError(
        f"{folder} holds another job ({job_id}):\n{shown}{more}\ngive another --out, or the command that this folder was made with"
    )
