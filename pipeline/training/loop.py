"""The training loop: the same code in one process and on every worker of a cluster.

Nothing here depends on how the work is spread. What a batch holds and a step's dropout follow from the seed alone; each worker takes its
slice of every global batch, and gradients are averaged so that the step equals that of one process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import torch
import torch.distributed
from torch import Tensor, nn

from reelscribe.pipeline.captions import CaptionConfig
from reelscribe.pipeline.config import AugmentationConfig, TrainingConfig
from reelscribe.pipeline.predictor import frame_gaps
from reelscribe.pipeline.training.data import TrainingData, stable_seed
from reelscribe.pipeline.training.steps import bad_batch
from reelscribe.pipeline.training.steps.batches import Batches, Draw
from reelscribe.pipeline.training.steps.gradients import GradientHealth, gradient_health
from reelscribe.pipeline.training.steps.optimization import Schedule, averaged, is_better, parameter_groups
from reelscribe.pipeline.training.steps.passes import ArrayNetwork, Passes
from reelscribe.pipeline.training.steps.self_critical import SelfCritic
from reelscribe.pipeline.training.steps.validation import CaptionValidation, LogitsValidation, Validation
from reelscribe.pipeline.training.tasks import TASKS, References

if TYPE_CHECKING:
    from reelscribe.models.captioner import Captioner
    from reelscribe.models.recognizer import Recognizer

EpochMetrics = dict[str, float]


@dataclass(frozen=True)
class World:
    """Which worker this is, of how many."""

    rank: int = 0
    size: int = 1

    def part(self, count: int) -> slice:
        """This worker's slice of ``count`` things; the slices of all workers are even to within one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def total(self, value: Tensor) -> Tensor:
        """The sum over workers."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training leaves."""

    state: dict[str, Tensor]  # the weights kept
    history: list[EpochMetrics]  # one entry per epoch
    epoch: int  # the epoch whose weights were kept, from 1
    val_logits: Tensor  # (N, outputs) of the weights kept, in the order of the validation clips; of captions see CaptionValidation
    health: GradientHealth | None = None  # of the gradients in the last epoch, where it was measured


