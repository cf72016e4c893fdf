"""Progress in a file or a pipe."""

from __future__ import annotations

import time

import pytest

from reelscribe.pipeline import console


@pytest.mark.parametrize(("first", "left"), [(1, "0:01:20"), (51, "0:00:30")])
def test_what_an_earlier_run_did_says_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: int, left: str
) -> None:
    """One a second; the line comes every ten seconds."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(console, "note", print)
    with console.progress("training") as advance:
        for done in range(first, first + 20):
            now += 1
            advance(done, 100, "epoch 1")
    assert capsys.readouterr().out.splitlines()[-1] == f"training: {first + 19} of 100, about {left} left, epoch 1"
