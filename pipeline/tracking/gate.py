"""What a version has to show before it takes an alias over. Pure: from two models' answers to a verdict with its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.config_files import load_settings
from reelscribe.pipeline.tracking.evidence import Indices, Metric, bootstrap, class_losses, discordant, mcnemar, score


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


def load_gate(path: str) -> GateConfig:
    """Read a gate's file. Raises ConfigError with every problem."""
    return load_settings(path, [], GateConfig)


def judge(config: GateConfig, truth: Indices, labels: tuple[str, ...], champion: Answers, challenger: Answers) -> list[Check]:
    """Every check, those that fail too. ``truth`` (N,) holds places in ``labels``."""
    return [
        _enough(config.data, truth),
        _gain(config.gain, truth, labels, champion.answers, challenger.answers),
        _classes(config.limits.class_loss, truth, labels, champion, challenger),
        _calibration(config.limits.ece_loss, champion, challenger),
        _speed(config.limits.slowdown, champion, challenger),
        *([_labels(champion, challenger)] if config.limits.same_labels else []),
    ]


def judge_first(config: GateConfig, truth: Indices, labels: tuple[str, ...], challenger: Answers) -> list[Check]:
    """The checks where nobody holds the alias: enough clips, and better than always naming the commonest label."""
    commonest = np.full_like(truth, np.bincount(truth).argmax())
    return [_enough(config.data, truth), _gain(config.gain, truth, labels, commonest, challenger.answers)]


def _enough(data: GateData, truth: Indices) -> Check:
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


def _calibration(margin: float, champion: Answers, challenger: Answers) -> Check:
    found = f"calibration error {champion.ece:.4f} -> {challenger.ece:.4f} (at most {margin:g} more)"
    return Check(name="calibration", passed=challenger.ece <= champion.ece + margin, found=found)


def _speed(slowdown: float, champion: Answers, challenger: Answers) -> Check:
    ratio = challenger.clip_s / champion.clip_s
    found = f"{champion.clip_s * 1000:.1f} -> {challenger.clip_s * 1000:.1f} ms a clip, {ratio:.2f} times (at most {slowdown:g})"
    return Check(name="speed", passed=ratio <= slowdown, found=found)


def _labels(champion: Answers, challenger: Answers) -> Check:
    lost = [label for label in champion.labels if label not in challenger.labels]
    new = [label for label in challenger.labels if label not in champion.labels]
    same = champion.labels == challenger.labels
    differ = f"lost: {', '.join(lost)}; new: {', '.join(new)}" if lost or new else "the same in another order"
    return Check(name="label map", passed=same, found=f"the same {len(champion.labels)} labels" if same else differ)
