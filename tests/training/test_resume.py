"""A training that was stopped ends as if it had not been: real processes killed with SIGKILL, and every other stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_training import CONFIG, drawn_data, fit, recognizer, trainer

from reelscribe.pipeline.config import AugmentationConfig, CheckpointConfig, TrainingConfig
from reelscribe.pipeline.errors import OutputConflictError, StoppedError
from reelscribe.pipeline.training.checkpoints import Checkpoints
from reelscribe.pipeline.training.data import TrainingData
from reelscribe.pipeline.training.loop import Trainer
from reelscribe.pipeline.training.progress import Trained
from reelscribe.pipeline.training.stopping import STOP_FILE, stoppable

# All that has a state of its own, at once.
EVERYTHING = CONFIG.model_copy(
    update={
        "schedule": "plateau",
        "plateau_patience": 0,
        "monitor": "val_top1",
        "ema_decay": 0.5,
        "patience": 3,
        "gradient_health_every": 2,
    }
)
AUGMENTATION = AugmentationConfig(speed=0.5, frame_dropout=0.2)
STEPS = 4  # of an epoch: 13 clips in batches of 4


class CutError(Exception):
    """Instead of a kill, where the process must live."""


def checkpoints(folder: Path, **settings: int) -> Checkpoints:
    return Checkpoints(root=str(folder), config=CheckpointConfig(**settings), recipe={}, data_digest="")


def stop_after(steps: int, stop: Callable[[], None], training: Trainer) -> Trainer:
    """Stop right after so many optimizer steps, before anything could be saved of the last one."""
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        if done == steps:
            stop()

    training.optimizer.register_step_post_hook(count)
    return training


def cut() -> None:
    raise CutError


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def same(one: Trained, other: Trained) -> bool:
    """To the last bit."""
    weights = all(torch.equal(one.state[name], tensor) for name, tensor in other.state.items())
    facts = (one.history, one.epoch, one.health) == (other.history, other.epoch, other.health)
    return weights and facts and torch.equal(one.val_logits, other.val_logits)


def _killed(data: TrainingData, config: TrainingConfig, folder: Path, steps: int) -> None:
    """Runs in a process of its own."""
    torch.set_num_threads(1)
    killed = trainer(data, config, augmentation=AUGMENTATION, checkpoints=checkpoints(folder, every_steps=2))
    stop_after(steps, kill_myself, killed).fit(lambda _: None)


@pytest.mark.slow
def test_killed_twice_inside_epochs_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = drawn_data(tmp_path, train=13, val=5)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["reelscribe.pipeline.training.loop"])
    for steps, left in ((STEPS + 2, "epoch-0002-step-000000"), (2, "epoch-0002-step-000000"), (3, "epoch-0002-step-000002")):
        process = processes.Process(target=_killed, args=(data, EVERYTHING, tmp_path / "run", steps))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        newest = checkpoints(tmp_path / "run").newest()
        assert newest is not None
        assert newest.name == left
    resumed = fit(data, EVERYTHING, augmentation=AUGMENTATION, checkpoints=checkpoints(tmp_path / "run"))
    assert same(resumed, fit(data, EVERYTHING, augmentation=AUGMENTATION))


@pytest.mark.parametrize("config", [CONFIG, EVERYTHING])
def test_wherever_it_is_stopped_it_goes_on_to_the_same_end(tmp_path: Path, config: TrainingConfig) -> None:
    data = drawn_data(tmp_path, train=13, val=5)
    whole = fit(data, config)
    kept = checkpoints(tmp_path / "run", every_steps=1, every_epochs=2)
    for steps in (3, 4, 4):  # of the first epoch; of what is left of it and of the second
        with pytest.raises(CutError):
            stop_after(steps, cut, trainer(data, config, checkpoints=kept)).fit(lambda _: None)
    epochs: list[int] = []
    resumed = trainer(data, config, checkpoints=kept).fit(lambda trained: epochs.append(len(trained.history)))
    assert same(resumed, whole)
    assert epochs == [2, 3]  # what was left at the stop, and then what came
    assert same(trainer(data, config, checkpoints=kept).fit(lambda _: None), whole)  # nothing is left to do


def test_what_is_drawn_at_random_goes_on_too(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=5, val=2)
    fit(data, checkpoints=checkpoints(tmp_path / "run"))
    drawn = torch.rand(3)
    fit(data, checkpoints=checkpoints(tmp_path / "run"))
    assert torch.equal(torch.rand(3), drawn)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=5, val=2)
    fit(data, CONFIG.model_copy(update={"epochs": 1}), checkpoints=checkpoints(tmp_path / "run"))
    other = trainer(data, model=recognizer(hidden_size=8), checkpoints=checkpoints(tmp_path / "run"))
    with pytest.raises(OutputConflictError, match="is of another network") as caught:
        other.fit(lambda _: None)
    assert caught.value.exit_status == 2


def test_a_checkpoint_holds_nothing_that_is_frozen(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=13, val=5)
    kept = checkpoints(tmp_path / "run", every_steps=1)
    with pytest.raises(CutError):
        stop_after(STEPS + 2, cut, trainer(data, EVERYTHING, model=recognizer(trainable_stages=0), checkpoints=kept)).fit(lambda _: None)
    newest = kept.newest()
    assert newest is not None
    state = kept.load(newest)
    for weights in (state["model"], state["average"], state["progress"]["kept"]["state"]):
        assert weights
        assert not [name for name in weights if "encoder." in name]
    other = recognizer(trainable_stages=0)
    with torch.no_grad():
        next(other.encoder.parameters()).add_(1)
    with pytest.raises(OutputConflictError, match="frozen of its encoder has other weights"):
        trainer(data, EVERYTHING, model=other, checkpoints=kept).fit(lambda _: None)
    resumed = trainer(data, EVERYTHING, model=recognizer(trainable_stages=0), checkpoints=kept).fit(lambda _: None)
    assert same(resumed, trainer(data, EVERYTHING, model=recognizer(trainable_stages=0)).fit(lambda _: None))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_ends_its_step_and_leaves_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    data = drawn_data(tmp_path, train=13, val=5)
    before = signal.getsignal(number)
    kept = checkpoints(tmp_path / "run")
    stopped = trainer(data, checkpoints=kept, folder=tmp_path)
    with stoppable(tmp_path), pytest.raises(StoppedError, match=r"stopped in epoch 2 of 3, after step 2 of 4") as caught:
        stop_after(STEPS + 2, lambda: os.kill(os.getpid(), number), stopped).fit(lambda _: None)
    assert caught.value.exit_status == 130
    assert signal.getsignal(number) == before
    newest = kept.newest()
    assert newest is not None
    assert newest.name == "epoch-0002-step-000002"
    steps: list[int] = []
    assert same(trainer(data, checkpoints=kept, folder=tmp_path, on_step=steps.append).fit(lambda _: None), fit(data))
    assert steps == [7, 9, 10, 11]  # an epoch's last one is told by its epoch


def test_asked_twice_it_stops_at_once(tmp_path: Path) -> None:
    with stoppable(tmp_path):
        os.kill(os.getpid(), signal.SIGINT)
        assert (tmp_path / STOP_FILE).exists()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert not (tmp_path / STOP_FILE).exists()
