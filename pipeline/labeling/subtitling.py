"""Answers with times -> one subtitle file per video: of a whole job in its folder, of a few predictions beside their videos."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from reelscribe.pipeline.errors import UsageError
from reelscribe.pipeline.fields import BACKGROUND
from reelscribe.pipeline.labeling.folder import open_folder
from reelscribe.pipeline.report.rows import batches
from reelscribe.pipeline.subtitles import Cue, SubtitleFormat, subtitles

if TYPE_CHECKING:
    from reelscribe.pipeline.labeling.predict import Answer

SUBTITLE_FOLDER = "subtitles"
_ROWS_AT_ONCE = 10_000
_MAX_NAME = 200  # bytes of one part of a file's name; file systems take 255
_ANSWERS = ["label", "labels", "value", "segments"]
_COLUMNS = ["video_id", "uri", "window", "start_s", "end_s", "duration_s", *_ANSWERS]


def write_subtitles(out: str | Path, kind: SubtitleFormat) -> int:
    """Write ``subtitles/NAME.srt`` (or ``.vtt``) of every labelled file into a job's folder, anew; returns how many.

    NAME is the video's id without its suffix, or with it where two ids differ in nothing else.
    """
    folder, taken, count = open_folder(out), set[str](), 0
    for rows in _by_file(out):
        name = subtitle_name(rows[0]["video_id"], kind, taken)
        taken.add(name)
        folder.put(f"{SUBTITLE_FOLDER}/{name}", subtitles(_cues(rows), kind).encode())
        count += 1
    return count


def subtitle_name(video_id: str, kind: SubtitleFormat, taken: set[str]) -> str:
    """A relative path that is not ``taken``, and that cannot lead out of its folder, for whatever id."""
    plain = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://|#t=[\d.,]*$", "", video_id)
    parts = [_short("".join(c if c.isprintable() else "_" for c in part)) for part in plain.split("/") if part not in ("", ".", "..")]
    whole = "/".join(parts) or "video"
    names = [re.sub(r"(?<=[^/])\.[A-Za-z0-9]{1,5}$", "", whole), whole]
    number = 2
    while f"{names[0]}.{kind}" in taken:
        names = names[1:] or [f"{whole}-{number}"]
        number += len(names) == 1
    return f"{names[0]}.{kind}"


def places_beside(uris: Iterable[str], kind: SubtitleFormat) -> dict[str, Path]:
    """Where the subtitles of some videos go: beside a file, or into this folder for what lies in a store.

    Raises UsageError where a file of that name is there already: it may be somebody's work.
    """
    places: dict[str, Path] = {}
    for uri in dict.fromkeys(uris):
        place = Path(uri).with_suffix(f".{kind}") if "://" not in uri else Path(subtitle_name(Path(uri).name, kind, set()))
        if place.exists() or place in places.values():
            raise UsageError(f"{place} is there already; move it away, or label into a folder of its own: reelscribe label ... --subtitles")
        places[uri] = place
    return places


def write_beside(answers: Iterable[Answer], places: Mapping[str, Path], kind: SubtitleFormat) -> list[Path]:
    """Write the subtitles of a few answers; returns the files. A video without an answer has none."""
    from reelscribe.pipeline.labeling.stages import Failed, answer_fields

    rows: dict[str, list[dict[str, Any]]] = {}
    for answer in answers:
        video = answer.video
        if not isinstance(answer.outcome, Failed):
            said = dict.fromkeys(_ANSWERS) | answer_fields(answer.outcome, scores=False)
            times = {"window": video.window, "start_s": video.start_s, "end_s": video.end_s, "duration_s": answer.duration_s}
            rows.setdefault(video.uri, []).append(said | times)
    for uri, found in rows.items():
        try:
            places[uri].write_text(subtitles(_cues(found), kind), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {places[uri]}: {error.strerror or error}") from error
    return [places[uri] for uri in rows]


def _by_file(out: str | Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of each labelled file, in the order of time; as a table they are small, and only one part at a time is more than that."""
    parts = [pa.Table.from_batches([batch]) for batch in batches(out, "labels", _COLUMNS)]
    if not parts:
        return
    table = pa.concat_tables(parts).sort_by([("uri", "ascending"), ("start_s", "ascending")])
    rows = (row for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE) for row in batch.to_pylist())
    for _, group in groupby(rows, key=lambda row: row["uri"]):
        yield list(group)


def _cues(rows: list[dict[str, Any]]) -> Iterator[Cue]:
    """What is shown when; windows that overlap follow each other, each until the next begins."""
    starts = sorted({row["start_s"] for row in rows if row["window"] is not None})
    following = dict(pairwise(starts))
    for row in rows:
        start_s = row["start_s"] or 0.0
        end_s = row["duration_s"] if row["end_s"] is None else row["end_s"]
        if row["window"] is not None:
            end_s = min(end_s, following.get(start_s, end_s))
        if row["segments"] is not None:
            parts = (tuple(part.values()) if isinstance(part, dict) else part for part in row["segments"])
            yield from (Cue(start, end, label) for start, end, label, _ in parts if label != BACKGROUND)
        else:
            yield Cue(start_s, max(start_s, end_s), _text(row))


def _text(row: Mapping[str, Any]) -> str:
    if row["label"] is not None:
        return str(row["label"])
    return f"{row['value']:.4g}" if row["value"] is not None else ", ".join(row["labels"])


def _short(part: str) -> str:
    return part.encode()[:_MAX_NAME].decode(errors="ignore")
