"""How answers are read: several views, temperature, threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.manifest import read_manifest
from reelscribe.pipeline.predictor import Predictor
from reelscribe.pipeline.sampling import DenseSampling
from reelscribe.pipeline.training.job import TrainingResult
from reelscribe.pipeline.training.scores.evaluation import Evaluation, evaluate, read_anew
from reelscribe.pipeline.video.sandbox.pool import DecodePool

VIEWS = 3


@pytest.fixture(scope="module")
def views(trained: TrainingResult, drawn: Path) -> tuple[ModelBundle, Evaluation]:
    """The tiny model on the test clips, each seen in three windows."""
    sampling = DenseSampling(num_frames=4, stride_s=0.1, num_views=VIEWS)
    bundle = ModelBundle(trained.bundle.folder, trained.bundle.spec.model_copy(update={"sampling": sampling, "precision": None}))
    rows = [row for row in read_manifest(str(drawn / "manifest.csv"), require_labels=True).to_pylist() if row["split"] == "test"]
    with DecodePool(1) as pool:
        return bundle, evaluate(Predictor(bundle, "cpu"), rows, pool=pool, decode=DecodeConfig(), progress=lambda *_: None)


def test_views_are_averaged_as_probabilities(views: tuple[ModelBundle, Evaluation]) -> None:
    bundle, evaluation = views
    for found in evaluation.predictions.values():
        assert found.logits.shape == (VIEWS, len(evaluation.labels))
        assert not np.array_equal(found.logits[0], found.logits[-1])
        scaled = torch.from_numpy(found.logits) / bundle.spec.temperature
        np.testing.assert_allclose(found.scores, torch.stack([view.softmax(0) for view in scaled]).mean(0), atol=1e-6)
        assert found.accepted is None


def test_another_temperature_changes_confidences_and_a_threshold_accepts(views: tuple[ModelBundle, Evaluation]) -> None:
    bundle, evaluation = views
    hot = read_anew(evaluation, bundle.spec.model_copy(update={"temperature": 50.0}))
    assert hot.confidences()[0].max() < evaluation.confidences()[0].min()
    assert list(hot.truth) == list(evaluation.predictions)
    confidences, right = evaluation.confidences()
    threshold = float(np.median(confidences))
    chosen = read_anew(evaluation, bundle.spec.model_copy(update={"precision": 0.5, "threshold": threshold}))
    assert [found.accepted for found in chosen.predictions.values()] == (confidences >= threshold).tolist()
    assert chosen.scores.metrics["accepted_share"] == pytest.approx((confidences >= threshold).mean())
    assert chosen.scores.metrics["accepted_precision"] == pytest.approx(right[confidences >= threshold].mean())
    assert chosen.scores.metrics["top1"] == evaluation.scores.metrics["top1"] == pytest.approx(right.mean())


def test_no_threshold_accepts_nothing(views: tuple[ModelBundle, Evaluation]) -> None:
    bundle, evaluation = views
    none = read_anew(evaluation, bundle.spec.model_copy(update={"precision": 0.99, "threshold": None}))
    assert {found.accepted for found in none.predictions.values()} == {False}
    assert none.scores.metrics["accepted_share"] == 0
    assert "accepted_precision" not in none.scores.metrics
