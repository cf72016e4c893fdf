"""Scores of dense labels against hand-worked cases and brute force over frames."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelscribe.pipeline.training.scores.segments import dense_scores


def clip(text: str) -> np.ndarray:
    return np.array([ord(letter) for letter in text])


def scores(predicted: str, true: str, background: str | None = None) -> dict[str, float]:
    return dense_scores([clip(predicted)], [clip(true)], background=ord(background) if background else None)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ("aabbcc", "aabbcc", (1, 1, 1, 1, 1)),
        ("bbbbbb", "aaaaaa", (0, 0, 0, 0, 0)),
        # one flicker: orders aba and a, distance 2 of 3; the longer part of a overlaps 5/10, one hit of 3 + 1 segments
        ("aaaaabaaaa", "aaaaaaaaaa", (0.9, 1 / 3, 0.5, 0.5, 0.5)),
        # a late border: a overlaps 2/5, b 5/8
        ("aabbbbbbbb", "aaaaabbbbb", (0.7, 1, 1, 1, 0.5)),
        # the middle segment is missed: distance 1 of 3; a 4/6 and c 4/4 hit, 2 of 2 + 3 segments
        ("aaaaaacccc", "aaaabbcccc", (0.8, 2 / 3, 0.8, 0.8, 0.8)),
    ],
)
def test_worked_by_hand(predicted: str, true: str, expected: tuple[float, ...]) -> None:
    found = scores(predicted, true)
    assert list(found) == ["frame_accuracy", "edit", "f1_10", "f1_25", "f1_50"]
    assert tuple(found.values()) == pytest.approx(expected)


def test_segments_of_the_background_do_not_count() -> None:
    found = scores("a--b", "aa-b", background="-")
    assert found["edit"] == 1
    assert (found["f1_50"], found["frame_accuracy"]) == (1, 0.75)
    assert scores("--", "--", background="-")["f1_50"] == scores("--", "--", background="-")["edit"] == 1


def test_clips_are_counted_together_and_edits_averaged() -> None:
    found = dense_scores([clip("ab"), clip("cccccc")], [clip("ab"), clip("dddddd")])
    assert found == {"frame_accuracy": 0.25, "edit": 0.5, "f1_10": 4 / 6, "f1_25": 4 / 6, "f1_50": 4 / 6}


def runs(text: str) -> list[tuple[str, frozenset[int]]]:
    """Label and frames of each segment."""
    cuts = [0, *(i for i, (a, b) in enumerate(pairwise(text), start=1) if a != b), len(text)]
    return [(text[a], frozenset(range(a, b))) for a, b in pairwise(cuts)]


@cache
def distance(a: str, b: str) -> int:
    """Levenshtein's, by its definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))


def brute_force(predicted: str, true: str, overlap: float) -> tuple[float, float]:
    """Edit score and F1 as the field's script (github.com/colincsl/TemporalConvolutionalNetworks) counts them, over sets of frames."""
    p, t = runs(predicted), runs(true)
    hits, used = 0, [False] * len(t)
    for label, frames in p:
        shares = [len(frames & other) / len(frames | other) * (name == label) for name, other in t]
        best = int(np.argmax(shares))
        if shares[best] >= overlap and not used[best]:
            hits, used[best] = hits + 1, True
    a, b = "".join(label for label, _ in p), "".join(label for label, _ in t)
    precision, recall = hits / len(p), hits / len(t)
    return 1 - distance(a, b) / max(len(a), len(b)), 2 * precision * recall / (precision + recall) if hits else 0.0


@settings(deadline=None)
@given(st.integers(1, 14).flatmap(lambda n: st.tuples(*[st.text("abc", min_size=n, max_size=n)] * 2)))
def test_brute_force_agrees(pair: tuple[str, str]) -> None:
    found = scores(*pair)
    for overlap in (10, 25, 50):
        assert (found["edit"], found[f"f1_{overlap}"]) == pytest.approx(brute_force(*pair, overlap / 100))


@pytest.mark.parametrize(("predicted", "true"), [([], []), (["a"], ["ab"]), (["a"], ["a", "b"]), ([""], [""])])
def test_clips_that_do_not_pair_are_refused(predicted: list[str], true: list[str]) -> None:
    with pytest.raises(ValueError, match="expected as many"):
        dense_scores([clip(p) for p in predicted], [clip(t) for t in true])
