"""Predictions of every task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reelscribe.pipeline.answers import AnyPrediction


def prediction(found: AnyPrediction) -> dict[str, Any]:
    """A prediction of any task as JSON."""
    from reelscribe.pipeline.answers import CaptionPrediction, FramesPrediction, LabelsPrediction, Prediction, ValuePrediction

    match found:
        case CaptionPrediction():
            return {"caption": found.label, "confidence": found.confidence, "accepted": found.accepted}
        case Prediction():
            return {"label": found.label, "confidence": found.confidence, "accepted": found.accepted}
        case LabelsPrediction():
            return {"labels": list(found.labels)}
        case ValuePrediction():
            return {"value": found.value}
        case FramesPrediction():
            return {"segments": [segment._asdict() for segment in found.segments]}
