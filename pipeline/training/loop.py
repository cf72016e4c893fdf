"""The training loop: the same code in one process and on every worker of a cluster.

Nothing here depends on how the work is spread. An epoch's order, a clip's view and a step's dropout follow from the seed alone; each
worker takes its slice of every global batch, and gradients are averaged so that the step equals that of one process.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reelscribe.pipeline.config import TrainingConfig
from reelscribe.pipeline.errors import TrainingError
from reelscribe.pipeline.training.data import ClipSet, TrainingData, stable_seed

if TYPE_CHECKING:
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
    val_logits: Tensor  # (N, C) of the weights kept, in the order of the validation clips


class _FromArrays(nn.Module):
    """The recognizer as the loop calls it, on frames or on features that were computed before."""

    def __init__(self, model: Recognizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        grid = self.model.encode(inputs) if inputs.dtype == torch.uint8 else inputs.float()
        logits: Tensor = self.model.forward_head(self.model.forward_features(grid, lengths), lengths)
        return logits


class Trainer:
    """Trains one recognizer on prepared clips.

    ``wrap`` turns the network into a data-parallel one on a cluster (Ray Train's ``prepare_model``); in one process it is left out.
    """

    def __init__(
        self,
        model: Recognizer,
        config: TrainingConfig,
        data: TrainingData,
        *,
        seed: int,
        device: torch.device,
        world: World | None = None,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        self.config, self.data, self.seed, self.device = config, data, seed, device
        self.world = world or World()
        self.model = model.to(device)
        self.plain = _FromArrays(self.model)
        self.network = wrap(self.plain) if wrap else self.plain
        self.steps_per_epoch = math.ceil(len(data.train) / config.batch_size)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.model, config), lr=config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._learning_rate_factor)

    def fit(self, on_epoch: Callable[[Trained], None]) -> Trained:
        """Train for all epochs, or until the validation loss has not improved for ``patience`` epochs.

        With patience the weights with the best validation loss are kept, else the last. ``on_epoch`` is given what would be left if
        training ended now. Raises TrainingError on a gradient that is not finite.
        """
        history: list[EpochMetrics] = []
        kept: Trained | None = None
        for epoch in range(1, self.config.epochs + 1):
            metrics: EpochMetrics = {
                "epoch": float(epoch),
                "learning_rate": self.config.learning_rate * self._learning_rate_factor(self.schedule.last_epoch),
                **self._train_epoch(epoch),
            }
            logits, val_metrics = self.validate()
            history.append(metrics | val_metrics)
            if kept is None or not self.config.patience or val_metrics["val_loss"] < kept.history[kept.epoch - 1]["val_loss"]:
                kept = Trained(state=_copy_state(self.model), history=list(history), epoch=epoch, val_logits=logits)
            else:
                kept = replace(kept, history=list(history))
            on_epoch(kept)
            if self.config.patience and epoch - kept.epoch >= self.config.patience:
                break
        assert kept is not None
        return kept

    def _train_epoch(self, epoch: int) -> EpochMetrics:
        self.network.train()
        clips = self.data.train
        order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(stable_seed(self.seed, "order", epoch))).tolist()
        sums = torch.zeros(2, device=self.device)  # loss, correct
        for step in range(self.steps_per_epoch):
            batch = order[step * self.config.batch_size : (step + 1) * self.config.batch_size]
            sums += self._train_step(clips, batch, epoch, step)
        loss, correct = self.world.total(sums).tolist()
        return {"train_loss": loss / len(clips), "train_top1": correct / len(clips)}

    def _train_step(self, clips: ClipSet, batch: list[int], epoch: int, step: int) -> Tensor:
        """One optimizer step on the global batch; returns this worker's summed loss and count of correct clips."""
        part = self.world.part(len(batch))
        mine = batch[part]
        weight = 1.0 if mine else 0.0  # a worker with no clip in a short last batch still takes part in the averaging
        mine = mine or batch[:1]
        views = [stable_seed(self.seed, "view", epoch, i) % len(clips.files[i]) for i in mine]
        inputs, lengths, targets = (t.to(self.device) for t in clips.batch(mine, views))
        torch.manual_seed(stable_seed(self.seed, "dropout", epoch, step))
        self.model.set_shard(min(part.start, len(batch) - len(mine)), len(batch))
        logits = self.network(inputs, lengths)
        loss = weight * cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing, reduction="sum")
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.world.size / len(batch)).backward()  # averaged over workers this is the mean over the global batch
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        if not bool(torch.isfinite(norm)):
            raise TrainingError(
                f"epoch {epoch}, step {step + 1}: the gradient is not finite (loss {loss.item():g}); "
                "lower training.learning_rate or training.clip_norm"
            )
        self.optimizer.step()
        self.schedule.step()
        return torch.stack([loss.detach(), weight * (logits.argmax(dim=1) == targets).sum()])

    @torch.no_grad()
    def validate(self) -> tuple[Tensor, EpochMetrics]:
        """Logits (N, C) of every validation clip, on the CPU, and their loss and accuracy; each worker runs its part."""
        self.plain.eval()
        clips = self.data.val
        part = self.world.part(len(clips))
        logits = torch.zeros(len(clips), len(self.data.labels), device=self.device)
        for i in range(part.start, part.stop):  # one by one: an answer does not depend on its neighbours
            inputs, lengths, _ = clips.batch([i], [0])
            logits[i] = self.plain(inputs.to(self.device), lengths.to(self.device))[0]
        logits = self.world.total(logits).cpu()
        targets = torch.tensor(clips.targets)
        top1 = (logits.argmax(dim=1) == targets).float().mean().item()
        return logits, {"val_loss": cross_entropy(logits, targets).item(), "val_top1": top1}

    def _learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        warmup = self.config.warmup_epochs * self.steps_per_epoch
        total = self.config.epochs * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, total - warmup))))


def _parameter_groups(model: Recognizer, config: TrainingConfig) -> list[dict[str, object]]:
    """Encoder and head at their own rates; weight decay only on matrices, not on biases and norms."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.encoder_learning_rate if in_encoder else config.learning_rate,
            "weight_decay": config.weight_decay if is_matrix else 0.0,
        }
        for (in_encoder, is_matrix), parameters in groups.items()
    ]


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
