"""A registered model as MLflow's pyfunc: a table of videos in, a table of labels out.

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

from reelscribe.pipeline.config import usable_cores
from reelscribe.pipeline.errors import VideoError

if TYPE_CHECKING:
    import pandas
    from mlflow.models import ModelSignature

    from reelscribe.pipeline.bundle import ModelBundle
    from reelscribe.pipeline.video.clip import ClipRequest

_MAX_WORKERS = 4
COLUMNS = ("uri", "label", "confidence", "top_k", "failure", "cause")


class VideoLabeller:
    """What ``mlflow.pyfunc.load_model`` wraps: ``predict`` on tables."""

    def __init__(self, bundle: ModelBundle) -> None:
        from reelscribe.pipeline.predictor import Predictor
        from reelscribe.pipeline.video.sandbox.pool import DecodePool

        bundle.spec.require_single_label("MLflow's pyfunc")
        self.bundle = bundle
        self._predictor = Predictor(bundle)
        # the workers live as long as this object: a server would otherwise start them anew for every request
        resources = contextlib.ExitStack()
        self._pool = resources.enter_context(DecodePool(workers=min(usable_cores(), _MAX_WORKERS)))
        weakref.finalize(self, resources.close)

    def predict(self, table: pandas.DataFrame, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """Label every row, in order.

        In: ``uri`` (string) and, where only a part counts, ``start_s`` and ``end_s`` (seconds; null means the file's begin and
        end). Out: ``uri``, ``label``, ``confidence`` (0 to 1), ``top_k`` (JSON list of [label, probability], most probable
        first), ``failure`` and ``cause``; what a row does not have is None. Clips are decoded in worker processes, so a file that hangs or
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
        return pandas.DataFrame(rows, columns=list(COLUMNS), dtype=object)

    def _request(self, row: Mapping[Any, Any]) -> ClipRequest:
        return self.bundle.request(str(row["uri"]), _seconds(row.get("start_s")), _seconds(row.get("end_s")))

    def _row(self, uri: str, outcome: Any) -> dict[str, Any]:
        from reelscribe.pipeline.predictor import Prediction

        if isinstance(outcome, VideoError):
            return {"uri": uri, "label": None, "confidence": None, "top_k": None, "failure": outcome.failure, "cause": str(outcome)}
        (prediction,) = self._predictor([outcome])
        assert isinstance(prediction, Prediction)  # as the model has this task
        return {
            "uri": uri,
            "label": prediction.label,
            "confidence": prediction.confidence,
            "top_k": json.dumps(prediction.top_k, ensure_ascii=False),
            "failure": None,
            "cause": None,
        }


def _seconds(value: Any) -> float | None:
    """A number of seconds; None for null and NaN, which is how pandas writes null."""
    return None if value is None or value != value else float(value)


def signature() -> ModelSignature:
    """The columns in and out, for MLflow."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("string", "uri"), ColSpec("double", "start_s", required=False), ColSpec("double", "end_s", required=False)]),
        outputs=Schema([ColSpec("double" if name == "confidence" else "string", name, required=name == "uri") for name in COLUMNS]),
    )


def input_example() -> pandas.DataFrame:
    """A table that shows the form of a request; the file need not exist."""
    import pandas

    return pandas.DataFrame({"uri": ["videos/clip.mp4"], "start_s": [0.0], "end_s": [2.5]})


def _load_pyfunc(path: str) -> VideoLabeller:
    """MLflow's entry: the model folder at ``path``, ready to predict."""
    from reelscribe.pipeline.bundle import load_bundle

    return VideoLabeller(load_bundle(Path(path)))
