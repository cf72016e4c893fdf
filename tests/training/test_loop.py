"""The loop: the same numbers however the work is spread, and it learns."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from safetensors import safe_open
from tiny_training import CONFIG, drawn_data, fit, recognizer, trainer
from torch import nn

from reelscribe.pipeline.config import AugmentationConfig, CheckpointConfig, Task, TrainingConfig
from reelscribe.pipeline.errors import TrainingError
from reelscribe.pipeline.training.checkpoints import Checkpoints
from reelscribe.pipeline.training.loop import World
from reelscribe.pipeline.training.steps.bad_batch import BAD_BATCH_FILE

# All that could come out differently on other numbers of workers, at once.
EVERYTHING = CONFIG.model_copy(
    update={
        "accumulate": 2,
        "tbptt_frames": 3,
        "layer_decay": 0.5,
        "schedule": "plateau",
        "plateau_patience": 0,
        "monitor": "val_top1",
        "balanced_sampling": True,
        "mixup": 0.4,
        "ema_decay": 0.5,
        "patience": 3,
        "gradient_health_every": 2,
    }
)
CAPTIONS = CONFIG.model_copy(update={"scheduled_sampling": 0.5, "self_critical_epochs": 1, "accumulate": 2})
AUGMENTATION = AugmentationConfig(speed=0.5, time_warp=0.5, time_crop=0.7, frame_dropout=0.2)


def test_a_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=10, val=4)
    first, again, other = fit(data), fit(data), fit(data, seed=1)
    assert first.history == again.history
    assert all(torch.equal(first.state[name], again.state[name]) for name in first.state)
    assert first.history != other.history


def _one_rank(rank: int, size: int, port: int, settings: tuple[TrainingConfig, AugmentationConfig, Task], folder: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    config, augmentation, task = settings
    data = drawn_data(Path(folder) / str(rank), train=13, val=5, task=task)
    spread = partial(trainer, data, config, augmentation=augmentation, world=World(rank, size), wrap=data_parallel)
    trained = spread().fit(lambda _: None)
    if rank == 0:
        torch.save((trained.state, trained.history), out)
    if size == 4:
        kept = Checkpoints(root=f"{folder}/kept", config=CheckpointConfig(every_steps=2), recipe={}, data_digest="")
        for steps in (7, 100):  # inside the second epoch: 4 steps an epoch, and the sixth was saved
            stopped = spread(checkpoints=kept)
            stopped.optimizer.register_step_post_hook(partial(_stop, count(1), steps))
            with suppress(InterruptedError):
                again = stopped.fit(lambda _: None)
        assert rank or again.history == trained.history  # the first worker has the health of gradients in it
        assert all(torch.equal(again.state[name], tensor) for name, tensor in trained.state.items())
        nowhere = Checkpoints(root="/proc/nowhere", config=CheckpointConfig(every_steps=1), recipe={}, data_digest="")
        with pytest.raises(TrainingError, match="cannot write a checkpoint to /proc/nowhere"):  # the first worker; all of them end
            spread(checkpoints=nowhere).fit(lambda _: None)
    torch.distributed.destroy_process_group()


def data_parallel(network: nn.Module) -> nn.Module:
    """As ray_launch wraps it."""
    return nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)


def _stop(numbers: Iterator[int], last: int, *_: object) -> None:
    if next(numbers) == last:
        raise InterruptedError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "settings"),
    [
        (2, (CONFIG, AugmentationConfig(), "single_label")),
        (4, (EVERYTHING, AUGMENTATION, "single_label")),
        (2, (CONFIG, AUGMENTATION, "multi_label")),
        (2, (CONFIG, AUGMENTATION, "value")),
        (2, (CONFIG, AUGMENTATION, "dense")),
        (2, (CAPTIONS, AUGMENTATION, "caption")),
    ],
)
def test_workers_of_a_process_group_give_the_numbers_of_one_process(
    tmp_path: Path, workers: int, settings: tuple[TrainingConfig, AugmentationConfig, Task]
) -> None:
    """13 clips in batches of 4: the last batch has one clip, so that some workers have none in it.

    Four workers are also stopped inside an epoch, and go on to the same end, bit for bit; then one process goes on in their place.
    """
    for name in ("alone", *map(str, range(workers))):
        (tmp_path / name).mkdir()
    alone = fit(drawn_data(tmp_path / "alone", train=13, val=5, task=settings[2]), settings[0], augmentation=settings[1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = tmp_path / "spread.pt"
    torch.multiprocessing.spawn(_one_rank, (workers, port, settings, str(tmp_path), str(out)), nprocs=workers)
    state, history = torch.load(out, weights_only=True)
    for mine, theirs in zip(alone.history, history, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for name, tensor in alone.state.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    if workers == 4:
        kept = Checkpoints(root=str(tmp_path / "kept"), config=CheckpointConfig(), recipe={}, data_digest="")
        shutil.rmtree(tmp_path / "kept" / "epoch-0004-step-000000")
        newest = kept.newest()
        assert newest is not None
        assert newest.name == "epoch-0003-step-000004"
        moved = fit(drawn_data(tmp_path / "alone", train=13, val=5), settings[0], augmentation=settings[1], checkpoints=kept)
        assert moved.history[-1] == pytest.approx(alone.history[-1], rel=1e-4, abs=1e-5)
        for name, tensor in alone.state.items():
            torch.testing.assert_close(moved.state[name], tensor, atol=1e-5, rtol=1e-4)


def test_it_learns_what_only_order_tells(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=16, val=8)
    trained = fit(data, CONFIG.model_copy(update={"epochs": 30}))
    assert trained.history[-1]["val_top1"] == 1.0
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]
    assert trained.epoch == 30


def test_with_time_gaps_it_learns_what_only_time_tells(tmp_path: Path) -> None:
    """The same pictures, a tenth of a second apart or a whole one."""
    data = drawn_data(tmp_path, train=16, val=8)
    for clips in (data.train, data.val):
        for files, kind in zip(clips.files, clips.targets, strict=True):
            for file in files:
                frames = np.load(file)[:: -1 if kind else 1]  # all of them forward
                records = np.empty(len(frames), [("time_s", np.float64), ("frame", np.uint8, frames.shape[1:])])
                records["time_s"], records["frame"] = np.arange(len(frames)) * (1.0 if kind else 0.1), frames
                np.save(file, records)
    config = CONFIG.model_copy(update={"epochs": 10, "accumulate": 2, "tbptt_frames": 3})
    assert fit(data, config, model=recognizer(time_gaps=True)).history[-1]["val_top1"] == 1.0


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=8, val=4)
    data = replace(data, val=replace(data.val, targets=tuple(1 - t for t in data.val.targets)))  # learning makes it worse
    seen: list[int] = []
    config = CONFIG.model_copy(update={"epochs": 40, "patience": 4})
    trained = trainer(data, config).fit(lambda t: seen.append(t.epoch))
    losses = [m["val_loss"] for m in trained.history]
    assert len(losses) < 40
    assert trained.epoch == losses.index(min(losses)) + 1
    assert len(losses) == trained.epoch + 4
    assert len(seen) == len(losses)


def test_the_monitored_figure_decides_what_is_kept(tmp_path: Path) -> None:
    """A smoothed loss and the accuracy are best in different epochs."""
    data = drawn_data(tmp_path, train=8, val=4)
    config = CONFIG.model_copy(update={"epochs": 12, "patience": 12, "monitor": "val_top1"})
    trained = fit(data, config)
    scores = [m["val_top1"] for m in trained.history]
    assert trained.epoch == scores.index(max(scores)) + 1
    losses = [m["val_loss"] for m in trained.history]
    assert trained.epoch != losses.index(min(losses)) + 1
    assert fit(data, config.model_copy(update={"monitor": "val_loss"})).epoch == losses.index(min(losses)) + 1


def test_the_macro_f1_is_that_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.metrics import f1_score  # not for the processes of the other tests, which import this file

    data = drawn_data(tmp_path, train=8, val=7)
    trained = fit(data, CONFIG.model_copy(update={"epochs": 1, "monitor": "val_macro_f1", "patience": 1}))
    expected = f1_score(data.val.targets, trained.val_logits.argmax(dim=1), average="macro", labels=[0, 1], zero_division=0)
    assert trained.history[0]["val_macro_f1"] == pytest.approx(expected)


def test_learning_rate_warms_up_and_falls_to_nothing(tmp_path: Path) -> None:
    trained = fit(drawn_data(tmp_path, train=8, val=2), CONFIG.model_copy(update={"epochs": 6, "warmup_epochs": 2}))
    rates = [m["learning_rate"] for m in trained.history]
    assert rates[0] < rates[1] < CONFIG.learning_rate
    assert rates[2] == pytest.approx(CONFIG.learning_rate, rel=1e-6)
    assert rates[2] > rates[3] > rates[4] > rates[5] > 0


@pytest.mark.parametrize("tbptt_frames", [0, 3])
def test_parts_of_a_batch_add_up_to_the_whole(tmp_path: Path, tbptt_frames: int) -> None:
    data = drawn_data(tmp_path, train=9, val=3)
    whole, parts = (fit(data, CONFIG.model_copy(update={"accumulate": n, "tbptt_frames": tbptt_frames})) for n in (1, 3))
    for mine, theirs in zip(whole.history, parts.history, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    for name, tensor in whole.state.items():
        torch.testing.assert_close(parts.state[name], tensor, atol=1e-5, rtol=1e-4)


def test_chunks_as_long_as_the_clip_are_the_whole(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=9, val=3)
    whole, long, short = (fit(data, CONFIG.model_copy(update={"tbptt_frames": frames})) for frames in (0, 7, 3))
    assert long.history == whole.history
    assert short.history != whole.history


def test_half_precision_changes_the_forward_pass_and_not_the_weights(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=16, val=8)
    trained = fit(data, CONFIG.model_copy(update={"epochs": 20, "precision": "bf16"}))
    full = fit(data, CONFIG.model_copy(update={"epochs": 1}))  # all of it warm-up, as the first of 20 is
    assert trained.history[0]["train_loss"] != full.history[0]["train_loss"]
    assert trained.history[0]["train_loss"] == pytest.approx(full.history[0]["train_loss"], rel=0.02)
    assert trained.history[-1]["val_top1"] == 1.0
    assert trained.val_logits.dtype == torch.float32
    assert {tensor.dtype for name, tensor in trained.state.items() if name.startswith("recurrent")} == {torch.float32}


def test_the_average_of_the_weights_is_evaluated_and_kept(tmp_path: Path) -> None:
    """Against the average that the definition gives, written out over the weights after each step."""
    data = drawn_data(tmp_path, train=8, val=4)
    config = CONFIG.model_copy(update={"ema_decay": 0.8})
    averaging = trainer(data, config)
    expected: dict[str, torch.Tensor] = {}

    def after_step(*_: object) -> None:
        for name, parameter in averaging.model.named_parameters():
            now = parameter.detach().clone()
            expected[name] = 0.8 * expected[name] + 0.2 * now if name in expected else now

    averaging.optimizer.register_step_post_hook(after_step)
    trained = averaging.fit(lambda _: None)
    for name, tensor in expected.items():
        torch.testing.assert_close(trained.state[name], tensor)
    assert not torch.equal(trained.state["classifier.weight"], averaging.model.classifier.weight)
    evaluated = recognizer()
    evaluated.load_state_dict(trained.state)
    logits, _ = trainer(data, model=evaluated).validate()
    torch.testing.assert_close(logits, trained.val_logits)


def test_class_weights_and_mixup_change_what_is_learnt(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=9, val=3)
    plain = fit(data).history[-1]["train_loss"]
    for change in ({"class_weights": "balanced"}, {"mixup": 0.4}, {"balanced_sampling": True}):
        assert fit(data, CONFIG.model_copy(update=change)).history[-1]["train_loss"] != plain


def test_looking_at_gradients_changes_nothing(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=8, val=4)
    seen: list[bool] = []
    looking = trainer(data, CONFIG.model_copy(update={"gradient_health_every": 2})).fit(lambda t: seen.append(t.health is not None))
    blind = fit(data)
    assert seen == [True, False, True]
    assert all(torch.equal(looking.state[name], tensor) for name, tensor in blind.state.items())
    assert [{k: v for k, v in m.items() if not k.startswith("gradient/")} for m in looking.history] == blind.history
    assert [m.get("gradient/layer/recurrent.layers.0", -1.0) > 0 for m in looking.history] == seen


def test_weights_that_are_not_finite_stop_the_run_before_the_step(tmp_path: Path) -> None:
    data = drawn_data(tmp_path, train=4, val=2)
    model = recognizer()
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    before = model.classifier.bias.clone()
    with pytest.raises(TrainingError, match=r"epoch 1, step 1: the loss \(nan\) or its gradient .* no clip stands out"):
        trainer(data, model=model).fit(lambda _: None)
    assert torch.equal(model.classifier.bias, before)


def test_a_poisoned_clip_is_named_and_its_batch_kept(tmp_path: Path) -> None:
    """Features overflow float16 in one clip of nine, which comes at some step of the first epoch."""
    data = drawn_data(tmp_path, train=9, val=3)
    model = recognizer(trainable_stages=0)
    for files in (*data.train.files, *data.val.files):
        for file in files:
            with torch.no_grad():
                np.save(file, model.encode(torch.from_numpy(np.load(file))[None])[0].half().numpy())
    for file in data.train.files[5]:
        features = np.load(file)
        features[2, 0] = np.inf
        np.save(file, features)
    poisoned = trainer(data, model=model, folder=tmp_path / "run")
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()}]
    poisoned.optimizer.register_step_post_hook(lambda *_: states.append({n: t.clone() for n, t in model.state_dict().items()}))
    with pytest.raises(TrainingError, match=r"the features of train-5 are not finite: take these clips out") as caught:
        poisoned.fit(lambda _: None)
    file = tmp_path / "run" / BAD_BATCH_FILE
    assert str(file) in str(caught.value)
    assert f"epoch 1, step {len(states)}:" in str(caught.value)
    assert all(torch.equal(tensor, states[-1][name]) for name, tensor in model.state_dict().items())
    with safe_open(file, framework="pt") as kept:
        video_ids = json.loads(kept.metadata()["video_ids"])
        place = video_ids.index("train-5")
        assert kept.get_tensor(f"inputs.{place}").dtype == torch.float16
        assert kept.get_tensor("losses").isfinite().tolist() == [name != "train-5" for name in video_ids]
        assert kept.get_tensor("targets").tolist() == [int(name[-1]) % 2 for name in video_ids]
