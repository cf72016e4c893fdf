"""Training against a plain PyTorch loop over the same data, in one run: how many clips a second, and does more than one worker help?

    python benchmarks/training.py                      # some minutes on two cores
    python benchmarks/training.py --clips 64 --turns 2

Cached: stored features of 16 frames, as a frozen encoder gives them, through a GRU; ours with checkpoints, the loop of PyTorch's tutorial
(Dataset, DataLoader, AdamW) without. Decode-bound: drawn H.264 clips and a small network; the plain loop decodes each clip by decord in
every epoch, ours decodes on all cores and stores. Contenders take turns, each turn gives a ratio, and the median of the turns counts.

    python benchmarks/training.py --curves curves.png  # a minute: the losses of 1, 2 and 4 workers, and of a training that is interrupted

Each interruption comes between two checkpoints, and another number of workers goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import decord
import numpy as np
import torch
import torch.multiprocessing
from machine import machine
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from reelscribe.models.recognizer import Recognizer
from reelscribe.pipeline.config import CheckpointConfig, Config, TrainingConfig, usable_cores
from reelscribe.pipeline.drawing.order import draw_order_dataset
from reelscribe.pipeline.features import FeatureCache
from reelscribe.pipeline.manifest import read_manifest
from reelscribe.pipeline.training.checkpoints import Checkpoints
from reelscribe.pipeline.training.data import ClipSet, TrainingData, prepare
from reelscribe.pipeline.training.loop import Trainer, World
from reelscribe.pipeline.training.progress import EpochMetrics, Trained
from reelscribe.pipeline.training.recipes.splits import split_rows
from reelscribe.pipeline.training.steps.passes import ArrayNetwork
from reelscribe.pipeline.video.sandbox.pool import DecodePool

FRAMES, CLASSES, BATCH = 16, 8, 16
TRAINING = TrainingConfig(epochs=3, batch_size=BATCH, label_smoothing=0)


class Taken(NamedTuple):
    wall_s: float
    processor_s: float  # on a machine with other work, the fairer one


def now() -> Taken:
    return Taken(time.perf_counter(), time.process_time())


def since(begin: Taken) -> Taken:
    end = now()
    return Taken(end.wall_s - begin.wall_s, end.processor_s - begin.processor_s)


def network(**changes: Any) -> Recognizer:
    torch.manual_seed(0)
    sizes = {"num_classes": CLASSES, "frame_size": (96, 128), "weights": "none", "hidden_size": 128}
    return Recognizer(**sizes | changes)


def stored_features(folder: Path, clips: int) -> TrainingData:
    """Noise of the shape of the default encoder's grid."""
    rng, shape = np.random.default_rng(0), (FRAMES, network().encoder.channels, 6, 8)

    def clip_set(name: str, count: int) -> ClipSet:
        files = []
        for i in range(count):
            files.append((folder / f"{name}-{i}.npy",))
            np.save(files[-1][0], rng.standard_normal(shape).astype(np.float16))
        return ClipSet(video_ids=tuple(map(str, range(count))), files=tuple(files), targets=tuple(i % CLASSES for i in range(count)))

    labels = tuple(map(str, range(CLASSES)))
    return TrainingData(labels=labels, train=clip_set("train", clips), val=clip_set("val", 1), failures=())


def answers(network: ArrayNetwork, inputs: Tensor) -> Tensor:
    """Of clips that are all as long as each other, at times that do not matter."""
    logits: Tensor = network(inputs, torch.full((len(inputs),), inputs.shape[1]), torch.zeros(inputs.shape[:2]))[0]
    return logits


def plain_loop(model: Recognizer, train: Dataset[tuple[Tensor, int]], val: Dataset[tuple[Tensor, int]], epochs: int) -> Taken:
    """The loop that everybody writes."""
    loop = ArrayNetwork(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    begin = now()
    for _ in range(epochs):
        loop.train()
        for inputs, targets in DataLoader(train, batch_size=BATCH, shuffle=True):
            logits = answers(loop, inputs)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, targets).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        loop.eval()
        with torch.no_grad():
            for inputs, _ in DataLoader(val, batch_size=1):
                answers(loop, inputs)
    return since(begin)


