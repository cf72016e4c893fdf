"""What an evaluation of captions shows beside its figures: their intervals, and the worst and best captions."""

from __future__ import annotations

from typing import Any

from reelscribe.pipeline.console import print_table, say
from reelscribe.pipeline.training.scores.captions import CaptionScores
from reelscribe.pipeline.training.scores.captions import extremes as worst_and_best
from reelscribe.pipeline.training.scores.evaluation import Evaluation
from reelscribe.pipeline.training.scores.metrics import AnyScores

_SHOWN_CAPTIONS = 3  # worst, and as many best


def metrics(scores: AnyScores) -> None:
    """One line a metric; of captions with its interval, and why one is not there."""
    rows = [(name, f"{value:.4g}") for name, value in scores.metrics.items()]
    if not isinstance(scores, CaptionScores):
        print_table(["metric", "value"], rows)
        return
    spans = {name: f"{low:.4g} to {high:.4g}" for name, (low, high) in scores.intervals.items()}
    print_table(["metric", "value", "95 % interval"], [(*row, spans.get(row[0], "")) for row in (*rows, *scores.notes.items())])


def facts(scores: AnyScores) -> dict[str, Any]:
    """What JSON says of captions, and of nothing else."""
    return {"intervals": scores.intervals, "notes": scores.notes} if isinstance(scores, CaptionScores) else {}


def extremes(result: Evaluation, scores: CaptionScores) -> None:
    """The captions with the lowest and the highest CIDEr-D, beside one that a person wrote."""
    names = list(result.predictions)
    shown = worst_and_best(scores.by_clip["cider"], _SHOWN_CAPTIONS)
    found = result.captions()
    say("")
    rows = [(names[i], f"{scores.by_clip['cider'][i]:.3f}", found[names[i]].label, result.truth[names[i]]["captions"][0]) for i in shown]
    print_table(["worst and best", "cider", "said", "a person said"], rows)
