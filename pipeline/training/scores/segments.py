"""What labels per frame are worth: by frame, and by the segments that they make (Lea et al., arXiv 1611.05267).

A segment is a run of equal labels. Counting frames alone, a prediction that flickers looks as good as one that is steady; the edit score
and the overlap F1 see the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.integer]  # (T,) a class per frame
OVERLAPS = (10, 25, 50)  # percent of intersection over union


class Segment(NamedTuple):
    """Frames ``start`` up to and without ``end`` that have one label."""

    label: int
    start: int
    end: int


def dense_scores(predicted: Sequence[Frames], true: Sequence[Frames], *, background: int | None = None) -> dict[str, float]:
    """``frame_accuracy``, ``edit``, ``f1_10``, ``f1_25`` and ``f1_50``, all from 0 to 1, over clips of any lengths.

    Frames and segments are counted over all clips, the edit score is the mean over clips. ``background`` is a class whose segments do not
    count. Raises ValueError for no clips, or clips whose numbers of frames differ.
    """
    if not true or len(predicted) != len(true) or any(len(p) != len(t) or not len(t) for p, t in zip(predicted, true, strict=True)):
        raise ValueError(f"{len(predicted)} clips predicted, {len(true)} true: expected as many, of as many frames each, and at least one")
    pairs = [(_segments(p, background), _segments(t, background)) for p, t in zip(predicted, true, strict=True)]
    scores = {
        "frame_accuracy": float(np.mean(np.concatenate(predicted) == np.concatenate(true))),
        "edit": float(np.mean([_edit(p, t) for p, t in pairs])),
    }
    for overlap in OVERLAPS:
        hits = sum(_hits(p, t, overlap / 100) for p, t in pairs)
        count = sum(len(p) + len(t) for p, t in pairs)
        scores[f"f1_{overlap}"] = 2 * hits / count if count else 1.0
    return scores


def _segments(frames: Frames, background: int | None) -> list[Segment]:
    found, start = [], 0
    for label, run in groupby(frames.tolist()):
        end = start + len(list(run))
        if label != background:
            found.append(Segment(label, start, end))
        start = end
    return found


def _edit(predicted: list[Segment], true: list[Segment]) -> float:
    """One less the edit distance (Levenshtein) of the two orders of labels, as a share of the longer."""
    if not predicted and not true:
        return 1.0
    row = list(range(len(true) + 1))
    for i, p in enumerate(predicted, start=1):
        above, row[0] = row[0], i
        for j, t in enumerate(true, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (p.label != t.label))
    return 1 - row[-1] / max(len(predicted), len(true))


def _hits(predicted: list[Segment], true: list[Segment], overlap: float) -> int:
    """Predicted segments whose best true one of the same label overlaps enough; each true one is hit once, by the first."""
    hit: set[Segment] = set()
    for p in predicted:
        best = max((t for t in true if t.label == p.label), key=lambda t: _overlap(p, t), default=None)
        if best is not None and _overlap(p, best) >= overlap:
            hit.add(best)
    return len(hit)


def _overlap(a: Segment, b: Segment) -> float:
    """Intersection over union."""
    intersection = max(0, min(a.end, b.end) - max(a.start, b.start))
    return intersection / (a.end - a.start + b.end - b.start - intersection)
