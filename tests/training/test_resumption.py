"""The command line goes on with what was stopped: one run, no epoch told twice, the same model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from test_job import changed, history

from reelscribe.pipeline.config import CheckpointConfig, Config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import ModelError, OutputConflictError, StoppedError, UsageError
from reelscribe.pipeline.training.job import TrainingResult, run_training
from reelscribe.pipeline.training.resumption import LAUNCH_FILE, Launch, checkpoints_of, held, resumed_config

# `reelscribe` that dies by SIGKILL: just before its first checkpoint, and given again after the second step of the second epoch was saved.
DYING = """
import os, signal
from reelscribe.pipeline import cli
from reelscribe.pipeline.training.checkpoints import Checkpoints
save = Checkpoints.save
def save_and_die(self, state, *, epoch, step, **facts):
    if (epoch, step) == (1, 1) and not os.path.exists(os.environ["ONCE"]):
        open(os.environ["ONCE"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, state, epoch=epoch, step=step, **facts)
    if (epoch, step) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoints.save = save_and_die
cli.main()
"""


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """As it was trained, but with checkpoints at every step, and under a name of its own."""
    config = changed(tiny_config, "training", checkpoint=CheckpointConfig(every_steps=1))
    return config.model_copy(update={"name": "stopped"})


@pytest.mark.slow
def test_killed_in_an_epoch_the_same_command_goes_on(config: Config, trained: TrainingResult, tmp_path: Path) -> None:
    file = tmp_path / "stopped.yaml"
    file.write_text(config.to_yaml())
    for words in ("", "from its beginning"):
        command = [sys.executable, "-c", DYING, "train", str(file)]
        environment = {**os.environ, "ONCE": str(tmp_path / "once")}
        killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert words in killed.stderr
    (folder,) = (Path(config.output) / "stopped").iterdir()
    client = MlflowClient(trained.tracking_uri)
    assert client.get_run(folder.name).info.status == "RUNNING"

    changed_model = [f"data.manifest={config.data.manifest}", "model.hidden_size=8", f"output={config.output}"]
    other = resumed_config(folder.name, changed_model)
    with pytest.raises(OutputConflictError, match=r"model\.hidden_size was 16, now it is 8") as caught:
        run_training(other, progress=progress, resume=folder.name)
    assert caught.value.exit_status == 2
    with held(folder), pytest.raises(OutputConflictError, match="another process is training the run"):
        run_training(config, progress=progress, resume=folder.name)
    assert resumed_config(folder.name, [f"output={config.output}"]) == config

    resumed = run_training(config, progress=progress)
    assert resumed.run_id == folder.name
    assert resumed.bundle.weights_digest == trained.bundle.weights_digest
    assert client.get_run(folder.name).info.status == "FINISHED"
    for name in ("train_loss", "val_loss", "train_top1"):
        mine, theirs = (history(trained.tracking_uri, run, name) for run in (folder.name, trained.run_id))
        assert mine == theirs

    with pytest.raises(UsageError, match="has ended: there is nothing to go on with"):
        resumed_config(folder.name, [f"output={config.output}"])
    assert run_training(config, progress=progress).run_id != folder.name  # what has ended is not gone on with


def test_stopped_by_ctrl_c_it_says_how_to_go_on(config: Config, trained: TrainingResult) -> None:
    config = config.model_copy(update={"name": "asked"})

    @contextmanager
    def interrupting(what: str) -> Iterator[Callable[..., None]]:
        yield lambda done, *_: os.kill(os.getpid(), signal.SIGINT) if (what, done) == ("training", 5) else None

    with pytest.raises(StoppedError, match=r"stopped in epoch 2 of 3, after step .*reelscribe train --resume \w+") as caught:
        run_training(config, progress=interrupting)
    assert caught.value.exit_status == 130
    run_id = str(caught.value).rpartition(" ")[2]
    assert MlflowClient(trained.tracking_uri).get_run(run_id).info.status == "KILLED"
    resumed = run_training(resumed_config(run_id, [f"output={config.output}"]), progress=progress, resume=run_id)
    assert resumed.run_id == run_id
    assert resumed.bundle.weights_digest == trained.bundle.weights_digest


def test_only_the_same_launch_is_gone_on_with(config: Config, tmp_path: Path) -> None:
    launch = Launch.of(config, "table", "sqlite:///a.db")
    folder = tmp_path / "run"
    folder.mkdir()
    assert launch.interrupted(tmp_path, config) == ""
    launch.begin(folder)
    assert launch.interrupted(tmp_path, config) == "run"  # without a checkpoint: from its beginning
    later = tmp_path / "later"
    launch.begin(later)
    os.utime(later / LAUNCH_FILE, (2e9, 2e9))
    assert launch.interrupted(tmp_path, config) == "later"
    shutil.rmtree(later)
    checkpoints_of(config, folder).save({}, epoch=1, step=1, monitor="val_loss")
    assert launch.interrupted(tmp_path, config) == "run"
    moved = changed(config, "training", workers=4)
    assert Launch.of(moved, "table", "sqlite:///a.db").interrupted(tmp_path, moved) == "run"
    for other in (
        Launch.of(config.model_copy(update={"seed": 1}), "table", "sqlite:///a.db"),
        Launch.of(config, "another table", "sqlite:///a.db"),
        Launch.of(config, "table", "sqlite:///b.db"),
    ):
        assert other.interrupted(tmp_path, config) == ""
    with held(folder):
        assert launch.interrupted(tmp_path, config) == ""
    (folder / LAUNCH_FILE).write_text("{")
    assert launch.interrupted(tmp_path, config) == ""


def test_a_run_that_cannot_be_gone_on_with(config: Config, trained: TrainingResult, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="run 'nobody'"):
        resumed_config("nobody", [f"output={config.output}"])
    with pytest.raises(UsageError, match=r"run 'gone' left no checkpoint in .*output=FOLDER"):
        run_training(config, progress=progress, resume="gone")
