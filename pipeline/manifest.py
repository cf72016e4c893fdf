"""Every label file format -> one Arrow table: which clips there are, what they show, and how they are split.

Formats, told by the end of the name: ``.csv``, ``.tsv``, ``.jsonl`` (or ``.ndjson``), ``.parquet`` (or ``.pq``), and a folder of class
folders (``left/a.mp4``, or ``train/left/a.mp4`` where all the folders at the top are named after splits).

Columns are found by name, in any order and case; see ``COLUMNS`` for the names understood. Other columns are left alone, but one that looks
like a mistyped name of ours is an error, since a column ``spilt`` that is passed over would leak the test set into training.

Paths. A relative path is taken from the manifest's folder, with ``..`` if need be; an absolute path and a ``file://``, ``http(s)://`` or
``s3://`` URI are kept. A local path always leaves here as an absolute one and any other scheme is refused, so that no text in a manifest
can reach a decoder as one of FFmpeg's protocols (``concat:``, ``subfile:``, ``data:`` ...). Whether the video exists is not
asked here: a missing one is a row in failures, not the end of a job.

What a clip must have depends on the task: ``label`` with one label; ``label`` with any number of them, ``run|jump`` or a list (an empty
field is none of them); ``value``, a number; or ``segments``, parts of the file in seconds, ``[[0.5, 2, "open"], ...]``, where all other
time is ``background``. A column ``value`` or ``segments`` is looked at for its task alone. ``caption`` is a sentence, or a list of them;
rows of the same clip are put together. Captions are also read from the annotation files of known data sets, see caption_files.

Values. Labels, groups and splits lose blanks at both ends, and labels are brought to Unicode NFC, so that what looks the same is the same
class. Paths and ids are taken to the letter. Times are seconds; an empty time is the video's own start or end.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reelscribe.pipeline import fields
from reelscribe.pipeline.caption_files import is_annotations, read_annotations
from reelscribe.pipeline.config import Task
from reelscribe.pipeline.errors import ManifestError, nearest
from reelscribe.pipeline.label_files import READERS, Record
from reelscribe.pipeline.video_uri import default_id, refuse_unknown_scheme, scheme, video_uri

MANIFEST_SCHEMA = pa.schema(
    (
        pa.field("video_id", pa.string(), nullable=False),  # unique in a table
        pa.field("uri", pa.string(), nullable=False),  # absolute path, or URI
        pa.field("start_s", pa.float64()),  # null: the video's own start
        pa.field("end_s", pa.float64()),  # null: the video's own end
        pa.field("label", pa.string()),
        pa.field("group", pa.string()),  # clips of one group never land on both sides of a split
        pa.field("split", pa.string()),
        pa.field("fold", pa.string()),  # the part of a cross-validation; no split until somebody chooses it
    )
)

# What a clip has beside, or in place of, its label for a task.
TASK_FIELDS: dict[Task, tuple[pa.Field[Any], ...]] = {
    "single_label": (),
    "multi_label": (),
    "value": (pa.field("value", pa.float64()),),
    "caption": (pa.field("captions", pa.list_(pa.string())),),
    "dense": (pa.field("segments", pa.list_(pa.struct({"start_s": pa.float64(), "end_s": pa.float64(), "label": pa.string()}))),),
}

COLUMNS: dict[str, tuple[str, ...]] = {
    "video_id": ("video_id", "id", "clip_id"),
    "uri": ("path", "uri", "url", "video", "file", "filename", "file_name", "filepath", "file_path", "video_path"),
    "start_s": ("start_s", "start", "start_time", "time_start"),
    "end_s": ("end_s", "end", "end_time", "time_end"),
    "label": ("label", "class", "class_name", "category", "action"),
    "group": ("group", "group_id", "source"),
    "split": ("split", "subset", "partition"),
    "fold": ("fold",),
}
TASK_COLUMNS: dict[str, tuple[str, ...]] = {"captions": ("caption", "captions", "sentence", "sentences", "description")}
_WHERE = pa.field("where", pa.string())  # the place of a row in its file, while the table is made
_SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_ROWS_AT_ONCE = 1 << 16  # Python's objects of so many rows at a time become Arrow's, which take a tenth of the memory
_MOST_PROBLEMS = 10  # shown at once; more would scroll the first one away


def read_manifest(path: str, *, require_labels: bool, task: Task = "single_label") -> pa.Table:
    """The clips of a label file or a folder of class folders, in its order, as a table of ``MANIFEST_SCHEMA`` and the task's own columns.

    A ``video_id`` that is not given is the path relative to the manifest's folder, with ``#t=start,end`` (a media fragment) for a part of
    a video. ``require_labels`` asks for what ``task`` learns from; without it only the path must be there, and a folder is listed as by
    ``list_videos``.

    Raises ManifestError with the file and the line of up to ten problems.
    """
    file = Path(path)
    with _faults_named(path):
        if require_labels and task == "caption" and file.exists() and is_annotations(file):
            return _table(read_annotations(file), file, task)
        if file.is_dir():
            return _class_folders(file, task) if require_labels else list_videos(path)
        if not file.exists():
            raise ManifestError(f"no label file '{path}'{nearest(file.name, _siblings(file))}")
        read = READERS.get(file.suffix.lower())
        if read is None:
            raise ManifestError(f"{path}: expected a file that ends in {', '.join(READERS)}, or a folder of class folders")
        return _table(read(file), file, task if require_labels else None)


def list_videos(path: str) -> pa.Table:
    """The videos under ``path``, sorted, without labels, as a table of ``MANIFEST_SCHEMA``.

    ``path`` is a folder (every file at any depth, links followed; hidden ones are skipped), a glob (quote it; ``**`` is any depth), one
    video or its URI, or a label file, which gives its rows. Any other file counts as a video: what it really is, decoding finds out.

    Raises ManifestError where there is nothing.
    """
    file = Path(path)
    if scheme(path):
        try:
            refuse_unknown_scheme(path)
        except ValueError as error:
            raise ManifestError(str(error)) from None
        return _listed([{"video_id": path, "uri": path}])
    with _faults_named(path):
        if file.is_file() and file.suffix.lower() in READERS:
            return read_manifest(path, require_labels=False)
        if file.is_dir():
            base, found = file, list(_files_below(file))
        elif os.path.lexists(path):
            base, found = file.parent, [file]
        elif glob.has_magic(path):
            base, found = _matches(file)
        else:
            raise ManifestError(f"no such file or folder: '{path}'{nearest(file.name, _siblings(file))}")
        if not found:
            raise ManifestError(f"{path}: no files {'here' if file.is_dir() else 'match'}")
        root = base.resolve()
        return _listed([_listed_file(root, Path(os.path.relpath(f, base))) for f in found])


@contextmanager
def _faults_named(path: str) -> Iterator[None]:
    """What the system refuses (permission, a disk that fails) is said of the file that the user named."""
    try:
        yield
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from error


def table_digest(table: pa.Table) -> str:
    """SHA-256 (hex) of what a table says, the same for every order of rows, file format, and place on disk.

    It covers ids, times, labels, values, groups and splits. Where the files lie differs between machines, and what is in them is covered by
    the digest that each decoded clip carries; how a cross-validation divides the clips is not what the table says of them.
    """
    names = [name for name in table.column_names if name not in ("uri", "fold")]
    columns = [table.column(name).to_pylist() for name in names]
    lines = sorted(json.dumps(row, ensure_ascii=False) for row in zip(*columns, strict=True))
    return hashlib.sha256("\n".join([json.dumps(names), *lines]).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------------- records to clips


def _table(records: Iterator[Record], file: Path, task: Task | None) -> pa.Table:
    """Check every record and put them into one table; without a task no label is asked for."""
    folder = (file if file.is_dir() else file.parent).resolve()
    own = TASK_FIELDS[task] if task else ()
    required = ("uri", *([field.name for field in own] or ["label"])) if task else ("uri",)
    mappings: dict[tuple[str, ...], dict[str, str]] = {}
    schema = pa.schema([*MANIFEST_SCHEMA, *own, _WHERE])
    rows: list[dict[str, Any]] = []
    tables: list[pa.Table] = []
    problems: list[str] = []
    captioned: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        names = tuple(record.values)
        if names not in mappings:
            mappings[names] = _columns(names, f"{file}, {record.columns_at}", required)
        try:
            row = _row({ours: record.values[theirs] for ours, theirs in mappings[names].items()}, folder, task)
            if task == "caption" and _joined(row, captioned):
                continue
            rows.append(row | {_WHERE.name: record.where})
        except ValueError as error:
            problems.append(f"{record.where}: {error}")
        if len(rows) == _ROWS_AT_ONCE and task != "caption":  # further captions may join a row
            tables.append(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()
    table = pa.concat_tables([*tables, pa.Table.from_pylist(rows, schema=schema)])
    problems += _repeated(table)
    if problems:
        more = [f"... and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        shown = problems[:_MOST_PROBLEMS] + more
        raise ManifestError(f"{file}, {shown[0]}" if len(shown) == 1 else "\n  ".join([f"{file}:", *shown]))
    if not table.num_rows:
        raise ManifestError(f"{file}: no rows below the names of the columns")
    return table.drop_columns([_WHERE.name])


def _repeated(table: pa.Table) -> list[str]:
    """A problem for each row whose id or clip is that of an earlier row.

    Arrow finds the few that can be such: Python's objects for all of a million rows would take more memory than labelling them.
    """
    problems: dict[str, str] = {}
    for what, key in (("video_id", ["video_id"]), ("clip", ["uri", "start_s", "end_s"])):
        seen: dict[tuple[Any, ...], str] = {}
        for row in table.filter(pc.is_in(table[key[0]], value_set=repeated_values(table[key[0]]))).to_pylist():
            where = row[_WHERE.name]
            before = seen.setdefault(tuple(row[name] for name in key), where)
            if before != where:
                named = row["video_id"] if what == "video_id" else row["uri"] + _fragment(row["start_s"], row["end_s"])
                problems.setdefault(where, f"{where}: the {what} '{named}' is already in {before}")
    return list(problems.values())


def repeated_values(column: pa.ChunkedArray) -> pa.Array:
    """What stands more than once in a column, in the order of its first places."""
    counts = column.value_counts()
    return counts.filter(pc.greater(counts.field("counts"), 1)).field("values")


def _joined(row: dict[str, Any], captioned: dict[tuple[Any, ...], dict[str, Any]]) -> bool:
    """Add a row's captions to those of an earlier row of its clip, if there is one. Raises ValueError where the two differ otherwise."""
    before = captioned.setdefault((row["uri"], row["start_s"], row["end_s"]), row)
    if before is row:
        return False
    for name in ("video_id", "group", "split", "fold"):
        if before[name] != row[name]:
            raise ValueError(f"the {name} of this clip is {row[name]!r}, and {before[name]!r} in an earlier row")
    before["captions"].extend(row["captions"])
    return True


