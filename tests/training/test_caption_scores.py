"""Scores of captions against the figures of the field's reference code on real predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optional import lacking
from reelscribe.pipeline.training.scores.calibration import fit_confidence
from reelscribe.pipeline.training.scores.captions import CaptionScores, caption_scores, with_meteor


@pytest.fixture(scope="module")
def oracle(shared_data: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((shared_data / "msvd" / "metric_oracle.json").read_text(encoding="utf-8"))
    return content


def scored(oracle: dict[str, Any]) -> CaptionScores:
    items = oracle["items"]
    return caption_scores([item["candidate"] for item in items], [item["references"] for item in items], can_say=lambda word: word != "a")


def test_the_corpus_and_every_item_equal_the_reference(oracle: dict[str, Any]) -> None:
    found = scored(oracle)
    for name in ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider"):
        assert found.metrics[name] == pytest.approx(oracle["corpus"][name], abs=1e-6), name
    for name in ("rouge_l", "cider"):
        assert found.by_clip[name].tolist() == pytest.approx([item[name] for item in oracle["items"]], abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_meteor_equals_the_reference(oracle: dict[str, Any]) -> None:
    if not shutil.which("java"):
        lacking("METEOR needs Java (default-jre-headless)")
    items = oracle["items"]
    found = with_meteor(scored(oracle), [item["candidate"] for item in items], [item["references"] for item in items])
    assert found.metrics["meteor"] == pytest.approx(oracle["corpus"]["meteor"], abs=1e-6)
    assert found.by_clip["meteor"].tolist() == pytest.approx([item["meteor"] for item in items], abs=1e-6)
    assert not found.notes


def test_without_java_meteor_is_named_as_not_computed(oracle: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    without = with_meteor(scored(oracle), ["a"], [["a"]])
    assert without.notes == {"meteor": "not computed: needs Java"}
    assert "meteor" not in without.metrics


def test_a_java_that_fails_takes_no_other_score_along(oracle: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = with_meteor(scored(oracle), ["a"], [["a"]])
    assert found.notes["meteor"].startswith("not computed: Java failed (")
    assert found.metrics["cider"] > 0
    assert "meteor" not in found.metrics


def test_the_other_figures(oracle: dict[str, Any]) -> None:
    said = ["a dog runs", "a dog runs", "a cat"]
    references = [["a dog runs", "the dog runs"], ["a man"], ["a cat sits", "a man"]]
    found = caption_scores(said, references, can_say=lambda word: word not in ("the", "sits")).metrics
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["distinct1"] == pytest.approx(4 / 8)  # a, dog, runs, cat of eight words
    assert found["distinct2"] == pytest.approx(3 / 5)
    assert found["length"] == pytest.approx(8 / 3)
    assert found["unseen_words"] == pytest.approx(2 / 13)
    constant = caption_scores(["a man"] * 3, references, can_say=bool).metrics["cider"]
    assert found["one_caption_cider"] == constant
    assert scored(oracle).metrics["unseen_words"] > 0.1


def test_intervals_hold_the_figure_and_shrink_with_more_clips(oracle: dict[str, Any]) -> None:
    found = scored(oracle)
    items = oracle["items"] * 4
    more = caption_scores([item["candidate"] for item in items], [item["references"] for item in items], can_say=bool)
    for name, (low, high) in found.intervals.items():
        assert low <= found.metrics[name] <= high, name
        assert more.intervals[name][1] - more.intervals[name][0] < 0.7 * (high - low), name  # half, of four times the clips


@settings(max_examples=10, deadline=None)
@given(slope=st.floats(0.5, 8), offset=st.floats(-1, 3), seed=st.integers(0, 100))
def test_a_confidence_that_was_drawn_is_found_again(slope: float, offset: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    given = -random.exponential(0.5, 4000)
    right = random.random(4000) < 1 / (1 + np.exp(-(slope * given + offset)))
    found = fit_confidence(given, right)
    true, fitted = (1 / (1 + np.exp(-(a * given + b))) for a, b in ((slope, offset), found))
    assert np.abs(true - fitted).mean() < 0.04


def test_no_clip_right_gives_no_confidence_of_zero() -> None:
    slope, offset = fit_confidence(np.array([-0.5, -1.0, -2.0]), np.array([False] * 3))
    assert 0.02 < 1 / (1 + np.exp(-(slope * -1.0 + offset))) < 0.4
