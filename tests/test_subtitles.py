"""Subtitle files as FFmpeg reads them, through PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reelscribe.pipeline.subtitles import Cue, SubtitleFormat, subtitles

CUES = [
    Cue(3661.5, 3662.25, "an hour later, a man\n\nsings"),
    Cue(0.0, 2.0, "a dog & a cat <b>run</b>"),
    Cue(2.0, 4.0004, "a cat sits"),
    Cue(4.0, 6.0, "a cat sits"),
]


def read(file: Path) -> list[tuple[float, float, str]]:
    found = []
    with av.open(str(file)) as container:
        for packet in container.demux(subtitles=0):
            if packet.pts is not None and packet.duration and packet.time_base:
                begin = float(packet.pts * packet.time_base)
                found.append((begin, begin + float(packet.duration * packet.time_base), bytes(packet).decode()))
    return found


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_a_player_reads_times_and_texts(tmp_path: Path, kind: SubtitleFormat) -> None:
    file = tmp_path / f"a.{kind}"
    file.write_text(subtitles(CUES, kind), encoding="utf-8")
    found = read(file)
    times = [time for begin, end, _ in found for time in (begin, end)]
    assert times == pytest.approx([0, 2, 2, 6, 3661.5, 3662.25], abs=1e-3)
    texts = [text for *_, text in found]
    assert texts[1:] == ["a cat sits", "an hour later, a man sings"]
    assert texts[0] == {"srt": "a dog & a cat brun/b", "vtt": "a dog &amp; a cat &lt;b&gt;run&lt;/b&gt;"}[kind]


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 50), st.text(max_size=20)), max_size=6))
@example([(0.0, 1.0, "<"), (2.0, 1.0, "{ }")])
def test_every_text_stays_inside_its_cue(given: list[tuple[float, float, str]]) -> None:
    cues = [Cue(start, start + length, text) for start, length, text in given]
    for kind in ("srt", "vtt"):
        blocks = [block for block in subtitles(cues, kind).split("\n\n") if block.strip()]  # type: ignore[arg-type]
        assert sum("-->" in block.split("\n")[0 if kind == "vtt" else 1] for block in blocks[kind == "vtt" :]) == len(
            blocks[kind == "vtt" :]
        )
        assert all(len(block.strip().split("\n")) == (2 if kind == "vtt" else 3) for block in blocks[kind == "vtt" :])


def test_a_cue_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="from 3 s to 2 s"):
        subtitles([Cue(3, 2, "x")], "srt")