def _columns(names: Sequence[str], where: str, required: Sequence[str]) -> dict[str, str]:
    """Our column -> the name it has in the file. Raises ManifestError for a missing, doubtful or mistyped one."""
    known = COLUMNS | {column: TASK_COLUMNS.get(column, (column,)) for column in required if column not in COLUMNS}
    found: dict[str, str] = {}
    unknown: list[str] = []
    for name in names:
        ours = next((column for column, allowed in known.items() if name.strip().lower() in allowed), None)
        if ours is None:
            unknown.append(name)
        elif ours in found:
            raise ManifestError(f"{where}: '{found[ours]}' and '{name}' both name the {ours}; keep one of them")
        else:
            found[ours] = name
    listed = ", ".join(str(n) for n in names)
    for column in required:
        if column not in found:
            hint = next((f"; is '{n}' meant?" for n in unknown if nearest(n.lower(), known[column])), "")
            first, *others = known[column]
            also = f"also understood: {', '.join(others)}; " if others else ""
            raise ManifestError(f"{where}: no column '{first}'{hint} ({also}columns here: {listed})")
    for name in unknown:
        meant = _mistyped(name.strip().lower(), found)
        if meant:
            raise ManifestError(f"{where}: unknown column '{name}'; did you mean '{meant}'? Rename it, or call it something else")
    return found


