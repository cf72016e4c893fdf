"""A training of seconds: clips that only order tells apart, and a recognizer small enough for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from reelscribe.models.captioner import Captioner
from reelscribe.models.recognizer import Recognizer
from reelscribe.pipeline.captions import CaptionConfig
from reelscribe.pipeline.config import Task, TrainingConfig
from reelscribe.pipeline.training.data import ClipSet, TrainingData
from reelscribe.pipeline.training.loop import Trainer
from reelscribe.pipeline.training.progress import Trained
from reelscribe.pipeline.training.tasks import TASKS, Target
from reelscribe.pipeline.vocabulary import word_vocabulary

LABELS = ("forward", "backward")
SAID = (("the bar goes right", "a bar goes to the right"), ("the bar goes left", "a bar goes to the left", "it goes left"))
WORDS = word_vocabulary([caption for captions in SAID for caption in captions], min_count=1)
CONFIG = TrainingConfig(epochs=3, batch_size=4, learning_rate=3e-3, warmup_epochs=1)


def drawn_data(folder: Path, *, train: int, val: int, task: Task = "single_label") -> TrainingData:
    """A bright bar that moves right, or the same frames backwards; two views each, lengths of 5 to 7 frames."""
    rng = np.random.default_rng(0)

    def clip_set(name: str, count: int, views: int) -> ClipSet:
        files: list[tuple[Path, ...]] = []
        targets: list[Target] = []
        for i in range(count):
            paths, lengths = [], []
            for view in range(views):
                frames = np.zeros((int(rng.integers(5, 8)), 3, 16, 16), np.uint8)
                for t, frame in enumerate(frames):
                    frame[:, :, 2 * t : 2 * t + 3] = rng.integers(150, 255)
                paths.append(folder / f"{name}-{i}-{view}.npy")
                np.save(paths[-1], frames[::-1] if i % 2 else frames)
                lengths.append(len(frames))
            files.append(tuple(paths))
            targets.append(_target(task, i % 2, lengths))
        return ClipSet(video_ids=tuple(f"{name}-{i}" for i in range(count)), files=tuple(files), targets=tuple(targets))

    return TrainingData(
        labels=WORDS if task == "caption" else LABELS,
        train=clip_set("train", train, 2),
        val=clip_set("val", val, 1),
        failures=(),
        task=task,
    )


def _target(task: Task, kind: int, lengths: list[int]) -> Target:
    match task:
        case "single_label":
            return kind
        case "multi_label":
            return (kind, 1)
        case "value":
            return 100.0 + 20 * kind
        case "caption":
            return TASKS["caption"].target({"captions": SAID[kind]}, WORDS)
        case "dense":  # each frame has the clip's class, but the first, which tells nothing
            return tuple((0, *[kind] * (length - 1)) for length in lengths)


def recognizer(*, dropout: float = 0.2, **keywords: Any) -> Recognizer:
    """For 16 x 16 pixels, both stages of the encoder learning."""
    torch.manual_seed(7)
    sizes = {"num_classes": 2, "encoder": "tiny", "weights": "none", "stride": 4, "trainable_stages": 2, "projection": 8, "hidden_size": 16}
    return Recognizer(frame_size=(16, 16), dropout=dropout, **(sizes | keywords))


def captioner(data: TrainingData, *, dropout: float = 0.2, **keywords: Any) -> Captioner:
    """The same size, for the words of the data."""
    torch.manual_seed(7)
    sizes = {
        "encoder": "tiny",
        "weights": "none",
        "stride": 4,
        "trainable_stages": 2,
        "projection": 8,
        "hidden_size": 16,
        "embedding_size": 8,
    }
    return Captioner(num_tokens=len(data.labels), frame_size=(16, 16), dropout=dropout, **(sizes | keywords))


def trainer(data: TrainingData, config: TrainingConfig = CONFIG, *, seed: int = 0, **keywords: Any) -> Trainer:
    """On the CPU, of a new recognizer."""
    if data.task == "caption":
        keywords = {"model": captioner(data), "caption": CaptionConfig(max_length=8), **keywords}
    return Trainer(
        keywords.pop("model", None) or recognizer(num_classes=1 if data.task == "value" else 2, per_frame=data.task == "dense"),
        config,
        data,
        seed=seed,
        device=torch.device("cpu"),
        **keywords,
    )


def fit(data: TrainingData, config: TrainingConfig = CONFIG, **keywords: Any) -> Trained:
    """Train to the end."""
    return trainer(data, config, **keywords).fit(lambda _: None)
