"""Captions with times -> a subtitle file that players open: SubRip (.srt) or WebVTT (.vtt, https://www.w3.org/TR/webvtt1/)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

SubtitleFormat = Literal["srt", "vtt"]


class Cue(NamedTuple):
    """One caption and when it is shown, in seconds from the first frame of the file."""

    start_s: float
    end_s: float
    text: str


def subtitles(cues: Iterable[Cue], kind: SubtitleFormat) -> str:
    """The content of a subtitle file, its cues in the order of time. Raises ValueError for a cue that ends before it begins.

    Neighbours that say the same become one cue; the text of a cue is one line, and none of it is markup.
    """
    return _WRITERS[kind](_merged(sorted(cues)))


def _merged(cues: Iterable[Cue]) -> list[Cue]:
    found: list[Cue] = []
    for cue in cues:
        if not 0 <= cue.start_s <= cue.end_s:
            raise ValueError(f"a cue from {cue.start_s:g} s to {cue.end_s:g} s: expected 0 <= start <= end")
        text = " ".join(cue.text.split())
        if found and found[-1].text == text and cue.start_s - found[-1].end_s < 0.0005:  # the files' own precision
            found[-1] = found[-1]._replace(end_s=max(cue.end_s, found[-1].end_s))
        elif text:
            found.append(cue._replace(text=text))
    return found


def _srt(cues: list[Cue]) -> str:
    shown = [plain for cue in cues if (plain := cue._replace(text=_plain(cue.text))).text]  # a bracket alone leaves nothing
    parts = [f"{i}\n{_clock(c.start_s, ',')} --> {_clock(c.end_s, ',')}\n{c.text}\n" for i, c in enumerate(shown, start=1)]
    return "\n".join(parts)


def _vtt(cues: list[Cue]) -> str:
    parts = [f"{_clock(c.start_s, '.')} --> {_clock(c.end_s, '.')}\n{_escaped(c.text)}\n" for c in cues]
    return "\n".join(["WEBVTT\n", *parts])


def _plain(text: str) -> str:
    """SubRip knows no escapes: what players would take for a tag or a time loses its brackets."""
    return " ".join(re.sub(r"[<>{}]", "", text.replace("-->", "->")).split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    """``00:01:02,345``."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"


_WRITERS: dict[SubtitleFormat, Callable[[list[Cue]], str]] = {"srt": _srt, "vtt": _vtt}
