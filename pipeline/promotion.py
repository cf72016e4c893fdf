"""An alias moves on evidence: both versions label the same clips, and the gate decides."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from reelscribe.pipeline.answers import AnyPrediction
from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.errors import ManifestError, ModelError, UsageError
from reelscribe.pipeline.manifest import table_digest
from reelscribe.pipeline.predictor import Predictor
from reelscribe.pipeline.tracking.gate import Answers, Check, GateConfig, judge, judge_first
from reelscribe.pipeline.tracking.registry import (
    Promotion,
    fetch_model,
    promotion_parties,
    record_evidence,
    take_over,
)
from reelscribe.pipeline.training.scores.evaluation import Evaluation, evaluate, labelled_rows
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What a gate found, and what came of it."""

    name: str
    alias: str
    champion: int | None  # the version that holds the alias; None where nobody did
    challenger: int
    data_digest: str  # of the clips: what data.digest of the gate may be set to
    checks: tuple[Check, ...]
    dry_run: bool
    moved: Promotion | None

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)


def promote_by_gate(
    model: str, *, to: str, gate: GateConfig, tracking: str, why: str = "", dry_run: bool = False, progress: OpenProgress
) -> GateResult:
    """Compare a version with the one that holds an alias, and move the alias if every check of the gate holds.

    The evidence is kept with the version, whatever it says, unless ``dry_run``. Raises ModelError (an unknown version, or one that
    holds the alias already), ManifestError for other rows than the gate's, PromotionError where somebody else moved the alias meanwhile.
    """
    version, champion = promotion_parties(model, to, uri=tracking)
    if champion == version.version:
        raise ModelError(f"{version.name} version {champion} holds @{to} already: there is nothing to compare it with")
    table = labelled_rows(gate.data.manifest, gate.data.split, "single_label")
    digest = table_digest(table)
    if gate.data.digest and digest != gate.data.digest:
        raise ManifestError(
            f"{gate.data.manifest}: the rows of split '{gate.data.split}' are not those of this gate (SHA-256 {digest}, data.digest says "
            f"{gate.data.digest}); bring them back, or set data.digest anew for every promotion from now on"
        )
    checks = tuple(_checks(version.name, champion, version.version, table.to_pylist(), gate, tracking, progress))
    result = GateResult(
        name=version.name,
        alias=to,
        champion=champion,
        challenger=version.version,
        data_digest=digest,
        checks=checks,
        dry_run=dry_run,
        moved=None,
    )
    if dry_run:
        return result
    evidence = asdict(result) | {"when": datetime.now(UTC).isoformat(), "passed": result.passed, "gate": gate.model_dump(mode="json")}
    key = record_evidence(version, json.dumps(evidence, ensure_ascii=False), uri=tracking)
    if not result.passed:
        return result
    moved = take_over(version, to, expected=champion, why=f"{why}{'; ' if why else ''}passed a gate, see tag {key}", uri=tracking)
    return replace(result, moved=moved)


def _checks(
    name: str, champion: int | None, challenger: int, rows: Rows, gate: GateConfig, uri: str, progress: OpenProgress
) -> list[Check]:
    """Both label the rows; what the gate says of their answers."""
    versions = [challenger] if champion is None else [champion, challenger]
    predictors = [_TimedPredictor(load_bundle(fetch_model(f"models:/{name}/{one}", uri=uri).folder), gate.device) for one in versions]
    for predictor in predictors:
        if predictor.bundle.spec.task != "single_label":
            raise UsageError(f"a gate judges models of one label a clip, {name} has task={predictor.bundle.spec.task}")
    labels = tuple(sorted({row["label"] for row in rows}.union(*(predictor.bundle.spec.labels for predictor in predictors))))
    evaluations = []
    with DecodePool(gate.decode.num_workers, gate.decode.limits) as pool:
        for version, predictor in zip(versions, predictors, strict=True):
            with progress(f"version {version}") as advance:
                evaluations.append(evaluate(predictor, rows, pool=pool, decode=gate.decode, progress=advance))
    judged = [row for row in rows if any(row["video_id"] in one.predictions for one in evaluations)]
    truth = np.array([labels.index(row["label"]) for row in judged])
    sides = [_answers(predictor, found, judged, labels) for predictor, found in zip(predictors, evaluations, strict=True)]
    return judge_first(gate, truth, labels, sides[0]) if champion is None else judge(gate, truth, labels, *sides)


def _answers(predictor: _TimedPredictor, found: Evaluation, rows: Rows, labels: Sequence[str]) -> Answers:
    """One model's answers, in the order of the rows."""
    said = {video_id: labels.index(prediction.label) for video_id, prediction in found.labelled().items()}
    return Answers(
        labels=predictor.bundle.spec.labels,
        answers=np.array([said.get(row["video_id"], -1) for row in rows]),
        ece=found.scores.metrics["ece"],
        clip_s=statistics.median(predictor.seconds),
    )


class _TimedPredictor(Predictor):
    """A predictor that notes how long the network takes for each clip."""

    def __init__(self, bundle: ModelBundle, device: str) -> None:
        super().__init__(bundle, device)
        self.seconds: list[float] = []

    def __call__(self, clips: Sequence[Clip]) -> list[AnyPrediction]:
        began = time.perf_counter()
        found = super().__call__(clips)
        self.seconds.append(time.perf_counter() - began)
        return found
