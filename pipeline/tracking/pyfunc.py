"""A registered model as MLflow's pyfunc: a table of videos in, a table of what it says of them out.

MLflow imports this module by name and hands it the model folder, so nothing is unpickled. ``mlflow models serve`` and
``mlflow.pyfunc.load_model(...).predict(table)`` both end here. A video that cannot be used is a row with its failure, never an
exception: the other rows of the table are as good as before.
"""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.config import Task, usable_cores
from reelscribe.pipeline.errors import VideoError

if TYPE_CHECKING:
    import pandas
    from mlflow.models import ModelSignature

    from reelscribe.pipeline.answers import AnyPrediction
    from reelscribe.pipeline.bundle import ModelBundle
    from reelscribe.pipeline.video.clip import ClipRequest

_MAX_WORKERS = 4
_ANSWERS: dict[Task, tuple[str, ...]] = {
    "single_label": ("label", "confidence", "top_k"),
    "multi_label": ("labels", "top_k"),
    "value": ("value",),
    "dense": ("segments",),
    "caption": ("label", "confidence", "top_k"),
}
_NUMBERS = ("confidence", "value")


class VideoLabeller:
    """What ``mlflow.pyfunc.load_model`` wraps: ``predict`` on tables."""

    def __init__(self, bundle: ModelBundle) -> None:
        from reelscribe.pipeline.predictor import Predictor
        from reelscribe.pipeline.video.sandbox.pool import DecodePool

        self.bundle = bundle
        self._predictor = Predictor(bundle)
        # the workers live as long as this object: a server would otherwise start them anew for every request
        resources = contextlib.ExitStack()
        self._pool = resources.enter_context(DecodePool(workers=min(usable_cores(), _MAX_WORKERS)))
        weakref.finalize(self, resources.close)

    def predict(self, table: pandas.DataFrame, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """Say what there is to say of every row, in order.

        In: ``uri`` (string) and, where only a part counts, ``start_s`` and ``end_s`` (seconds; null means the file's begin and
        end). Out: ``uri``; by the model's task ``label`` and ``confidence`` (0 to 1), ``labels`` (JSON list), ``value``, or ``segments``
        (JSON list of [start_s, end_s, label, confidence]); with labels ``top_k`` (JSON list of [label, probability], most probable
        first); ``failure`` and ``cause``. What a row does not have is None. Clips are decoded in worker processes, so a file that hangs or
        kills a decoder costs its time limit and no more. No parameters are known.
        """
        import pandas

        if params:
            raise ValueError(f"this model takes no parameters, got {', '.join(sorted(params))}")
        requests = [(i, self._request(row)) for i, row in enumerate(table.to_dict("records"))]
        rows: list[dict[str, Any]] = [{} for _ in requests]
        for index, outcome in self._pool.map(requests):
            rows[index] = self._row(requests[index][1].uri, outcome)
        # as objects, so that what is missing is None: NaN would be written into the answer of a server, and it is no JSON
        return pandas.DataFrame(rows, columns=list(columns(self.bundle.spec.task)), dtype=object)

    def _request(self, row: Mapping[Any, Any]) -> ClipRequest:
        return self.bundle.request(str(row["uri"]), _seconds(row.get("start_s")), _seconds(row.get("end_s")))

    def _row(self, uri: str, outcome: Any) -> dict[str, Any]:
        row = dict.fromkeys(columns(self.bundle.spec.task)) | {"uri": uri}
        if isinstance(outcome, VideoError):
            return row | {"failure": outcome.failure, "cause": str(outcome)}
        (prediction,) = self._predictor([outcome])
        return row | _answer(prediction)


def _answer(prediction: AnyPrediction) -> dict[str, Any]:
    from reelscribe.pipeline.answers import FramesPrediction, LabelsPrediction, Prediction, ValuePrediction

    match prediction:
        case Prediction():
            return {"label": prediction.label, "confidence": prediction.confidence, "top_k": _json(prediction.top_k)}
        case LabelsPrediction():
            return {"labels": _json(prediction.labels), "top_k": _json(prediction.top_k)}
        case ValuePrediction():
            return {"value": prediction.value}
        case FramesPrediction():
            return {"segments": _json(prediction.segments)}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _seconds(value: Any) -> float | None:
    """A number of seconds; None for null and NaN, which is how pandas writes null."""
    return None if value is None or value != value else float(value)


def columns(task: Task) -> tuple[str, ...]:
    """What a table of answers has."""
    return ("uri", *_ANSWERS[task], "failure", "cause")


def signature(task: Task) -> ModelSignature:
    """The columns in and out, for MLflow."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("string", "uri"), ColSpec("double", "start_s", required=False), ColSpec("double", "end_s", required=False)]),
        outputs=Schema([ColSpec("double" if name in _NUMBERS else "string", name, required=name == "uri") for name in columns(task)]),
    )


def input_example() -> pandas.DataFrame:
    """A table that shows the form of a request; the file need not exist."""
    import pandas

    return pandas.DataFrame({"uri": ["videos/clip.mp4"], "start_s": [0.0], "end_s": [2.5]})


def _load_pyfunc(path: str) -> VideoLabeller:
    """MLflow's entry: the model folder at ``path``, ready to predict."""
    from reelscribe.pipeline.bundle import load_bundle

    return VideoLabeller(load_bundle(Path(path)))
