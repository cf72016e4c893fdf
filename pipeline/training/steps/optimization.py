"""How weights move: the rate of each parameter, its course over time, and the average of the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reelscribe.pipeline.config import TrainingConfig

if TYPE_CHECKING:
    from reelscribe.models.backbone import Backbone

FALLING = ("val_loss", "val_mae")  # figures that are better when lower


def parameter_groups(model: Backbone, config: TrainingConfig) -> list[dict[str, object]]:
    """Encoder and head at their own rates; weight decay only on matrices, not on biases and norms.

    Each stage of the encoder learns ``layer_decay`` times as fast as the one after it (arXiv 2003.10555, 2106.08254): the first ones hold
    what all pictures share.
    """
    encoder_rates = {
        id(parameter): config.encoder_learning_rate * config.layer_decay**depth
        for depth, level in enumerate(reversed(model.encoder.level_parameters()))
        for parameter in level
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = encoder_rates.get(id(parameter), config.learning_rate)
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": config.weight_decay if is_matrix else 0.0}
        for (rate, is_matrix), parameters in groups.items()
    ]


def averaged(model: nn.Module, decay: float) -> AveragedModel | None:
    """A copy of the network to hold the moving average of its weights (torch's); None where decay is 0."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None


def is_better(value: float, best: float, monitor: str) -> bool:
    """Whether a monitored figure improved: losses and errors fall, all others rise."""
    return value < best if monitor in FALLING else value > best


class Schedule:
    """The learning rate: a linear warm-up by steps, then a cosine to zero, or a cut whenever the monitored figure stands still."""

    def __init__(self, optimizer: Optimizer, config: TrainingConfig, steps_per_epoch: int) -> None:
        self.config = config
        self.warmup = config.warmup_epochs * steps_per_epoch
        self.total = config.epochs * steps_per_epoch
        self.optimizer = optimizer
        self.by_step = LambdaLR(optimizer, self._factor)
        self.by_figure = (
            ReduceLROnPlateau(
                optimizer,
                mode="min" if config.monitor in FALLING else "max",
                factor=config.plateau_factor,
                patience=config.plateau_patience,
            )
            if config.schedule == "plateau"
            else None
        )

    @property
    def learning_rate(self) -> float:
        """That of the head at the next step."""
        group = self.optimizer.param_groups[0]
        return self.config.learning_rate * float(group["lr"] / group["initial_lr"])

    def state_dict(self) -> dict[str, Any]:
        """Numbers and text."""
        return {"by_step": self.by_step.state_dict(), "by_figure": self.by_figure and self.by_figure.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.by_step.load_state_dict(state["by_step"])
        if self.by_figure:
            self.by_figure.load_state_dict(state["by_figure"])

    def step(self) -> None:
        """After each step of the optimizer."""
        if self.by_figure is None or self.by_step.last_epoch < self.warmup:
            self.by_step.step()

    def end_epoch(self, monitored: float) -> None:
        """After each epoch, with the figure of its validation."""
        if self.by_figure is not None and self.by_step.last_epoch >= self.warmup:
            self.by_figure.step(monitored)

    def _factor(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.config.schedule == "plateau":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup) / max(1.0, self.total - self.warmup))))
