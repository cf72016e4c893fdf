"""Where a training is: what it goes on with, beside the networks and the optimizer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reelscribe.pipeline.training.steps.gradients import GradientHealth

EpochMetrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How quickly an epoch went by, from where this process took it up, and what for."""

    clips: int  # trained on, by all workers
    training_s: float
    loading_s: float  # of these, waiting for stored arrays
    validation_s: float
    storing_s: float  # writing checkpoints, since the epoch before ended

    @property
    def metrics(self) -> dict[str, float]:
        """Names and numbers for the tracked run."""
        return {"epoch_s": self.seconds, "samples_per_s": self.samples_per_s, "waiting_share": self.waiting_share}

    @property
    def seconds(self) -> float:
        """Training and validation."""
        return self.training_s + self.validation_s

    @property
    def samples_per_s(self) -> float:
        """Training clips in a second of training."""
        return self.clips / self.training_s if self.training_s else 0.0

    @property
    def waiting_share(self) -> float:
        """The share of training that waited for data."""
        return self.loading_s / self.training_s if self.training_s else 0.0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training leaves."""

    state: dict[str, Tensor]  # the weights kept
    history: list[EpochMetrics]  # one entry per epoch
    epoch: int  # the epoch whose weights were kept, from 1
    val_logits: Tensor  # (N, outputs) of the weights kept, in the order of the validation clips; of captions see CaptionValidation
    health: GradientHealth | None = None  # of the gradients in the last epoch, where it was measured
    speed: Speed | None = None  # of the last epoch; None where it was trained before this process began


@dataclass(kw_only=True)
class Progress:
    """Which step comes next, and what the steps before it left."""

    epoch: int = 1  # in progress
    step: int = 0  # optimizer steps of it that are done
    learning_rate: float = 0.0  # at its first step
    health: GradientHealth | None = None  # measured at its first step
    sums: Tensor = field(default_factory=lambda: torch.zeros(2))  # of loss and score over its clips; a worker has those of its own
    history: list[EpochMetrics] = field(default_factory=list)  # of the epochs before
    kept: Trained | None = None

    def to_state(self, weights: dict[str, Tensor], frozen: Collection[str]) -> dict[str, Any]:
        """Tensors, numbers and text in dicts and lists, without ``frozen`` weights.

        Kept weights that equal those of the moment are these, to be stored once.
        """
        kept = self.kept and vars(self.kept) | {
            "state": like(without(self.kept.state, frozen), weights),
            "health": _health_state(self.kept.health),
            "speed": None,
        }
        return vars(self) | {"health": _health_state(self.health), "kept": kept}

    @classmethod
    def from_state(cls, state: dict[str, Any], weights: dict[str, Tensor]) -> Progress:
        """The progress again; what is frozen is taken from ``weights``."""
        kept = state["kept"]
        if kept:
            kept = kept | {"state": {name: kept["state"].get(name, tensor.detach().cpu()) for name, tensor in weights.items()}}
        return cls(
            **state
            | {
                "health": _health(state["health"]),
                "kept": kept and Trained(**kept | {"health": _health(kept["health"])}),
            }
        )


def without(state: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The other entries."""
    return {name: value for name, value in state.items() if name not in names}


def like(state: dict[str, Tensor], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, taken from ``weights`` where they are equal."""
    return {
        name: weights[name] if name in weights and torch.equal(tensor, weights[name].to(tensor.device)) else tensor
        for name, tensor in state.items()
    }


def _health_state(health: GradientHealth | None) -> dict[str, Any] | None:
    return vars(health) if health else None


def _health(state: dict[str, Any] | None) -> GradientHealth | None:
    return GradientHealth(**state) if state else None
