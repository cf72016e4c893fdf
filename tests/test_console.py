"""Progress in a file or a pipe."""

from __future__ import annotations

import time

import pytest

from reelscribe.pipeline import console


@pytest.mark.parametrize(("first", "left"), [(1, "0:01:29"), (51, "0:00:39")])
def test_what_came_before_the_first_word_says_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: int, left: str
) -> None:
    """One a second, after half a minute in which a cluster starts; a line every ten seconds."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(console, "note", print)
    with console.progress("training") as advance:
        now += 30
        for done in range(first, first + 20):
            now += 1
            advance(done, 100, "epoch 1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"training: {first} of 100, epoch 1"
    assert lines[1] == f"training: {first + 10} of 100, about {left} left, epoch 1"
