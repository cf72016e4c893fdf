"""What a labelling job is given: all that ``manifest.list_videos`` lists, a prefix of an object store, or lines on standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

import pyarrow as pa
from pyarrow import fs

from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.manifest import MANIFEST_SCHEMA, list_videos
from reelscribe.pipeline.stores import S3, locate
from reelscribe.pipeline.video_uri import video_uri

STANDARD_INPUT = "-"


def list_input(text: str, *, lines: TextIO | None = None) -> pa.Table:
    """The videos that ``text`` names, as a table of ``MANIFEST_SCHEMA``.

    ``-`` takes one path or URI a line from ``lines`` (standard input); ``s3://bucket/prefix`` is one object, or every object below it, by
    name. Raises ManifestError where there is nothing, or the store does not answer.
    """
    if text == STANDARD_INPUT:
        return _of_lines(lines or sys.stdin)
    if text.startswith(S3):
        return _of_store(text)
    return list_videos(text)


def _of_lines(lines: TextIO) -> pa.Table:
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):
        given = line.rstrip("\r\n")
        if not given.strip():
            continue
        try:
            rows.append({"video_id": given, "uri": video_uri(given, Path.cwd())})
        except ValueError as error:
            problems.append(f"standard input, line {number}: {error}")
    if problems or not rows:
        raise ManifestError("\n  ".join(problems[:10]) or "standard input: no lines; expected one path or URI a line")
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def _of_store(text: str) -> pa.Table:
    try:
        files, path = locate(text)
        if not text.endswith("/") and files.get_file_info(path).type == fs.FileType.File:
            return list_videos(text)
        found = files.get_file_info(fs.FileSelector(path, recursive=True))
    except FileNotFoundError:
        found = []
    except (OSError, ValueError) as error:
        raise ManifestError(f"{text}: cannot be listed: {error}") from error
    names = sorted(info.path.removeprefix(f"{path}/") for info in found if info.is_file and info.size)
    shown = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if not shown:
        raise ManifestError(f"{text}: no objects here")
    return pa.Table.from_pylist([{"video_id": name, "uri": f"{S3}{path}/{name}"} for name in shown], schema=MANIFEST_SCHEMA)
