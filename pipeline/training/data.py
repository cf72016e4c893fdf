"""From labelled rows to the arrays that the loop reads: what each clip becomes, and which clips fail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reelscribe.pipeline.config import AugmentationConfig, Config, Task
from reelscribe.pipeline.errors import ManifestError, VideoError
from reelscribe.pipeline.features import AnyArray, ArrayRequest, FeatureCache, Spread, module_digest
from reelscribe.pipeline.fields import labels_of
from reelscribe.pipeline.predictor import frames_tensor
from reelscribe.pipeline.sampling import DenseSampling
from reelscribe.pipeline.training.recipes.splits import Row, Splits, row_request, some
from reelscribe.pipeline.training.steps.augment import augment
from reelscribe.pipeline.training.tasks import TASKS, Target, TaskKind, Times, ViewTarget
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool

if TYPE_CHECKING:
    from reelscribe.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """Clips of one split as files of arrays: ``files[clip][view]``, and the name and target of each clip."""

    video_ids: tuple[str, ...]
    files: tuple[tuple[Path, ...], ...]
    targets: tuple[Target, ...]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def per_frame(self) -> bool:
        """Whether a target is, for each view, the classes of its frames."""
        first = self.targets[0]
        return isinstance(first, tuple) and isinstance(first[0], tuple)

    def target(self, clip: int, view: int) -> ViewTarget:
        """What the loop learns of a view of a clip."""
        target: Any = self.targets[clip]
        found: ViewTarget = target[view] if self.per_frame else target
        return found

    def view(self, clip: int, view: int) -> tuple[Tensor, Times]:
        """One view of a clip: frames uint8 (T, 3, H, W), or features (T, D, h, w); and their times, zeros where they are not known."""
        stored = np.load(self.files[clip][view])
        if not stored.dtype.names:
            return torch.from_numpy(stored), [0.0] * len(stored)
        return torch.from_numpy(np.ascontiguousarray(stored["frame"])), stored["time_s"].tolist()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A clip that could not be decoded and so is not trained on."""

    video_id: str
    failure: str
    cause: str


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Everything that the loop reads; plain paths and numbers, so that it travels to other processes."""

    labels: tuple[str, ...]
    train: ClipSet
    val: ClipSet
    failures: tuple[Failure, ...]
    task: Task = "single_label"

    @property
    def digest(self) -> str:
        """SHA-256 over labels, clips, targets and the names of the arrays, which the cache gives by their content; hex."""
        splits = [[clips.video_ids, clips.targets, [[f.name for f in views] for views in clips.files]] for clips in (self.train, self.val)]
        return hashlib.sha256(repr([self.labels, self.task, splits]).encode()).hexdigest()


def prepare(
    splits: Splits,
    config: Config,
    model: Backbone,
    *,
    pool: DecodePool | Spread,
    cache: FeatureCache,
    progress: Callable[[int, int], None],
) -> TrainingData:
    """Decode every clip, once per view, and store what the loop needs: grid features if the encoder is frozen, else frames.

    ``progress`` is called with arrays done and arrays wanted. Clips that fail are left out and listed; raises ManifestError if
    validation has none left, or training none of some label.
    """
    recipe = _Recipe(config, model)
    train = [recipe.requests(row, train=True) for row in splits.train]
    val = [recipe.requests(row, train=False) for row in splits.val]
    wanted = dict.fromkeys(request for clip in train + val for request in clip)
    have: dict[ArrayRequest, Path | VideoError] = {}
    for request, result in cache.fill(wanted, pool=pool, compute=recipe.compute):
        have[request] = result
        progress(len(have), len(wanted))
    failures: dict[str, Failure] = {}
    target = partial(_target, TASKS[config.task], splits.labels)
    data = TrainingData(
        labels=splits.labels,
        train=_clip_set(splits.train, train, have, target, failures),
        val=_clip_set(splits.val, val, have, target, failures),
        failures=tuple(failures.values()),
        task=config.task,
    )
    if lost := _lost(splits, data):
        first = data.failures[0]
        raise ManifestError(f"{config.data.manifest}: {lost} can be decoded; {first.video_id}: {first.cause}")
    return data


def _lost(splits: Splits, data: TrainingData) -> str:
    """What training cannot do without and no clip that was decoded has; empty where all is there."""
    trained = set(data.train.video_ids)
    wanted = {label for row in splits.train for label in labels_of(row, data.task)}
    left = {label for row in splits.train if row["video_id"] in trained for label in labels_of(row, data.task)}
    if gone := sorted(wanted - left):
        return f"no training clip of {some(gone)}"
    if data.task == "value" and len(set(data.train.targets)) < 2:
        return "no two training clips of different values"
    return "" if data.val.targets and data.train.targets else f"no {'validation' if data.train.targets else 'training'} clip"


def _clip_set(
    rows: list[Row],
    requests: list[list[ArrayRequest]],
    have: dict[ArrayRequest, Path | VideoError],
    target: Callable[[Row, list[Path]], Target],
    failures: dict[str, Failure],
) -> ClipSet:
    """The clips all of whose arrays are there; the others are added to ``failures``."""
    video_ids, files, targets = [], [], []
    for row, views in zip(rows, requests, strict=True):
        results = [have[request] for request in views]
        error = next((result for result in results if isinstance(result, VideoError)), None)
        if error:
            failures[row["video_id"]] = Failure(video_id=row["video_id"], failure=error.failure, cause=str(error))
        else:
            video_ids.append(row["video_id"])
            paths = [result for result in results if isinstance(result, Path)]
            files.append(tuple(paths))
            targets.append(target(row, paths))
    return ClipSet(video_ids=tuple(video_ids), files=tuple(files), targets=tuple(targets))


def _target(task: TaskKind, labels: tuple[str, ...], row: Row, files: list[Path]) -> Target:
    views = [np.load(file)["time_s"].tolist() for file in files] if task.needs_times else []
    return task.target(row, labels, views)


class _Recipe:
    """What a clip becomes before the loop sees it."""

    def __init__(self, config: Config, model: Backbone) -> None:
        self.config = config
        self.model = model
        # one view a clip: several are for the final evaluation and for labelling
        self.sampling = (
            config.sampling.model_copy(update={"num_views": 1}) if isinstance(config.sampling, DenseSampling) else config.sampling
        )
        self.timed = ("timed",) if TASKS[config.task].needs_times or config.model.time_gaps else ()
        self.frozen = config.model.trainable_stages == 0
        self.encoder_digest = f"{module_digest(model.encoder)} of {config.model.encoder_input}" if self.frozen else "frames"

    def requests(self, row: Row, *, train: bool) -> list[ArrayRequest]:
        """The plain clip for validation; ``augmentation.views`` changed copies for training."""
        if not train:
            return [ArrayRequest(clip=self._clip(row, jitter_seed=None), recipe=(self.encoder_digest, *self.timed))]
        settings = self.config.augmentation
        changes = settings.of_pixels if settings.of_pixels != AugmentationConfig().of_pixels else None
        requests = []
        for view in range(settings.views):
            seed = stable_seed(self.config.seed, row["video_id"], view)
            clip = self._clip(row, jitter_seed=seed if settings.time_jitter else None)
            drawn = (json.dumps(changes), str(seed)) if changes else ()  # else the same for every seed, and made once
            requests.append(ArrayRequest(clip=clip, recipe=(self.encoder_digest, *drawn, *self.timed)))
        return requests

    def _clip(self, row: Row, *, jitter_seed: int | None) -> ClipRequest:
        size, backend = self.config.transform.frame_size, self.config.decode.backend
        return row_request(row, sampling=self.sampling, size=size, backend=backend, jitter_seed=jitter_seed)

    @torch.inference_mode()
    def compute(self, clip: Clip, request: ArrayRequest) -> AnyArray:
        """The array of the clip's first view: features float16 (T, D, h, w), or frames uint8 (T, 3, H, W).

        Where task or model need times, records (T,) of that as ``frame``, and ``time_s``, seconds from the first frame of the file.
        """
        array = self._frames(clip, request)
        if not self.timed:
            return array
        records = np.empty(len(array), [("time_s", np.float64), ("frame", array.dtype, array.shape[1:])])
        records["time_s"], records["frame"] = np.array(clip.views[0].pts_seconds) - clip.info.begin_s, array
        return records

    def _frames(self, clip: Clip, request: ArrayRequest) -> AnyArray:
        frames = frames_tensor(clip.views[0].pixels)
        if len(request.recipe) > 1 + len(self.timed):
            frames = augment(frames, self.config.augmentation, seed=int(request.recipe[2]))
        if not self.frozen:
            return frames.numpy()
        device = next(self.model.parameters()).device
        array: AnyArray = self.model.encode(frames[None].to(device))[0].half().cpu().numpy()
        return array


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all parts and on nothing else (not on the process, as ``hash`` does)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
