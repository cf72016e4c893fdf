"""A model ready to answer, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from reelscribe.pipeline.answers import AnyPrediction, read_frames, read_logits
from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.runtimes.engines import open_engine
from reelscribe.pipeline.runtimes.graphs import FloatArray, graph_of
from reelscribe.pipeline.runtimes.names import GraphRuntime, Runtime
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.types import seconds_between


class AnyPredictor(Protocol):
    """Clips to predictions; a clip's answer never depends on its neighbours."""

    def __call__(self, clips: Sequence[Clip]) -> list[AnyPrediction]:
        """One prediction per clip."""


class GraphPredictor:
    """A model's exported graph in a runtime that is not torch."""

    def __init__(self, bundle: ModelBundle, runtime: GraphRuntime) -> None:
        self.bundle = bundle
        self._engine = open_engine(graph_of(bundle), runtime)

    def __call__(self, clips: Sequence[Clip]) -> list[AnyPrediction]:
        """One prediction per clip; all views of all clips run side by side."""
        views = [(view.pixels, seconds_between(view.pts_seconds)) for clip in clips for view in clip.views]
        said = iter(self._engine(views))
        return [self._read(clip, [next(said) for _ in clip.views]) for clip in clips]

    def _read(self, clip: Clip, logits: list[FloatArray]) -> AnyPrediction:
        if self.bundle.spec.task == "dense":
            return read_frames(logits[0], [time - clip.info.begin_s for time in clip.views[0].pts_seconds], self.bundle.spec.labels)
        return read_logits(np.stack(logits), self.bundle.spec)


def open_predictor(bundle: ModelBundle, *, runtime: Runtime, device: str) -> AnyPredictor:
    """Load a model into a runtime; only those of torch import torch. Raises UsageError for a device that is not here."""
    match runtime:
        case "torch" | "torch-compile":
            from reelscribe.pipeline.predictor import Predictor

            return Predictor(bundle, device, compiled=runtime == "torch-compile")
        case _:
            return GraphPredictor(bundle, runtime)
