"""How far back in time, and how deep, the gradient of the loss lives: the oldest trouble of recurrent networks, made visible.

The model is run frame by frame, so that the state after each frame can be asked for its gradient: all that later frames send back through
the recurrence. A picture and a warning are for people; training goes on as if nothing had been measured.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reelscribe.pipeline.training.steps.losses import Loss

if TYPE_CHECKING:
    from reelscribe.models.backbone import RecognizerState
    from reelscribe.models.recognizer import Recognizer
    from reelscribe.pipeline.training.steps.batches import Timed

VANISHED = 1e-4  # times the gradient one frame back: an earlier frame is lost in the noise of late ones
EXPLODED = 1e2  # times the same: an earlier frame drowns all others, and clipping leaves nothing of these
_LAYER_DEPTH = 3  # parts of a parameter's name that tell its layer: recurrent.layers.0


@dataclass(frozen=True, kw_only=True)
class GradientHealth:
    """Mean norms over the clips of one batch. Time goes from the first frame to the last but one; clips are aligned at their ends."""

    by_frame: tuple[float, ...]  # gradient of the loss with respect to the recurrent state after each frame
    of_last: tuple[float, ...]  # the same for the loss of the last state alone, so that nothing but the recurrence reaches back
    by_layer: dict[str, float]  # gradient of the mean loss with respect to each layer's parameters

    @property
    def reach(self) -> float:
        """What is left at the first frame of the gradient that the last state sends back, as a share of that one frame back."""
        if len(self.of_last) < 2:
            return 1.0
        return self.of_last[0] / self.of_last[-1] if self.of_last[-1] else 0.0

    @property
    def growth(self) -> float:
        """The largest gradient that the last state sends back to any frame, as a multiple of that one frame back."""
        largest = max((norm if math.isfinite(norm) else math.inf for norm in self.of_last), default=0.0)
        return largest / self.of_last[-1] if largest else 1.0

    @property
    def live_frames(self) -> int:
        """The longest time lag, in frames, at which the gradient has not vanished."""
        lags = [lag for lag, norm in enumerate(reversed(self.of_last), start=1) if norm > VANISHED * self.of_last[-1]]
        return max(lags, default=0)

    @property
    def metrics(self) -> dict[str, float]:
        """Names and numbers for the tracked run."""
        layers = {f"gradient/layer/{name}": norm for name, norm in self.by_layer.items()}
        return {"gradient/reach": self.reach, "gradient/growth": self.growth, "gradient/live_frames": float(self.live_frames), **layers}

    @property
    def warning(self) -> str:
        """What is wrong and what to change; empty where all is well."""
        if self.growth > EXPLODED:
            return (
                f"the gradient explodes: on its way back from the last state it grows {self.growth:.1g} times, so that what is learnt of "
                "late frames drowns; try model.recurrent=gru or lstm, a lower training.learning_rate, or shorter clips (sampling)"
            )
        if self.reach < VANISHED:
            return (
                f"the gradient vanishes: {len(self.of_last)} frames before the last state it is {self.reach:.1g} of what it is one frame "
                f"before, so that the state learns to remember {self.live_frames} frames at most; try model.recurrent=gru or lstm, or "
                "shorter clips (sampling)"
            )
        return ""


def gradient_health(model: Recognizer, clips: Iterable[tuple[Timed, Tensor]], loss: Loss, *, max_frames: int = 0) -> GradientHealth:
    """Measure on clips and their targets (1, ...), one by one, without dropout; ``max_frames`` of each, 0 is all."""
    device = next(model.parameters()).device
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    totals = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    by_lag: dict[int, list[tuple[float, float]]] = defaultdict(list)
    training, count = model.training, 0
    model.eval()
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's recurrent kernels go back only in training mode, where dropout is on
        for (array, gaps), target in clips:
            inputs = array[None, : max_frames or None].to(device)
            grid = model.encode(inputs) if inputs.dtype == torch.uint8 else inputs.float()
            states, (whole, last) = _unrolled(model, grid, gaps[None].to(device), target.to(device), loss)
            flat = [tensor for state in states for tensor in state]
            gradients = torch.autograd.grad(whole, [*flat, *parameters.values()], retain_graph=True, allow_unused=True)
            back = torch.autograd.grad(last, flat, allow_unused=True) if flat else ()
            for total, gradient in zip(totals.values(), gradients[len(flat) :], strict=True):
                total += 0 if gradient is None else gradient
            norms = zip(_norms(states, gradients), _norms(states, back), strict=True)
            for lag, pair in zip(range(len(states), 0, -1), norms, strict=True):
                by_lag[lag].append(pair)
            count += 1
    model.train(training)
    means = [torch.tensor(by_lag[lag], dtype=torch.float64).mean(dim=0).tolist() for lag in sorted(by_lag, reverse=True)]
    return GradientHealth(
        by_frame=tuple(pair[0] for pair in means),
        of_last=tuple(pair[1] for pair in means),
        by_layer=_by_layer({name: total / count for name, total in totals.items()}),
    )


def _unrolled(
    model: Recognizer, grid: Tensor, gaps: Tensor, target: Tensor, loss: Loss
) -> tuple[list[list[Tensor]], tuple[Tensor, Tensor]]:
    """Grid (1, T, D, h, w), gaps (1, T or more) -> the recurrent state after each frame but the last; the loss, and the last's alone."""
    one = torch.ones(1, dtype=torch.long, device=grid.device)
    state: RecognizerState | None = None
    before: RecognizerState | None = None
    states: list[list[Tensor]] = []
    answers: list[Tensor] = []
    for t, frame in enumerate(grid.split(1, dim=1)):
        before = state
        gap = gaps[:, t : t + 1] if model.takes_gaps else None
        logits, state = model.extend_grid(frame, one, before, gap)
        answers.append(logits)
        states.append([tensor for tensor in state.recurrent if tensor.requires_grad])
    alone, _ = model.extend_grid(grid[:, -1:], one, before and before._replace(readout=None), gap)
    if loss.per_frame:
        of_frames = target[:, : len(answers)]
        return states[:-1], (loss(torch.stack(answers, 1), of_frames).sum(), loss(alone[:, None], of_frames[:, -1:]).sum())
    return states[:-1], (loss(answers[-1], target).sum(), loss(alone, target).sum())


def _norms(states: list[list[Tensor]], gradients: Iterable[Tensor | None]) -> list[float]:
    """The norm of each state's gradients, which come one after the other; a state that nothing hangs on has 0."""
    remaining = iter(gradients)
    norms = []
    for state in states:
        parts = [gradient.double().norm() for _, gradient in zip(state, remaining, strict=False) if gradient is not None]
        norms.append(torch.stack(parts).norm().item() if parts else 0.0)
    return norms


def _by_layer(gradients: dict[str, Tensor]) -> dict[str, float]:
    layers: dict[str, list[Tensor]] = defaultdict(list)
    for name, gradient in gradients.items():
        layers[".".join(name.split(".")[:-1][:_LAYER_DEPTH])].append(gradient.norm())
    return {name: torch.stack(norms).norm().item() for name, norms in layers.items()}