class StoredClips(Dataset[tuple[Tensor, int]]):
    def __init__(self, clips: ClipSet) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.from_numpy(np.load(self.clips.files[i][0])), int(self.clips.targets[i])  # type: ignore[arg-type]


class VideoClips(Dataset[tuple[Tensor, int]]):
    """decord as its documentation shows it."""

    def __init__(self, videos: list[tuple[str, int]]) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        uri, target = self.videos[i]
        reader = decord.VideoReader(uri.removeprefix("file://"), width=128, height=96)
        frames = reader.get_batch(np.linspace(0, len(reader) - 1, FRAMES).astype(int)).asnumpy()
        return torch.from_numpy(frames).permute(0, 3, 1, 2), target


def ours(
    data: TrainingData,
    model: Recognizer,
    epochs: int,
    folder: Path | None = None,
    settings: CheckpointConfig | None = None,
    on_epoch: Callable[[Trained], None] = lambda _: None,
    **keywords: Any,
) -> tuple[Trained, Taken]:
    """What the loop leaves, and what it took, checkpoints included."""
    kept = Checkpoints(root=str(folder), config=settings or CheckpointConfig(), recipe={}, data_digest="") if folder else None
    config = TRAINING.model_copy(update={"epochs": epochs})
    trainer = Trainer(model, config, data, seed=0, device=torch.device("cpu"), checkpoints=kept, **keywords)
    begin = now()
    trained = trainer.fit(on_epoch)
    return trained, since(begin)


def cached(data: TrainingData, turns: int, folder: Path) -> None:
    train, val, epochs = StoredClips(data.train), StoredClips(data.val), TRAINING.epochs
    measure: dict[str, Callable[[int], Taken]] = {
        "plain PyTorch loop": lambda _: plain_loop(network(), train, val, epochs),
        "ours": lambda _: ours(data, network(), epochs)[1],
        "ours, a checkpoint each epoch": lambda turn: ours(data, network(), epochs, folder / str(turn))[1],
    }
    _, *rows = [{name: work(turn) for name, work in measure.items()} for turn in range(turns + 1)]  # the first is to warm up
    show("cached features", epochs * len(data.train), rows)


def decode_bound(folder: Path, clips: int, turns: int) -> None:
    """Small frames of drawn videos; a small network, so that decoding is most of it."""
    manifest = draw_order_dataset(folder / "drawn", num_videos=clips, broken_share=0)
    config = Config.model_validate(
        {
            "name": "decode",
            "data": {"manifest": str(manifest)},
            "sampling": {"num_frames": FRAMES},
            "transform": {"height": 96, "width": 128},
            "augmentation": {"time_jitter": False},
            "model": {"encoder": "tiny", "weights": "none", "stride": 4, "trainable_stages": 2},
        }
    )
    splits = split_rows(read_manifest(str(manifest), require_labels=True, task="single_label"), config.data, "single_label")
    train, val = (VideoClips([(row["uri"], splits.labels.index(row["label"])) for row in rows]) for rows in (splits.train, splits.val))
    tiny = partial(network, encoder="tiny", stride=4, trainable_stages=2, num_classes=len(splits.labels))

    def with_decoding(turn: int, epochs: int) -> Taken:
        begin = now()
        cache = FeatureCache(folder / f"cache-{turn}-{epochs}")
        with DecodePool(usable_cores(), config.decode.limits) as pool:
            data = prepare(splits, config, tiny(), pool=pool, cache=cache, progress=lambda *_: None)
        ours(data, tiny(), epochs)
        return since(begin)

    for epochs in (1, 5):
        rows = [
            {"plain PyTorch loop": plain_loop(tiny(), train, val, epochs), "ours": with_decoding(turn, epochs)} for turn in range(turns)
        ]
        show(f"decode-bound, {epochs} epoch(s)", epochs * len(train), rows)