def _mistyped(name: str, found: Mapping[str, str]) -> str:
    """The name that ``name`` differs from by one swapped, lost, added or wrong letter, among the columns not there."""
    from difflib import get_close_matches

    wanted = [allowed[0] for column, allowed in COLUMNS.items() if column not in found and column != "fold"]  # "folder" is no mistake
    return next(iter(get_close_matches(name, wanted, n=1, cutoff=0.8)), "")


def _row(values: Mapping[str, Any], folder: Path, task: Task | None) -> dict[str, Any]:
    """One checked row. Raises ValueError with what is wrong."""
    given = fields.text(values["uri"], "path")
    if not given:
        raise ValueError("the path is empty")
    start, end = fields.seconds(values.get("start_s"), "start"), fields.seconds(values.get("end_s"), "end")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"the end, {_seconds(end)} s, is not after the start, {_seconds(start or 0.0)} s")
    return {
        "video_id": fields.text(values.get("video_id"), "video_id") or default_id(given, folder) + _fragment(start, end),
        "uri": video_uri(given, folder),
        "start_s": start,
        "end_s": end,
        **{name: (fields.text(values[name], name).strip() or None) if name in values else None for name in ("group", "split", "fold")},
        **_said(values, task),
    }


def _said(values: Mapping[str, Any], task: Task | None) -> dict[str, Any]:
    """What the row says of its clip."""
    label = fields.label(values.get("label")) if task == "single_label" else fields.labels(values.get("label"))
    if task == "single_label" and not label:
        raise ValueError("the label is empty")
    match task:
        case "value":
            return {"label": label or None, "value": fields.number(values.get("value"), "value")}
        case "caption":
            return {"label": label or None, "captions": fields.captions(values.get("captions"))}
        case "dense":
            return {"label": label or None, "segments": fields.segments(values.get("segments"))}
        case _:
            return {"label": label or None}


