"""The training loop: the same code in one process and on every worker of a cluster.

Nothing here depends on how the work is spread. What a batch holds and a step's dropout follow from the seed alone; each worker takes its
slice of every global batch, and gradients are averaged so that the step equals that of one process.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
import torch.distributed
from torch import Tensor, nn

from reelscribe.models.encoders import Encoder
from reelscribe.pipeline.captions import CaptionConfig
from reelscribe.pipeline.config import AugmentationConfig, TrainingConfig
from reelscribe.pipeline.errors import OutputConflictError, ReelScribeError, StoppedError, UsageError
from reelscribe.pipeline.predictor import frame_gaps
from reelscribe.pipeline.training.checkpoints import Checkpoints
from reelscribe.pipeline.training.data import TrainingData, stable_seed
from reelscribe.pipeline.training.progress import EpochMetrics, Progress, Speed, Trained, like, without
from reelscribe.pipeline.training.steps import bad_batch
from reelscribe.pipeline.training.steps.batches import Batch, Batches, Draw, read_ahead
from reelscribe.pipeline.training.steps.gradients import GradientHealth, gradient_health
from reelscribe.pipeline.training.steps.optimization import Schedule, averaged, is_better, parameter_groups
from reelscribe.pipeline.training.steps.passes import ArrayNetwork, Passes
from reelscribe.pipeline.training.steps.self_critical import SelfCritic
from reelscribe.pipeline.training.steps.validation import CaptionValidation, LogitsValidation, Validation
from reelscribe.pipeline.training.stopping import STOP_FILE
from reelscribe.pipeline.training.tasks import TASKS, References

if TYPE_CHECKING:
    from reelscribe.models.captioner import Captioner
    from reelscribe.models.recognizer import Recognizer


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

    def all(self, value: Tensor) -> Tensor:
        """The values of all workers (workers, ...)."""
        values = [torch.empty_like(value) for _ in range(self.size)]
        if self.size > 1:
            torch.distributed.all_gather(values, value)
        return torch.stack(values) if self.size > 1 else value[None]

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error of ours that a worker meets inside is raised on all of them: one that ended alone would leave the others waiting."""
        errors: list[ReelScribeError | None] = [None]
        try:
            yield
        except ReelScribeError as error:
            errors = [error]
        if self.size > 1:
            mine, errors = errors[0], [None] * self.size
            torch.distributed.all_gather_object(errors, mine)
        if found := next((error for error in errors if error), None):
            raise found

    def agreed(self, value: str) -> str:
        """What the first worker says."""
        said = [value]
        if self.size > 1:
            torch.distributed.broadcast_object_list(said)
        return said[0]


