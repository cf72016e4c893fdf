"""One field of a label file -> its value, or a ValueError in words; and what a clip's fields say of it, for each task."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from reelscribe.pipeline.config import Task
from reelscribe.pipeline.vocabulary import normalise

SEPARATOR = "|"  # between the labels of a clip that has several
BACKGROUND = "background"  # the label of all time that no segment covers


def text(value: Any, what: str) -> str:
    """Text as it stands; whole numbers as their digits; nothing as an empty text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas writes NaN for a missing text
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"the {what} is {json.dumps(value, default=str)}, expected text")
    found = str(value)
    if "\0" in found or not (found.isascii() or all(c < "\ud800" or c > "\udfff" for c in found)):
        raise ValueError(f"the {what} {found!r} holds a character that no file or table can hold")
    return found


def label(value: Any) -> str:
    """One label, in Unicode NFC and without blanks at its ends."""
    return unicodedata.normalize("NFC", text(value, "label").strip())


def labels(value: Any) -> str:
    """Any number of labels, each once, between bars; a list (JSON Lines, Parquet) or a text with bars. None at all is an empty text."""
    if value is None or value == "":  # a million rows of a labelling job have none
        return ""
    if not isinstance(value, list):
        return SEPARATOR.join(dict.fromkeys(filter(None, (label(one) for one in text(value, "label").split(SEPARATOR)))))
    for one in value:
        if SEPARATOR in text(one, "label"):
            raise ValueError(f"the label {one!r} of a list holds a '{SEPARATOR}', which stands between labels")
    return labels(SEPARATOR.join(text(one, "label") for one in value))


def segments(value: Any) -> list[dict[str, Any]]:
    """Parts of a file with a label each, as a list (or its JSON) of ``[start_s, end_s, label]``; sorted, and apart from each other."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        parts = [(one["start_s"], one["end_s"], one["label"]) if isinstance(one, dict) else tuple(one) for one in found]
        rows: list[dict[str, Any]] = [
            {"start_s": number(start, "start"), "end_s": number(end, "end"), "label": label(name)} for start, end, name in parts
        ]
    except (TypeError, KeyError, json.JSONDecodeError):
        raise ValueError(f'the segments are {value!r}, expected [[0.5, 2, "open"], ...], or [] for a clip without any') from None
    rows.sort(key=lambda row: row["start_s"])
    before = 0.0
    for row in rows:
        if not row["label"]:
            raise ValueError("a segment has no label")
        if not before <= row["start_s"] < row["end_s"]:
            raise ValueError(f"the segment from {row['start_s']:g} s to {row['end_s']:g} s starts before {before:g} s, or has no length")
        before = row["end_s"]
    return rows


def captions(value: Any) -> list[str]:
    """One caption, or a list of them; normalised, each with a word or more."""
    found = [text(one, "caption") for one in (value if isinstance(value, list) else [value])]
    if not found:
        raise ValueError("there is no caption")
    for one in found:
        if not normalise(one):
            raise ValueError(f"the caption {one!r} has no word" if one.strip() else "the caption is empty")
    return [normalise(one) for one in found]


def seconds(value: Any, what: str) -> float | None:
    """Seconds from 0, or None where nothing is given."""
    try:
        found = _number(value)
    except ValueError:
        raise ValueError(f"the {what} is {value!r}, expected seconds, e.g. 12.5") from None
    if found is not None and not 0 <= found < math.inf:
        raise ValueError(f"the {what} is {value!r}, expected seconds from 0 on")
    return found


def number(value: Any, what: str) -> float:
    """A finite number."""
    try:
        found = _number(value)
    except ValueError:
        found = math.nan
    if found is None:
        raise ValueError(f"the {what} is empty")
    if not math.isfinite(found):
        raise ValueError(f"the {what} is {value!r}, expected a number, e.g. 12.5")
    return found


def _number(value: Any) -> float | None:
    """None for nothing and for NaN."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        found = float("no" if isinstance(value, bool) else value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return None if math.isnan(found) else found


def labels_of(row: Mapping[str, Any], task: Task) -> tuple[str, ...]:
    """The labels that a row of a manifest has under a task; none where the task has no labels."""
    match task:
        case "single_label":
            return (row["label"],)
        case "multi_label":
            return tuple((row["label"] or "").split(SEPARATOR)) if row["label"] else ()
        case "value" | "caption":
            return ()
        case "dense":
            return (BACKGROUND, *(segment["label"] for segment in row["segments"]))
