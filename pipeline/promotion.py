"""An alias moves on evidence: both versions label the same clips, and the gate decides."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np

from reelscribe.pipeline.answers import AnyPrediction
from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.config import Task
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.errors import ManifestError, ModelError, UsageError
from reelscribe.pipeline.manifest import table_digest
from reelscribe.pipeline.predictor import Predictor
from reelscribe.pipeline.tracking.gate import (
    Answers,
    Check,
    ClipScores,
    GateConfig,
    judge,
    judge_first,
    judge_first_scores,
    judge_scores,
    require_metric,
)
from reelscribe.pipeline.tracking.registry import (
    Promotion,
    fetch_model,
    promotion_parties,
    record_evidence,
    take_over,
)
from reelscribe.pipeline.training.scores.by_clip import clip_scores
from reelscribe.pipeline.training.scores.evaluation import Evaluation, evaluate, labelled_rows
from reelscribe.pipeline.training.scores.metrics import by_label
from reelscribe.pipeline.training.tasks import TASKS
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
    task = cast(Task, version.tags.get("reelscribe.task", "single_label"))
    require_metric(gate, task)
    table = labelled_rows(gate.data.manifest, gate.data.split, task)
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
    tasks = [predictor.bundle.spec.task for predictor in predictors]
    if len(set(tasks)) > 1:
        raise UsageError(
            f"versions {champion} and {challenger} of {name} have different tasks, {tasks[0]} and {tasks[1]}: nothing to compare"
        )
    evaluations = []
    with DecodePool(gate.decode.num_workers, gate.decode.limits) as pool:
        for version, predictor in zip(versions, predictors, strict=True):
            with progress(f"version {version}") as advance:
                evaluations.append(evaluate(predictor, rows, pool=pool, decode=gate.decode, progress=advance))
    judged = [row for row in rows if any(row["video_id"] in one.predictions for one in evaluations)]
    if tasks[0] != "single_label":
        return _checks_of_scores(gate, tasks[0], predictors, evaluations, [row["video_id"] for row in judged])
    labels = tuple(sorted({row["label"] for row in rows}.union(*(predictor.bundle.spec.labels for predictor in predictors))))
    truth = np.array([labels.index(row["label"]) for row in judged])
    sides = [_answers(predictor, found, judged, labels) for predictor, found in zip(predictors, evaluations, strict=True)]
    return judge_first(gate, truth, labels, sides[0]) if champion is None else judge(gate, truth, labels, *sides)


def _checks_of_scores(
    gate: GateConfig, task: Task, predictors: list[_TimedPredictor], evaluations: list[Evaluation], clips: list[str]
) -> list[Check]:
    """What the gate says where a clip has a score of its own; a clip that one of both could not read has the worst score of all."""
    by_clip = [clip_scores(one) for one in evaluations]
    worst = min(min(one.values()) for one in by_clip)
    sides = [
        ClipScores(
            labels=predictor.bundle.spec.labels,
            scores=np.array([scores.get(clip, worst) for clip in clips]),
            by_label=by_label(found.scores)[1],
            ece=found.scores.metrics.get("ece"),
            clip_s=statistics.median(predictor.seconds),
        )
        for predictor, found, scores in zip(predictors, evaluations, by_clip, strict=True)
    ]
    if len(sides) == 2:
        return judge_scores(gate, task, *sides)
    headline, metrics = TASKS[task].headline, evaluations[0].scores.metrics
    found, least = metrics[headline.metric], metrics[headline.baseline]
    better = headline.better(found, least)
    return judge_first_scores(
        gate, sides[0].scores, metric=headline.words, found=found, least=least, better=better, than=headline.baseline_words
    )


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