class Trainer:
    """Trains one network on prepared clips.

    ``wrap`` turns the network into a data-parallel one on a cluster (Ray Train's ``prepare_model``); in one process it is left out.
    ``folder`` is for what a person should look at when training cannot go on, and where a stop is asked for (see `stopping`);
    ``on_step`` is told how many steps are done. With ``checkpoints`` it goes on from the newest one, inside the epoch, and leaves new ones;
    every draw has a seed of its epoch and step, so the position alone says what is drawn next.
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
        checkpoints: Checkpoints | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.config, self.data, self.seed, self.device, self.folder = config, data, seed, device, folder
        self.world, self.checkpoints, self.on_step = world or World(), checkpoints, on_step
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
        self.frozen = _frozen(self.model)
        self.learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, config), lr=config.learning_rate)
        self.schedule = Schedule(self.optimizer, config, len(self.batches))
        self.at = Progress()
        self.loading_s = self.storing_s = 0.0  # of the epoch

    @property
    def result(self) -> Recognizer | Captioner:
        """The network that is evaluated and kept: that of averaged weights where there is one."""
        return cast("Recognizer | Captioner", self.average.module) if self.average else self.model

    def fit(self, on_epoch: Callable[[Trained], None]) -> Trained:
        """Train for all epochs, or until the monitored figure has not improved for ``patience`` epochs.

        With patience the weights of the best epoch are kept, else the last. ``on_epoch`` is given what would be left if training ended
        now; after a resumption, once before the first step, so that nothing is missed. Raises TrainingError on a loss or a gradient that is
        not finite, OutputConflictError for a checkpoint of another network.
        """
        self._go_on()
        if self.at.kept:
            on_epoch(self.at.kept)
        while not self._is_over():
            monitored = self._epoch()
            assert self.at.kept is not None
            on_epoch(self.at.kept)
            self.schedule.end_epoch(monitored)
            if self.checkpoints and self.checkpoints.due_after(self.at.epoch - 1):
                self._save(monitored)
        assert self.at.kept is not None
        return self.at.kept

    def _is_over(self) -> bool:
        at = self.at
        waited = at.epoch - 1 - at.kept.epoch if at.kept else 0
        return at.epoch > self.config.epochs or bool(self.config.patience and waited >= self.config.patience)

    def _epoch(self) -> float:
        """Train what is left of the epoch and validate; returns the monitored figure."""
        at, began, done = self.at, time.perf_counter(), self.at.step
        storing_s, self.loading_s, self.storing_s = self.storing_s, 0.0, 0.0
        metrics: EpochMetrics = {"epoch": float(at.epoch), **self._train_epoch()}
        clips, trained = len(self.data.train) - done * self.config.batch_size, time.perf_counter()
        logits, val_metrics = self.validate()
        speed = Speed(
            clips=clips,
            training_s=trained - began - self.storing_s,
            loading_s=self.loading_s,
            validation_s=time.perf_counter() - trained,
            storing_s=storing_s + self.storing_s,
        )
        self.storing_s = 0.0
        at.history.append(metrics | val_metrics | (at.health.metrics if at.health else {}))
        monitored = val_metrics[self.config.monitor]
        if at.kept is None or not self.config.patience or is_better(monitored, self._monitored(at.kept), self.config.monitor):
            state = _copy_state(self.result)
            at.kept = Trained(state=state, history=list(at.history), epoch=at.epoch, val_logits=logits, health=at.health, speed=speed)
        else:
            at.kept = replace(at.kept, history=list(at.history), health=at.health, speed=speed)
        at.epoch, at.step = at.epoch + 1, 0
        return monitored

    def _monitored(self, kept: Trained) -> float:
        return kept.history[kept.epoch - 1][self.config.monitor]

    def _train_epoch(self) -> EpochMetrics:
        at = self.at
        if not at.step:
            at.learning_rate, at.health = self.schedule.learning_rate, self._gradient_health(at.epoch)
            at.sums = torch.zeros(2, device=self.device)
        self.network.train()
        if self.critic and at.epoch > self.config.epochs - self.config.self_critical_epochs:
            self.passes.critic = self.critic
        if self.config.scheduled_sampling:
            share = (at.epoch - 1) / max(1, self.config.epochs - 1)
            cast("Captioner", self.model).scheduled_sampling = self.config.scheduled_sampling * share
        for step, draws, batch in self._loaded():
            at.sums = at.sums + self._train_step(at.epoch, step, draws, batch)
            at.step = step + 1
            if self._stop_asked():
                self._save()
                raise StoppedError(f"stopped in epoch {at.epoch} of {self.config.epochs}, after step {at.step} of {len(self.batches)}")
            steps = (at.epoch - 1) * len(self.batches) + at.step
            if self.on_step and not self.world.rank and at.step < len(self.batches):
                self.on_step(steps)
            if self.checkpoints and self.checkpoints.due(steps=steps):
                self._save()
        loss, score = self.world.total(at.sums.clone()).tolist()
        clips = len(self.data.train)
        return {"learning_rate": at.learning_rate, "train_loss": loss / clips, f"train_{self.task.figure}": score / clips}

    def _stop_asked(self) -> bool:
        """Whether any worker sees the request; all get the same answer, after the same step."""
        if not self.folder:
            return False
        seen = float((self.folder / STOP_FILE).exists())
        return bool(self.world.total(torch.tensor(seen, device=self.device)))

    def _save(self, monitored: float | None = None) -> None:
        """Leave a checkpoint; the first worker writes it."""
        began = time.perf_counter()
        sums = self.world.all(self.at.sums)
        with self.world.together():
            if self.checkpoints and not self.world.rank:
                state = self.state_dict() | {"sums": sums}
                at, monitor = self.at, self.config.monitor
                self.checkpoints.save(state, epoch=at.epoch, step=at.step, monitor=monitor, monitored=monitored)
        self.storing_s += time.perf_counter() - began

    def state_dict(self) -> dict[str, Any]:
        """All that the training goes on with but each worker's sums: tensors, numbers and text in dicts and lists.

        Of what never changes, most of a model with a frozen encoder, there is a digest.
        """
        model = without(self.model.state_dict(), self.frozen)
        average = self.average and without(self.average.state_dict(), {f"module.{name}" for name in self.frozen})
        return {
            "model": model,
            "frozen": self._frozen_digest,
            "average": average and like(average, {f"module.{name}": tensor for name, tensor in model.items()}),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": self.at.to_state(self.result.state_dict(), self.frozen),
            "random": torch.get_rng_state(),
        }

    @cached_property
    def _frozen_digest(self) -> str:
        """SHA-256 over what is in no checkpoint, hex."""
        total = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            if name in self.frozen:
                total.update(name.encode() + tensor.cpu().numpy().tobytes())
        return total.hexdigest()

    def _load(self, state: dict[str, Any]) -> None:
        """The networks and the optimizer. Raises RuntimeError or ValueError where they do not fit."""
        if state["frozen"] != self._frozen_digest:
            raise ValueError("what is frozen of its encoder has other weights")
        frozen = {name: tensor for name, tensor in self.model.state_dict().items() if name in self.frozen}
        self.model.load_state_dict(state["model"] | frozen)
        if self.average:
            self.average.load_state_dict(state["average"] | {f"module.{name}": tensor for name, tensor in frozen.items()})
        self.optimizer.load_state_dict(state["optimizer"])

    def _go_on(self) -> None:
        """From the newest checkpoint, where there is one. The workers may be more or fewer than those that left it."""
        with self.world.together():
            found = self.checkpoints.newest() if self.checkpoints else None
        name = self.world.agreed(found.name if found else "")
        if not self.checkpoints or not name:
            return
        with self.world.together():
            if found is None or found.name != name:
                raise UsageError(
                    f"worker {self.world.rank} does not see the checkpoint {name} in {self.checkpoints.root}, as the first one does"
                )
            state = self.checkpoints.load(found)
            try:
                self._load(state)
            except (RuntimeError, ValueError) as error:
                raise OutputConflictError(f"the checkpoint {name} in {self.checkpoints.root} is of another network: {error}") from error
        self.schedule.load_state_dict(state["schedule"])
        self.at = Progress.from_state(state["progress"], self.result.state_dict())
        sums: Tensor = state["sums"]
        mine = sums[self.world.rank] if len(sums) == self.world.size else sums.sum(dim=0) * (self.world.rank == 0)
        self.at.sums = mine.to(self.device)
        torch.set_rng_state(state["random"])

    def _rows(self, draws: list[Draw]) -> range:
        """This worker's rows of a global batch."""
        part = self.world.part(len(draws))
        return range(part.start, part.stop)

    def _loaded(self) -> Iterator[tuple[int, list[Draw], Batch]]:
        """The steps left of the epoch: number, global batch, and this worker's part of it, read while the step before is made."""
        epoch, steps = self.at.epoch, list(enumerate(self.batches.epoch(self.at.epoch)))[self.at.step :]
        loads = [partial(self.batches.load, epoch, step, draws, self._rows(draws) or range(1)) for step, draws in steps]
        began = time.perf_counter()
        for (step, draws), batch in zip(steps, read_ahead(loads), strict=True):
            self.loading_s += time.perf_counter() - began
            yield step, draws, batch
            began = time.perf_counter()

    def _train_step(self, epoch: int, step: int, draws: list[Draw], batch: Batch) -> Tensor:
        """One optimizer step on the global batch; returns this worker's sums of loss and score."""
        weight = 1.0 if self._rows(draws) else 0.0  # a worker with no clip in a short last batch still takes part in the averaging
        self.optimizer.zero_grad(set_to_none=True)
        scale = weight * self.world.size / len(draws)  # averaged over workers this is the mean over the global batch
        sums = weight * self.passes(batch, scale=scale, seed=stable_seed(self.seed, "dropout", epoch, step))
        norm = nn.utils.clip_grad_norm_(self.learning, self.config.clip_norm)
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
        clips = ((self.batches.clip(epoch, draw), self.batches.targets(epoch, [draw])) for draw in self.batches.epoch(epoch)[0])
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


def _frozen(model: nn.Module) -> set[str]:
    """The names of the tensors that training leaves as they are: parameters that do not learn, and all of an encoder that does not."""
    parameters = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    encoders = ((name, module) for name, module in model.named_modules() if isinstance(module, Encoder))
    still = [name for name, encoder in encoders if not encoder.trainable_stages]
    return {name for name in model.state_dict() if not parameters.get(name, True) or any(name.startswith(f"{prefix}.") for prefix in still)}


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    """What may still change is copied; a frozen encoder, most of a model, is not."""
    frozen = _frozen(model)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return {name: tensor if name in frozen else tensor.clone() for name, tensor in state.items()}
