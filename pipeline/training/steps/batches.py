"""What the loop reads at each step. All of it follows from the seed, and nothing from how many workers share the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import WeightedRandomSampler

from reelscribe.pipeline.config import AugmentationConfig, TrainingConfig
from reelscribe.pipeline.predictor import pad
from reelscribe.pipeline.training.data import ClipSet, stable_seed
from reelscribe.pipeline.training.steps.augment import augment_stored, augment_targets
from reelscribe.pipeline.training.steps.losses import IGNORED, balanced_weights
from reelscribe.pipeline.training.tasks import References, Target


class Draw(NamedTuple):
    """A clip as it comes in an epoch; ``repeat`` counts how often it came before in the same epoch."""

    clip: int
    repeat: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows of a global batch."""

    inputs: Tensor  # (B, T, ...) frames uint8 or features, padded with zeros
    lengths: Tensor  # (B,)
    targets: Tensor  # (B,) class indices or values, (B, C) shares of classes or labels, or (B, T) of frames or tokens
    offset: int  # the first row's place in the global batch
    total: int  # rows of the global batch
    clips: tuple[int, ...] = ()  # which training clips these are

    def split(self, parts: int) -> list[Batch]:
        """At most so many batches with even shares of the rows, none of them empty."""
        sizes = [len(rows) for rows in torch.arange(len(self.lengths)).tensor_split(parts) if len(rows)]
        columns = zip(
            *(column.split(sizes) for column in (self.inputs, self.lengths, self.targets)), np.cumsum([0, *sizes[:-1]]), strict=True
        )
        return [
            Batch(
                inputs=inputs[:, : int(lengths.max())],
                lengths=lengths,
                targets=targets,
                offset=self.offset + int(start),
                total=self.total,
                clips=self.clips[start : start + len(lengths)],
            )
            for inputs, lengths, targets, start in columns
        ]


class Batches:
    """The batches of every epoch: order, views, changes made anew in each epoch, and blends of two clips."""

    def __init__(self, clips: ClipSet, num_classes: int, training: TrainingConfig, augmentation: AugmentationConfig, *, seed: int) -> None:
        self.clips, self.num_classes, self.seed = clips, num_classes, seed
        self.training, self.augmentation = training, augmentation

    def epoch(self, epoch: int) -> list[list[Draw]]:
        """The global batches of an epoch: every clip once, or with ``balanced_sampling`` as many draws, in which classes come alike."""
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "order", epoch))
        count = len(self.clips)
        if self.training.balanced_sampling:
            targets = cast("tuple[int, ...]", self.clips.targets)  # only of classes, see Config
            weights = balanced_weights(targets, self.num_classes)[torch.tensor(targets)]
            order = list(WeightedRandomSampler(weights.tolist(), count, generator=generator))
        else:
            order = torch.randperm(count, generator=generator).tolist()
        seen: Counter[int] = Counter()
        draws = []
        for clip in order:
            draws.append(Draw(clip, seen[clip]))
            seen[clip] += 1
        return [draws[start : start + self.training.batch_size] for start in range(0, count, self.training.batch_size)]

    def array(self, epoch: int, draw: Draw) -> Tensor:
        """The clip in one of its views, changed at random: (T, ...)."""
        array = self.clips.array(draw.clip, self._view(epoch, draw))
        return augment_stored(array, self.augmentation, seed=stable_seed(self.seed, "stored", epoch, *draw))

    def targets(self, epoch: int, draws: Sequence[Draw]) -> Tensor:
        """Those of ``array`` of each: one (B, ...) a clip, or one a frame or token (B, T) with IGNORED after the last.

        Of a clip with several captions it is one of them, another one in each epoch.
        """
        targets = [self.clips.targets[draw.clip] for draw in draws]
        if isinstance(targets[0], References):
            said = cast("list[References]", targets)
            return pad_targets(
                [those.tokens[self._caption(epoch, draw, len(those.tokens))] for those, draw in zip(said, draws, strict=True)]
            )
        if not per_frame(targets):
            return torch.tensor(targets)
        views = [cast("tuple[tuple[int, ...], ...]", target)[self._view(epoch, draw)] for target, draw in zip(targets, draws, strict=True)]
        seeds = [stable_seed(self.seed, "stored", epoch, *draw) for draw in draws]
        return pad_targets([augment_targets(view, self.augmentation, seed=seed) for view, seed in zip(views, seeds, strict=True)])

    def _caption(self, epoch: int, draw: Draw, count: int) -> int:
        """All in turn, in an order that differs from clip to clip."""
        turn, place = divmod(epoch - 1 + draw.repeat, count)
        return int(np.random.default_rng(stable_seed(self.seed, "caption", turn, draw.clip)).permutation(count)[place])

    def _view(self, epoch: int, draw: Draw) -> int:
        return (stable_seed(self.seed, "view", epoch, draw.clip) + draw.repeat) % len(self.clips.files[draw.clip])

    def load(self, epoch: int, step: int, draws: Sequence[Draw], rows: range) -> Batch:
        """These rows of a global batch."""
        targets = self.targets(epoch, draws)
        if self.training.mixup:
            arrays, targets = self._mixed(epoch, step, draws, rows, targets)
        else:
            arrays = [self.array(epoch, draws[row]) for row in rows]
        inputs, lengths = pad(arrays)
        return Batch(
            inputs=inputs,
            lengths=lengths,
            targets=targets[rows.start : rows.stop],
            offset=rows.start,
            total=len(draws),
            clips=tuple(draws[row].clip for row in rows),
        )

    def _mixed(self, epoch: int, step: int, draws: Sequence[Draw], rows: range, targets: Tensor) -> tuple[list[Tensor], Tensor]:
        """mixup (arXiv 1710.09412): each clip of the batch blended with another; arrays of the rows, and targets of all."""
        random = np.random.default_rng(stable_seed(self.seed, "mixup", epoch, step))
        others = random.permutation(len(draws))
        shares = torch.from_numpy(random.beta(self.training.mixup, self.training.mixup, len(draws))).float()
        arrays = {row: self.array(epoch, draws[row]) for row in {*rows, *others[rows.start : rows.stop].tolist()}}
        classes = targets.ndim == 1 and not targets.is_floating_point()
        blended = one_hot(targets, self.num_classes).float() if classes else targets.float()
        weights = shares.view(-1, *[1] * (blended.ndim - 1))
        return (
            [blend(arrays[row], arrays[int(others[row])], float(shares[row])) for row in rows],
            weights * blended + (1 - weights) * blended[others],
        )


def per_frame(targets: Sequence[Target]) -> bool:
    """Whether these are, for each view, the classes of its frames."""
    return isinstance(targets[0], tuple) and isinstance(targets[0][0], tuple)


def pad_targets(targets: Sequence[Sequence[int]]) -> Tensor:
    """Classes of frames, or tokens, in rows of any length: (B, T)."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in targets], batch_first=True, padding_value=IGNORED)


def blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    """``share`` of one clip (T, ...) and the rest of another of any length, played in the same time; the type and length of the first."""
    times = (torch.arange(len(first)) * 2 + 1) * len(second) // (2 * len(first))  # the middle of each frame
    mixed = share * first.float() + (1 - share) * second[times].float()
    return (mixed if first.is_floating_point() else mixed.round()).to(first.dtype)