def _one_of_many(rank: int, size: int, port: int, data: TrainingData, out: str, keywords: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    wrap = partial(nn.parallel.DistributedDataParallel, find_unused_parameters=True)
    with contextlib.suppress(CutError):
        trained, taken = ours(data, network(), world=World(rank, size), wrap=wrap, **keywords)
        if rank == 0:
            torch.save((tuple(taken), trained.history), out)
    torch.distributed.destroy_process_group()


def in_processes(data: TrainingData, size: int, out: Path, **keywords: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_one_of_many, (size, port, data, str(out), keywords), nprocs=size)


def spread(data: TrainingData, size: int, out: Path, **keywords: Any) -> tuple[list[EpochMetrics], Taken]:
    """The history, and what the first of ``size`` processes took, without their start."""
    in_processes(data, size, out, **keywords)
    taken, history = torch.load(out, weights_only=True)
    return history, Taken(*taken)


def workers(data: TrainingData, turns: int, folder: Path) -> None:
    """Two processes of one thread each against one; without the start of the processes."""
    rows = []
    for turn in range(turns):
        _, taken = ours(data, network(), TRAINING.epochs)
        rows.append({"1 worker": taken, "2 workers": spread(data, 2, folder / f"two-{turn}.pt", epochs=TRAINING.epochs)[1]})
    show("cached features, processes of one thread", TRAINING.epochs * len(data.train), rows)


class CutError(Exception):
    """Instead of a kill."""


def cut_in_epoch_4(trained: Trained) -> None:
    if trained.epoch == 4:
        raise CutError


def interrupted(data: TrainingData, epochs: int, folder: Path) -> list[EpochMetrics]:
    """Stopped three times after a checkpoint; one process, then two, then one."""
    settings = CheckpointConfig(every_steps=2)
    for steps in (8, 20):

        def cut(done: int, last: int = steps) -> None:
            if done == last:
                raise CutError

        with contextlib.suppress(CutError):
            ours(data, network(), epochs, folder, settings=settings, on_step=cut)
        if steps == 8:
            in_processes(data, 2, folder / "two.pt", epochs=epochs, folder=folder, settings=settings, on_epoch=cut_in_epoch_4)
    return ours(data, network(), epochs, folder, settings=settings)[0].history


def curves(folder: Path, picture: Path) -> None:
    """Losses side by side, the largest difference from one worker, and a picture."""
    import matplotlib.pyplot as plt

    data, epochs = stored_features(folder, 35), 8  # an uneven last batch
    histories = {"1 worker": ours(data, network(), epochs)[0].history}
    for size in (2, 4):
        histories[f"{size} workers"] = spread(data, size, folder / f"{size}.pt", epochs=epochs)[0]
    histories["interrupted"] = interrupted(data, epochs, folder / "cut")
    first = histories["1 worker"]
    figure, (losses, differences) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    print("| | largest difference of a training loss | of a validation loss |\n|---|---|---|")
    for name, history in histories.items():
        gaps = {key: [abs(a[key] - b[key]) for a, b in zip(first, history, strict=True)] for key in ("train_loss", "val_loss")}
        print(f"| {name} | {max(gaps['train_loss']):.2g} | {max(gaps['val_loss']):.2g} |")
        losses.plot([one["epoch"] for one in history], [one["train_loss"] for one in history], label=name, alpha=0.6)
        differences.plot([one["epoch"] for one in history], gaps["train_loss"], label=name)
    losses.set(xlabel="epoch", ylabel="training loss")
    differences.set(xlabel="epoch", ylabel="difference from 1 worker")
    losses.legend()
    figure.savefig(picture, dpi=110)


def show(what: str, clips: int, rows: list[dict[str, Taken]]) -> None:
    """The first contender is what the others are compared with."""
    first = next(iter(rows[0]))
    print(f"| {what} | clips/s | against the {first} | in processor time of the main process |\n|---|---|---|---|")
    for name in rows[0]:
        rate = statistics.median(clips / row[name].wall_s for row in rows)
        wall = statistics.median(row[first].wall_s / row[name].wall_s for row in rows)
        processor = statistics.median(row[first].processor_s / row[name].processor_s for row in rows)
        print(f"| {name} | {rate:.1f} | {wall:.2f} | {processor:.2f} |")
    print(flush=True)


def main(clips: int, turns: int, picture: Path | None) -> None:
    torch.set_num_threads(1)
    print(f"{machine('torch', 'decord')}; {clips} clips, median of {turns} turns, one thread a process\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if picture:
            curves(folder, picture)
            return
        data = stored_features(folder, clips)
        cached(data, turns, folder)
        workers(data, turns, folder)
        decode_bound(folder, clips, turns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=Path, metavar="PICTURE.png")
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--turns", type=int, default=5)
    chosen = parser.parse_args()
    main(chosen.clips, chosen.turns, chosen.curves)
