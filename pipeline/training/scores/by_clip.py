"""How well a model did, clip by clip, where a clip has not just one label; more is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reelscribe.pipeline.answers import AnyPrediction, FramesPrediction, LabelsPrediction, ValuePrediction
from reelscribe.pipeline.errors import UsageError
from reelscribe.pipeline.fields import labels_of
from reelscribe.pipeline.training.scores.captions import CaptionScores
from reelscribe.pipeline.training.scores.evaluation import Evaluation
from reelscribe.pipeline.training.tasks import TASKS


def clip_scores(evaluation: Evaluation) -> dict[str, float]:
    """By video id: F1 of a clip's labels, the error of its value (negative), the share of its frames that are right, or CIDEr-D.

    Raises UsageError for the task of a single label, where a clip is right or wrong.
    """
    if isinstance(evaluation.scores, CaptionScores):
        return dict(zip(evaluation.predictions, map(float, evaluation.scores.by_clip["cider"]), strict=True))
    return {video_id: _score(found, evaluation.truth[video_id], evaluation.labels) for video_id, found in evaluation.predictions.items()}


def _score(found: AnyPrediction, row: Mapping[str, Any], labels: tuple[str, ...]) -> float:
    match found:
        case LabelsPrediction():
            said, true = set(found.labels), set(labels_of(row, "multi_label"))
            return 2 * len(said & true) / (len(said) + len(true)) if said or true else 1.0
        case ValuePrediction():
            return -abs(found.value - float(row["value"]))
        case FramesPrediction():
            target: Any = TASKS["dense"].target(row, labels, [found.times_s])
            return float((found.classes == np.array(target[0])).mean())
        case _:
            raise UsageError("a clip with one label is right or wrong: it has no score")
