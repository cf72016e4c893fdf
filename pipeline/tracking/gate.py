"""What a version has to show before it takes an alias over. Pure: from two models' answers to a verdict with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from reelscribe.pipeline.config import DecodeConfig, Task
from reelscribe.pipeline.config_files import load_settings
from reelscribe.pipeline.errors import ConfigError
from reelscribe.pipeline.tracking.evidence import (
    Indices,
    Metric,
    Scores,
    bootstrap,
    bootstrap_means,
    class_losses,
    discordant,
    mcnemar,
    score,
)

METRICS: dict[Task, tuple[Metric, ...]] = {
    "single_label": ("top1", "macro_f1"),
    "multi_label": ("clip_f1",),
    "value": ("mae",),
    "dense": ("frame_accuracy",),
    "caption": ("cider",),
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GateData(_Section):
    """The clips that both versions label."""

    manifest: str
    split: str = "test"
    digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="SHA-256 of the rows; empty takes any")
    min_clips: int = Field(default=100, ge=1)


class GateGain(_Section):
    """How a gain is told from luck."""

    test: str = Field(default="mcnemar", pattern=r"^(mcnemar|bootstrap)$")
    metric: Metric = "top1"
    level: float = Field(default=0.05, gt=0, lt=0.5)
    resamples: int = Field(default=2000, ge=100, le=100_000)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _mcnemar_counts_right_answers(self) -> Self:
        if self.test == "mcnemar" and self.metric != "top1":
            raise ValueError(f"metric={self.metric} needs test=bootstrap: McNemar's test compares right and wrong answers")
        return self


class GateLimits(_Section):
    """What a gain may not cost."""

    class_loss: float = Field(default=0.1, ge=0, le=1)
    ece_loss: float = Field(default=0.05, ge=0, le=1)
    slowdown: float = Field(default=1.5, gt=0)
    same_labels: bool = True


class GateConfig(_Section):
    """configs/gate.yaml."""

    data: GateData
    gain: GateGain = GateGain()
    limits: GateLimits = GateLimits()
    device: str = "auto"
    decode: DecodeConfig = DecodeConfig()


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model said of the clips."""

    labels: tuple[str, ...]
    answers: Indices  # (N,) places in the labels of the truth; -1 for none
    ece: float  # calibration error
    clip_s: float  # seconds of the network for a clip, the median


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition, and whether it holds."""

    name: str
    passed: bool
    found: str  # the numbers, in words


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """How well one model did, clip by clip, where a clip has not just one label."""

    labels: tuple[str, ...]
    scores: Scores  # (N,), more is better
    by_label: Mapping[str, float]  # empty where nothing is known of single labels
    ece: float | None  # calibration error; None where there is none
    clip_s: float  # seconds of the network for a clip, the median


def load_gate(path: str) -> GateConfig:
    """Read a gate's file. Raises ConfigError with every problem."""
    return load_settings(path, [], GateConfig)


def judge(config: GateConfig, truth: Indices, labels: tuple[str, ...], champion: Answers, challenger: Answers) -> list[Check]:
    """Every check, those that fail too. ``truth`` (N,) holds places in ``labels``."""
    return [
        _enough(config.data, truth),
        _gain(config.gain, truth, labels, champion.answers, challenger.answers),
        _classes(config.limits.class_loss, truth, labels, champion, challenger),
        _calibration(config.limits.ece_loss, champion.ece, challenger.ece),
        _speed(config.limits.slowdown, champion.clip_s, challenger.clip_s),
        *([_labels(champion.labels, challenger.labels)] if config.limits.same_labels else []),
    ]


def judge_scores(config: GateConfig, task: Task, champion: ClipScores, challenger: ClipScores) -> list[Check]:
    """As ``judge``, for tasks whose figure is a mean over clips; what a task does not have is not checked."""
    checks = [_enough(config.data, champion.scores), _mean_gain(config.gain, champion.scores, challenger.scores)]
    if champion.by_label:
        checks.append(_by_label(config.limits.class_loss, champion.by_label, challenger.by_label))
    if champion.ece is not None and challenger.ece is not None:
        checks.append(_calibration(config.limits.ece_loss, champion.ece, challenger.ece))
    checks.append(_speed(config.limits.slowdown, champion.clip_s, challenger.clip_s))
    if config.limits.same_labels and task in ("multi_label", "dense"):  # the vocabulary of captions may grow
        checks.append(_labels(champion.labels, challenger.labels))
    return checks


def judge_first_scores(
    config: GateConfig, clips: Scores, *, metric: str, found: float, least: float, better: bool, than: str
) -> list[Check]:
    """As ``judge_first``, for the other tasks: the figure of the challenger against that of an answer that looks at nothing."""
    words = f"{metric} {found:.4f}, {than} {least:.4f}"
    return [_enough(config.data, clips), Check(name="gain", passed=better, found=words)]