class Trainer:
    """Trains one network on prepared clips.

    ``wrap`` turns the network into a data-parallel one on a cluster (Ray Train's ``prepare_model``); in one process it is left out.
    ``folder`` is for what a person should look at when training cannot go on.
    """

    def __init__(
        self,
        model: Recognizer | Captioner,
        config: TrainingConfig,
        data: TrainingData,
        *,
        seed: int,
        device: torch.device,
        augmentation: AugmentationConfig | None = None,
        caption: CaptionConfig | None = None,
        folder: Path | None = None,
        world: World | None = None,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        self.config, self.data, self.seed, self.device, self.folder = config, data, seed, device, folder
        self.world = world or World()
        self.model = model.to(device)
        self.average = averaged(self.model, config.ema_decay)
        self.plain = ArrayNetwork(self.model)
        self.network = wrap(self.plain) if wrap else self.plain
        self.task = TASKS[data.task]
        self.batches = Batches(data.train, len(data.labels), config, augmentation or AugmentationConfig(), seed=seed)
        self.loss = self.task.loss(data.train.targets, data.labels, config)
        self.validation: Validation = (
            CaptionValidation(data, caption or CaptionConfig()) if data.task == "caption" else LogitsValidation(data, config.monitor)
        )
        self.passes = Passes(self.network, self.model, self.loss, config, device)
        self.critic = (
            SelfCritic(cast("tuple[References, ...]", data.train.targets), caption or CaptionConfig())
            if config.self_critical_epochs
            else None
        )
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config), lr=config.learning_rate)
        self.schedule = Schedule(self.optimizer, config, len(self.batches.epoch(1)))

    @property
    def result(self) -> Recognizer | Captioner:
        """The network that is evaluated and kept: that of averaged weights where there is one."""
        return cast("Recognizer | Captioner", self.average.module) if self.average else self.model

    def fit(self, on_epoch: Callable[[Trained], None]) -> Trained:
        """Train for all epochs, or until the monitored figure has not improved for ``patience`` epochs.

        With patience the weights of the best epoch are kept, else the last. ``on_epoch`` is given what would be left if training ended
        now. Raises TrainingError on a loss or a gradient that is not finite.
        """
        history: list[EpochMetrics] = []
        kept: Trained | None = None
        for epoch in range(1, self.config.epochs + 1):
            learning_rate, health = self.schedule.learning_rate, self._gradient_health(epoch)
            metrics: EpochMetrics = {"epoch": float(epoch), "learning_rate": learning_rate, **self._train_epoch(epoch)}
            logits, val_metrics = self.validate()
            history.append(metrics | val_metrics | (health.metrics if health else {}))
            monitored = val_metrics[self.config.monitor]
            if kept is None or not self.config.patience or is_better(monitored, self._monitored(kept), self.config.monitor):
                kept = Trained(state=_copy_state(self.result), history=list(history), epoch=epoch, val_logits=logits, health=health)
            else:
                kept = replace(kept, history=list(history), health=health)
            on_epoch(kept)
            self.schedule.end_epoch(monitored)
            if self.config.patience and epoch - kept.epoch >= self.config.patience:
                break
        assert kept is not None
        return kept

    def _monitored(self, kept: Trained) -> float:
        return kept.history[kept.epoch - 1][self.config.monitor]

    def _train_epoch(self, epoch: int) -> EpochMetrics:
        self.network.train()
        if self.critic and epoch > self.config.epochs - self.config.self_critical_epochs:
            self.passes.critic = self.critic
        if self.config.scheduled_sampling:
            cast("Captioner", self.model).scheduled_sampling = self.config.scheduled_sampling * (epoch - 1) / max(1, self.config.epochs - 1)
        sums = torch.zeros(2, device=self.device)  # loss, score
        for step, draws in enumerate(self.batches.epoch(epoch)):
            sums += self._train_step(epoch, step, draws)
        loss, score = self.world.total(sums).tolist()
        clips = len(self.data.train)
        return {"train_loss": loss / clips, f"train_{self.task.figure}": score / clips}

    def _train_step(self, epoch: int, step: int, draws: list[Draw]) -> Tensor:
        """One optimizer step on the global batch; returns this worker's sums of loss and score."""
        part = self.world.part(len(draws))
        rows = range(part.start, part.stop)
        weight = 1.0 if rows else 0.0  # a worker with no clip in a short last batch still takes part in the averaging
        batch = self.batches.load(epoch, step, draws, rows or range(1))
        self.optimizer.zero_grad(set_to_none=True)
        scale = weight * self.world.size / len(draws)  # averaged over workers this is the mean over the global batch
        sums = weight * self.passes(batch, scale=scale, seed=stable_seed(self.seed, "dropout", epoch, step))
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        if not bool(torch.isfinite(norm + sums[0])):
            self._stop(epoch, step, draws, loss=sums[0].item(), norm=norm.item())
        self.optimizer.step()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.model)
        return sums

    def _stop(self, epoch: int, step: int, draws: list[Draw], *, loss: float, norm: float) -> NoReturn:
        """End the run before a step that would spoil the weights; every worker may do so, as each knows the whole batch."""
        video_ids = [self.data.train.video_ids[draw.clip] for draw in draws]
        clips = [self.batches.clip(epoch, draw) for draw in draws]
        arrays = [clip.array for clip in clips]
        targets = self.batches.targets(epoch, draws)
        losses = bad_batch.clip_losses(self.plain, clips, targets, self.loss)
        file = bad_batch.keep(self.folder, video_ids, arrays, targets, losses) if self.folder else None
        what = f"the loss ({loss:g}) or its gradient (norm {norm:g}) is not finite"
        raise bad_batch.training_error(f"epoch {epoch}, step {step + 1}", what, video_ids, arrays, losses, file)

    def _gradient_health(self, epoch: int) -> GradientHealth | None:
        """That of the first batch of the epoch; one worker measures it all."""
        every = self.config.gradient_health_every
        if not every or (epoch - 1) % every or self.world.rank:
            return None
        clips = ((self.batches.clip(epoch, draw), self.data.train.targets[draw.clip]) for draw in self.batches.epoch(epoch)[0])
        return gradient_health(cast("Recognizer", self.model), clips, self.loss, max_frames=self.config.tbptt_frames)

    @torch.no_grad()
    def validate(self) -> tuple[Tensor, EpochMetrics]:
        """Answers (N, ...) to every validation clip, on the CPU, see Validation, and their figures; each worker runs its part.

        In fp32 whatever the precision of training, as the saved model will be run.
        """
        network = ArrayNetwork(self.result).eval()
        clips = self.data.val
        part = self.world.part(len(clips))
        answers = torch.zeros(len(clips), *self.validation.shape, device=self.device)
        for i in range(part.start, part.stop):  # one by one: an answer does not depend on its neighbours
            array, times = clips.view(i, 0)
            inputs, length, gaps = (tensor[None].to(self.device) for tensor in (array, torch.tensor(len(array)), frame_gaps(times)))
            answer = self.validation.answer(network, inputs, length, gaps, i)
            answers[i, : len(answer)] = answer
        answers = self.world.total(answers).cpu()
        return answers, self.validation.metrics(answers)


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
