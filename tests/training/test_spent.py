"""Where the time went, and what that says."""

from __future__ import annotations

import re

import pytest

from reelscribe.pipeline.training.progress import Speed
from reelscribe.pipeline.training.spent import TimeSpent, time_spent

EPOCH = Speed(clips=100, training_s=4.0, loading_s=1.0, validation_s=1.0, storing_s=0.5)


def test_an_epoch_in_figures() -> None:
    assert EPOCH.metrics == {"epoch_s": 5.0, "samples_per_s": 25.0, "waiting_share": 0.25}
    assert Speed(clips=0, training_s=0, loading_s=0, validation_s=0, storing_s=0).samples_per_s == 0


def test_seconds_are_counted_once() -> None:
    spent = time_spent(3.0, [EPOCH, EPOCH], 2.0)
    assert spent == TimeSpent(decoding_s=3.0, computing_s=8.0, loading_s=2.0, storing_s=3.0, clips=200)
    assert sum(spent.metrics.values()) == 3.0 + 2 * (EPOCH.seconds + EPOCH.storing_s) + 2.0
    assert spent.samples_per_s == pytest.approx(200 / 13)


@pytest.mark.parametrize(
    ("spent", "words"),
    [
        ((9, 1, 0, 0), r"bound by decoding \(decoding 90 %, computing 10 %, .*decode\.workers"),
        ((1, 9, 0, 0), r"bound by computing .*training\.workers"),
        ((1, 1, 9, 0), r"bound by reading stored arrays .*output=FOLDER"),
        ((0, 1, 0, 9), r"bound by storing .*training\.checkpoint"),
        ((0, 0, 0, 0), "nothing was left to do"),
    ],
)
def test_the_verdict(spent: tuple[float, ...], words: str) -> None:
    decoding, computing, loading, storing = spent
    found = TimeSpent(decoding_s=decoding, computing_s=computing, loading_s=loading, storing_s=storing, clips=1)
    assert re.match(words, found.verdict), found.verdict