def require_metric(config: GateConfig, task: Task) -> None:
    """Raises ConfigError for a metric that the task does not have."""
    if config.gain.metric not in METRICS[task]:
        test = "" if task == "single_label" else "gain.test=bootstrap and "
        raise ConfigError(f"gain.metric={config.gain.metric} is not for task={task}: set {test}gain.metric={' or '.join(METRICS[task])}")


def judge_first(config: GateConfig, truth: Indices, labels: tuple[str, ...], challenger: Answers) -> list[Check]:
    """The checks where nobody holds the alias: enough clips, and better than always naming the commonest label."""
    commonest = np.full_like(truth, np.bincount(truth).argmax())
    return [_enough(config.data, truth), _gain(config.gain, truth, labels, commonest, challenger.answers)]


def _enough(data: GateData, truth: Indices | Scores) -> Check:
    return Check(name="clips", passed=len(truth) >= data.min_clips, found=f"{len(truth)} (at least {data.min_clips})")


def _gain(gain: GateGain, truth: Indices, labels: tuple[str, ...], first: Indices, second: Indices) -> Check:
    before, after = (score(truth, answers, gain.metric, len(labels)) for answers in (first, second))
    won, lost = discordant(truth, first, second)
    if gain.test == "mcnemar":
        p = mcnemar(won, lost)
    else:
        p = bootstrap(truth, first, second, metric=gain.metric, num_classes=len(labels), resamples=gain.resamples, seed=gain.seed)[1]
    found = f"{gain.metric} {before:.4f} -> {after:.4f}, {won} clips won, {lost} lost; {gain.test} p = {p:.4f} (at most {gain.level:g})"
    return Check(name="gain", passed=p <= gain.level, found=found)


def _classes(margin: float, truth: Indices, labels: tuple[str, ...], champion: Answers, challenger: Answers) -> Check:
    found = class_losses(truth, champion.answers, challenger.answers)
    falls = sorted(((before - after, label) for label, (before, after, _) in found.items()), reverse=True)
    beyond = [label for fall, label in falls if fall > margin + 1e-9]
    words = [f"{labels[i]} {found[i][0]:.3f} -> {found[i][1]:.3f} of {found[i][2]} clips" for i in beyond or [falls[0][1]]]
    said = f"recall lost beyond {margin:g}: " if beyond else f"no label loses more than {margin:g} of its recall; at most: "
    return Check(name="labels one by one", passed=not beyond, found=said + "; ".join(words))


def _mean_gain(gain: GateGain, first: Scores, second: Scores) -> Check:
    p = bootstrap_means(first, second, resamples=gain.resamples, seed=gain.seed)[1]
    sign = -1 if gain.metric == "mae" else 1  # an error, of which less is better
    found = (
        f"{gain.metric} {sign * first.mean():.4f} -> {sign * second.mean():.4f} of a clip; bootstrap p = {p:.4f} (at most {gain.level:g})"
    )
    return Check(name="gain", passed=p <= gain.level, found=found)


def _by_label(margin: float, before: Mapping[str, float], after: Mapping[str, float]) -> Check:
    falls = sorted(((value - after.get(label, 0.0), label) for label, value in before.items()), reverse=True)
    beyond = [label for fall, label in falls if fall > margin + 1e-9]
    words = [f"{label} {before[label]:.3f} -> {after.get(label, 0.0):.3f}" for label in beyond or [falls[0][1]]]
    said = f"average precision lost beyond {margin:g}: " if beyond else f"no label loses more than {margin:g}; at most: "
    return Check(name="labels one by one", passed=not beyond, found=said + "; ".join(words))


def _calibration(margin: float, before: float, after: float) -> Check:
    found = f"calibration error {before:.4f} -> {after:.4f} (at most {margin:g} more)"
    return Check(name="calibration", passed=after <= before + margin, found=found)


def _speed(slowdown: float, before_s: float, after_s: float) -> Check:
    ratio = after_s / before_s
    found = f"{before_s * 1000:.1f} -> {after_s * 1000:.1f} ms a clip, {ratio:.2f} times (at most {slowdown:g})"
    return Check(name="speed", passed=ratio <= slowdown, found=found)


def _labels(before: tuple[str, ...], after: tuple[str, ...]) -> Check:
    lost = [label for label in before if label not in after]
    new = [label for label in after if label not in before]
    same = before == after
    differ = f"lost: {', '.join(lost)}; new: {', '.join(new)}" if lost or new else "the same in another order"
    return Check(name="label map", passed=same, found=f"the same {len(before)} labels" if same else differ)
