"""What the loop reads at each step. All of it follows from the seed, and nothing from how many workers share the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import WeightedRandomSampler

from reelscribe.pipeline.config import AugmentationConfig, TrainingConfig
from reelscribe.pipeline.predictor import frame_gaps, pad
from reelscribe.pipeline.training.data import ClipSet, stable_seed
from reelscribe.pipeline.training.steps.augment import augment_frames, augment_stored
from reelscribe.pipeline.training.steps.losses import IGNORED, balanced_weights
from reelscribe.pipeline.training.tasks import References, ViewTarget


class Draw(NamedTuple):
    """A clip as it comes in an epoch; ``repeat`` counts how often it came before in the same epoch."""

    clip: int
    repeat: int


class Timed(NamedTuple):
    """A clip as the network takes it."""

    array: Tensor  # (T, ...) frames uint8 or features
    gaps: Tensor  # (T,) seconds since the frame before, as they were filmed; zeros where the times of the frames are not known


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows of a global batch."""

    inputs: Tensor  # (B, T, ...) frames uint8 or features, padded with zeros
    lengths: Tensor  # (B,)
    targets: Tensor  # (B,) class indices or values, (B, C) shares of classes or labels, or (B, T) of frames or tokens
    gaps: Tensor  # (B, T) seconds since the frame before, zeros where the times of the frames are not known
    offset: int  # the first row's place in the global batch
    total: int  # rows of the global batch
    clips: tuple[int, ...] = ()  # which training clips these are

    def split(self, parts: int) -> list[Batch]:
        """At most so many batches with even shares of the rows, none of them empty."""
        sizes = [len(rows) for rows in torch.arange(len(self.lengths)).tensor_split(parts) if len(rows)]
        columns = [column.split(sizes) for column in (self.inputs, self.lengths, self.targets, self.gaps)]
        return [
            Batch(
                inputs=inputs[:, : int(lengths.max())],
                lengths=lengths,
                targets=targets,
                gaps=gaps[:, : int(lengths.max())],
                offset=self.offset + int(start),
                total=self.total,
                clips=self.clips[start : start + len(lengths)],
            )
            for inputs, lengths, targets, gaps, start in zip(*columns, np.cumsum([0, *sizes[:-1]]), strict=True)
        ]


class Batches:
    """The batches of every epoch: order, views, changes made anew in each epoch, and blends of two clips."""

    def __init__(self, clips: ClipSet, num_classes: int, training: TrainingConfig, augmentation: AugmentationConfig, *, seed: int) -> None:
        self.clips, self.num_classes, self.seed = clips, num_classes, seed
        self.training, self.augmentation = training, augmentation

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.clips) // self.training.batch_size)

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

    def clip(self, epoch: int, draw: Draw) -> Timed:
        """The clip in one of its views, changed at random."""
        array, times = self.clips.view(draw.clip, self._view(epoch, draw))
        seed = self._stored_seed(epoch, draw)
        return Timed(augment_stored(array, self.augmentation, seed=seed), frame_gaps(augment_frames(times, self.augmentation, seed=seed)))

    def targets(self, epoch: int, draws: Sequence[Draw]) -> Tensor:
        """Those of ``clip`` of each: one (B, ...) a clip, or one a frame or token (B, T) with IGNORED after the last.

        Of a clip with several captions it is one of them, another one in each epoch.
        """
        targets = [self._target(epoch, draw) for draw in draws]
        if self.clips.per_frame:
            of_frames = zip(cast("list[tuple[int, ...]]", targets), draws, strict=True)
            targets = [augment_frames(one, self.augmentation, seed=self._stored_seed(epoch, draw)) for one, draw in of_frames]
        return stack_targets(targets)

    def _target(self, epoch: int, draw: Draw) -> ViewTarget:
        target = self.clips.target(draw.clip, self._view(epoch, draw))
        if not isinstance(target, References):
            return target
        turn, place = divmod(epoch - 1 + draw.repeat, len(target.tokens))  # all in turn, in an order that differs from clip to clip
        order = np.random.default_rng(stable_seed(self.seed, "caption", turn, draw.clip)).permutation(len(target.tokens))
        return target.tokens[int(order[place])]

    def _stored_seed(self, epoch: int, draw: Draw) -> int:
        return stable_seed(self.seed, "stored", epoch, *draw)

    def _view(self, epoch: int, draw: Draw) -> int:
        return (stable_seed(self.seed, "view", epoch, draw.clip) + draw.repeat) % len(self.clips.files[draw.clip])

    def load(self, epoch: int, step: int, draws: Sequence[Draw], rows: range) -> Batch:
        """These rows of a global batch."""
        targets = self.targets(epoch, draws)
        if self.training.mixup:
            clips, targets = self._mixed(epoch, step, draws, rows, targets)
        else:
            clips = [self.clip(epoch, draws[row]) for row in rows]
        inputs, lengths = pad([clip.array for clip in clips])
        gaps, _ = pad([clip.gaps for clip in clips])
        return Batch(
            inputs=inputs,
            lengths=lengths,
            targets=targets[rows.start : rows.stop],
            gaps=gaps,
            offset=rows.start,
            total=len(draws),
            clips=tuple(draws[row].clip for row in rows),
        )

    def _mixed(self, epoch: int, step: int, draws: Sequence[Draw], rows: range, targets: Tensor) -> tuple[list[Timed], Tensor]:
        """mixup (arXiv 1710.09412): each clip of the batch blended with another, in its own time; the rows, and targets of all."""
        random = np.random.default_rng(stable_seed(self.seed, "mixup", epoch, step))
        others = random.permutation(len(draws))
        shares = torch.from_numpy(random.beta(self.training.mixup, self.training.mixup, len(draws))).float()
        clips = {row: self.clip(epoch, draws[row]) for row in {*rows, *others[rows.start : rows.stop].tolist()}}
        classes = targets.ndim == 1 and not targets.is_floating_point()
        blended = one_hot(targets, self.num_classes).float() if classes else targets.float()
        weights = shares.view(-1, *[1] * (blended.ndim - 1))
        return (
            [clips[row]._replace(array=blend(clips[row].array, clips[int(others[row])].array, float(shares[row]))) for row in rows],
            weights * blended + (1 - weights) * blended[others],
        )


def read_ahead(loads: Iterable[Callable[[], Batch]]) -> Iterator[Batch]:
    """What each gives, called in a thread while the batch before it is at work; drawing from generators of their own, they may be."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as thread:
        before: Future[Batch] | None = None
        for load in loads:
            following = thread.submit(load)
            if before:
                yield before.result()
            before = following
        if before:
            yield before.result()


def stack_targets(targets: Sequence[ViewTarget]) -> Tensor:
    """Targets of clips: (B,), or (B, C) of labels, or (B, T) of frames or tokens with IGNORED after a clip's last."""
    if not isinstance(targets[0], tuple):
        return torch.tensor(targets)
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in targets], batch_first=True, padding_value=IGNORED)


def blend(first: Tensor, second: Tensor, share: float) -> Tensor:
    """``share`` of one clip (T, ...) and the rest of another of any length, played in the same time; the type and length of the first."""
    times = (torch.arange(len(first)) * 2 + 1) * len(second) // (2 * len(first))  # the middle of each frame
    mixed = share * first.float() + (1 - share) * second[times].float()
    return (mixed if first.is_floating_point() else mixed.round()).to(first.dtype)
