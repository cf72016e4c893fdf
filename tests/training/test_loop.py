"""The loop: the same numbers however the work is spread, and it learns."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing

from reelscribe.models.recognizer import Recognizer
from reelscribe.pipeline.config import TrainingConfig
from reelscribe.pipeline.errors import TrainingError
from reelscribe.pipeline.training.data import ClipSet, TrainingData
from reelscribe.pipeline.training.loop import Trained, Trainer, World

LABELS = ("forward", "backward")
CONFIG = TrainingConfig(epochs=3, batch_size=4, learning_rate=3e-3, warmup_epochs=1)


def drawn_data(folder: Path, *, train: int, val: int) -> TrainingData:
    """A bright bar that moves right, or the same frames backwards; two views each, lengths of 5 to 7 frames."""
    rng = np.random.default_rng(0)

    def clip_set(name: str, count: int, views: int) -> ClipSet:
        files, targets = [], []
        for i in range(count):
            paths = []
            for view in range(views):
                frames = np.zeros((int(rng.integers(5, 8)), 3, 16, 16), np.uint8)
                for t, frame in enumerate(frames):
                    frame[:, :, 2 * t : 2 * t + 3] = rng.integers(150, 255)
                paths.append(folder / f"{name}-{i}-{view}.npy")
                np.save(paths[-1], frames[::-1] if i % 2 else frames)
            files.append(tuple(paths))
            targets.append(i % 2)
        return ClipSet(video_ids=tuple(f"{name}-{i}" for i in range(count)), files=tuple(files), targets=tuple(targets))

    return TrainingData(labels=LABELS, train=clip_set("train", train, 2), val=clip_set("val", val, 1), failures=())


def recognizer(*, dropout: float = 0.2) -> Recognizer:
    torch.manual_seed(7)
    return Recognizer(
        num_classes=2,
        frame_size=(16, 16),
        encoder="tiny",
        weights="none",
        stride=4,
        trainable_stages=2,
        projection=8,
        hidden_size=16,
        dropout=dropout,
    )


def fit(data: TrainingData, config: TrainingConfig = CONFIG, *, seed: int = 0, **keywords: Any) -> Trained:
    return Trainer(recognizer(), config, data, seed=seed, device=torch.device("cpu"), **keywords).fit(lambda _: None)


def test_a_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=10, val=4)
    first, again, other = fit(data), fit(data), fit(data, seed=1)
    assert first.history == again.history
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert first.history != other.history


def _one_rank(rank: int, size: int, port: int, folder: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    data = drawn_data(Path(folder) / str(rank), train=13, val=5)
    trained = fit(data, world=World(rank, size), wrap=torch.nn.parallel.DistributedDataParallel)
    if rank == 0:
        torch.save((trained.state, trained.history), out)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_of_a_process_group_give_the_numbers_of_one_process(tmp_path: Path, workers: int) -> None:
    """13 clips in batches of 4: the last batch has one clip, so that some workers have none in it."""
    for name in ("alone", *map(str, range(workers))):
        (tmp_path / name).mkdir()
    alone = fit(drawn_data(tmp_path / "alone", train=13, val=5))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = tmp_path / "spread.pt"
    torch.multiprocessing.spawn(_one_rank, (workers, port, str(tmp_path), str(out)), nprocs=workers)
    state, history = torch.load(out, weights_only=True)
    for mine, theirs in zip(alone.history, history, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    for name, tensor in alone.state.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-4)


def test_it_learns_what_only_order_tells(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=16, val=8)
    trained = fit(data, CONFIG.model_copy(update={"epochs": 30}))
    assert trained.history[-1]["val_top1"] == 1.0
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]
    assert trained.epoch == 30


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=8, val=4)
    data = replace(data, val=replace(data.val, targets=tuple(1 - t for t in data.val.targets)))  # learning makes it worse
    seen: list[int] = []
    config = CONFIG.model_copy(update={"epochs": 40, "patience": 4})
    trainer = Trainer(recognizer(), config, data, seed=0, device=torch.device("cpu"))
    trained = trainer.fit(lambda t: seen.append(t.epoch))
    losses = [m["val_loss"] for m in trained.history]
    assert len(losses) < 40
    assert trained.epoch == losses.index(min(losses)) + 1
    assert len(losses) == trained.epoch + 4
    assert len(seen) == len(losses)


def test_learning_rate_warms_up_and_falls_to_nothing(tmp_path: Path) -> None:
    trained = fit(drawn_data(tmp_path, train=8, val=2), CONFIG.model_copy(update={"epochs": 6, "warmup_epochs": 2}))
    rates = [m["learning_rate"] for m in trained.history]
    assert rates[0] < rates[1] < CONFIG.learning_rate
    assert rates[2] == pytest.approx(CONFIG.learning_rate, rel=1e-6)
    assert rates[2] > rates[3] > rates[4] > rates[5] > 0


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=4, val=2)
    model = recognizer()
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    before = model.classifier.bias.clone()
    with pytest.raises(TrainingError, match=r"epoch 1, step 1: the loss .nan. or its gradient"):
        Trainer(model, CONFIG, data, seed=0, device=torch.device("cpu")).fit(lambda _: None)
    assert torch.equal(model.classifier.bias, before)


def test_only_matrices_decay_and_the_encoder_has_its_own_rate() -> None:
    from reelscribe.pipeline.training.optimization import parameter_groups

    model = recognizer()
    groups = parameter_groups(model, CONFIG)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}  # type: ignore[attr-defined]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            lr, decay = rates[id(parameter)]
            assert lr == (CONFIG.encoder_learning_rate if name.startswith("encoder.") else CONFIG.learning_rate)
            assert decay == (CONFIG.weight_decay if parameter.ndim > 1 else 0.0)
        else:
            assert id(parameter) not in rates
