"""The drawn sentences: what the pictures show is what the captions say, and what is held out is never learnt."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from reelscribe.pipeline.drawing.sentences import COLOURS, DIRECTIONS, PARTS, Part, Sentence, draw_clip, draw_sentence_dataset
from reelscribe.pipeline.errors import OutputConflictError


def shown(frames: np.ndarray) -> list[tuple[str, str]]:
    """Colour and direction of what moves in each half, judged by the pixels near each colour."""
    middle = len(frames) // 2
    found = []
    for first, last in ((0, middle - 1), (middle, len(frames) - 1)):
        moves = []
        for name, colour in COLOURS.items():
            near = [np.abs(frames[i].astype(int) - colour).max(axis=2) < 45 for i in (first, last)]
            if min(part.sum() for part in near) > 60:
                changed = (near[0] ^ near[1]).mean()
                (y0, x0), (y1, x1) = (np.argwhere(part).mean(axis=0) for part in near)
                moves.append((changed, name, x1 - x0, y1 - y0))
        _, name, right, down = max(moves)
        axis = ("left", "right") if abs(right) > abs(down) else ("up", "down")
        found.append((name, axis[int((right if axis[0] == "left" else down) > 0)]))
    return found


def test_the_clip_shows_the_sentence() -> None:
    rng = np.random.default_rng(5)
    parts = [PARTS[i] for i in rng.permutation(len(PARTS))]
    pairs = [Sentence(a, b) for a, b in zip(parts[:24], parts[24:], strict=True) if a.colour != b.colour]
    for sentence in pairs:
        frames = draw_clip(sentence, rng)
        assert frames.shape[1:] == (96, 128, 3)
        assert shown(frames) == [(part.colour, part.direction) for part in sentence], str(sentence)
    assert str(Sentence(Part("red", "square", "left"), Part("blue", "circle", "up"))) == (
        "a red square moves left and then a blue circle moves up"
    )


def test_of_each_part_held_out_any_two_words_are_learnt() -> None:
    held_out, learnt = [p for p in PARTS if p.is_held_out], [p for p in PARTS if not p.is_held_out]
    assert len(held_out) >= 4
    for part in held_out:
        for left_out in range(3):
            rest = [name for i, name in enumerate(part) if i != left_out]
            assert any(rest == [name for i, name in enumerate(other) if i != left_out] for other in learnt)
    assert {part.direction for part in held_out} == set(DIRECTIONS)


def digests(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_the_files_are_what_the_tables_say(tmp_path: Path) -> None:
    manifest = draw_sentence_dataset(tmp_path / "one", num_videos=24)
    assert digests(tmp_path / "one") == digests(draw_sentence_dataset(tmp_path / "two", num_videos=24).parent)
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with manifest.with_name("truth.csv").open(newline="", encoding="utf-8") as file:
        truth = list(csv.DictReader(file))
    assert [len([r for r in rows if r["split"] == s]) for s in ("train", "val", "test")] == [18, 2, 2]
    assert len(truth) == 2
    held_out = [str(part) for part in PARTS if part.is_held_out]
    for row in rows + truth:
        assert (manifest.parent / row["path"]).stat().st_size > 0
        assert any(part in row["caption"] for part in held_out) == (row.get("split", "test") == "test")
    assert len({row["caption"] for row in rows + truth}) == 24
    with pytest.raises(OutputConflictError):
        draw_sentence_dataset(tmp_path / "one", num_videos=36)