def _seconds(value: float | None) -> str:
    return "" if value is None else repr(value).removesuffix(".0")


def _fragment(start: float | None, end: float | None) -> str:
    """A part of a video as in W3C Media Fragments, ``#t=1.5,3``; nothing for the whole."""
    if start is None and end is None:
        return ""
    return f"#t={_seconds(start)}" + (f",{_seconds(end)}" if end is not None else "")


# ------------------------------------------------------------------------------------------------------------------- files on disk


def _siblings(file: Path) -> list[str]:
    try:
        return [entry.name for entry in file.parent.iterdir()]
    except OSError:
        return []


def _matches(pattern: Path) -> tuple[Path, list[Path]]:
    """The folder up to a glob's first wildcard, and the files that match or lie below a folder that does."""
    parts = list(pattern.parts)
    base = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    found = {f for p in glob.iglob(str(pattern), recursive=True) for f in (_files_below(Path(p)) if Path(p).is_dir() else [Path(p)])}  # noqa: PTH207
    return base, sorted(found)


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file under ``folder``, sorted, hidden ones skipped; links are followed, loops are not; a dead link counts as a file.

    Pipes, sockets and devices are no files: opening one could wait for ever.
    """

    def refuse(error: OSError) -> None:
        raise error

    above: dict[str, set[str]] = {str(folder): {os.path.realpath(folder)}}
    found: list[Path] = []
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        inner = {name: os.path.realpath(os.path.join(root, name)) for name in folders if not name.startswith(".")}  # noqa: PTH118
        folders[:] = [name for name, real in inner.items() if real not in above[root]]
        above.update({os.path.join(root, name): above[root] | {inner[name]} for name in folders})  # noqa: PTH118
        found += [Path(root, name) for name in files if not name.startswith(".") and _may_be_read(Path(root, name))]
    yield from sorted(found)


def _may_be_read(file: Path) -> bool:
    """A regular file, or a link that leads nowhere."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return True


def _listed_file(root: Path, relative: Path) -> dict[str, Any]:
    """A row for a file found on disk; a name that is not UTF-8 is written as a percent-encoded file URI."""
    path = root / relative
    try:
        str(relative).encode()
        return {"video_id": relative.as_posix(), "uri": str(path)}
    except UnicodeEncodeError:
        return {"video_id": path.as_uri().removeprefix(root.as_uri() + "/"), "uri": path.as_uri()}


def _listed(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def _class_folders(folder: Path, task: Task) -> pa.Table:
    """``folder/label/...`` or ``folder/split/label/...``; files beside the class folders are not part of the data."""
    if TASK_FIELDS[task]:
        raise ManifestError(
            f"{folder}: folders name labels; the task '{task}' needs a label file with the column '{TASK_FIELDS[task][0].name}'"
        )
    top = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    by_split = bool(top) and all(f.name.lower() in _SPLIT_FOLDERS for f in top)
    root = folder.resolve()
    depth = 2 if by_split else 1
    rows = []
    for file in _files_below(folder):
        relative = file.relative_to(folder)
        if len(relative.parts) > depth:
            label = fields.label(relative.parts[depth - 1])
            rows.append(_listed_file(root, relative) | {"label": label, "split": relative.parts[0] if by_split else None})
    if not rows:
        example = f"{folder}/train/left/a.mp4" if by_split else f"{folder}/left/a.mp4"
        raise ManifestError(f"{folder}: no files in class folders; expected e.g. {example}, or give a label file")
    return _listed(rows)
