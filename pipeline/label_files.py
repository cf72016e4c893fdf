"""The three kinds of label files -> records as they stand there, each with its place; what they mean is manifest.py's to say."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from reelscribe.pipeline.errors import ManifestError


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One entry of a label file as it stands there."""

    where: str  # "line 3" or "row 3"
    columns_at: str  # where the names of its columns stand
    values: Mapping[str, Any]


def _read_delimited(file: Path) -> Iterator[Record]:
    """Records of a CSV or TSV file; the separator of a .csv may also be a semicolon or a tab, as its first line says."""
    text = read_text(file)
    first = text.split("\n", 1)[0]
    separator = "\t" if file.suffix.lower() == ".tsv" else next((s for s in ",;\t" if s in first), ",")
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] | None = None
    line, header_line = 1, 1  # of a record that spans lines, the first counts
    try:
        for fields in reader:
            if names is None and any(f.strip() for f in fields):
                names, header_line = [f.strip() for f in fields], line
                _refuse_repeated_names(names, f"{file}, line {line}")
            elif names is not None and any(f.strip() for f in fields):  # a spreadsheet leaves lines of bare separators
                if len(fields) != len(names):
                    expected = f"expected {len(names)} ({separator.join(names)})"
                    raise ManifestError(
                        f"{file}, line {line}: {len(fields)} fields, {expected}; put a field with a '{separator}' in quotes"
                    )
                yield Record(where=f"line {line}", columns_at=f"line {header_line}", values=dict(zip(names, fields, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ManifestError(f"{file}, line {line}: {error}; a quote inside a quoted field is written twice") from error
    if names is None:
        raise ManifestError(f"{file}: the file is empty; its first line names the columns, e.g. path,label,split")


def _read_json_lines(file: Path) -> Iterator[Record]:
    """Records of a file with one JSON object per line."""
    lines = read_text(file).split("\n")
    if not any(line.strip() for line in lines):
        raise ManifestError(f'{file}: the file is empty; expected one object per line, e.g. {{"path": "a.mp4", "label": "left"}}')
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ManifestError(f"{file}, line {number}: not JSON: {error.msg} at column {error.colno}") from error
        if not isinstance(values, dict):
            raise ManifestError(f'{file}, line {number}: expected an object {{"path": ...}}, got {line.strip()[:40]}')
        yield Record(where=f"line {number}", columns_at=f"line {number}", values=values)


def _read_parquet(file: Path) -> Iterator[Record]:
    """Records of a Parquet file; rows count from 1."""
    from pyarrow import ArrowException, parquet

    try:
        source = parquet.ParquetFile(file)
        _refuse_repeated_names(source.schema_arrow.names, f"{file}, schema")
        number = 0
        for batch in source.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Record(where=f"row {number}", columns_at="schema", values=values)
    except ArrowException as error:
        raise ManifestError(f"{file}: cannot be read as Parquet: {error}") from error


def read_text(file: Path) -> str:
    """The file's text; UTF-8 with or without a byte order mark."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{file}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8") from error


def _refuse_repeated_names(names: Sequence[str], where: str) -> None:
    twice = sorted({n for n in names if n and names.count(n) > 1})
    if twice:
        raise ManifestError(f"{where}: two columns are named '{twice[0]}'")


# End of the file's name -> its reader.
READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
}
