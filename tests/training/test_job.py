"""A whole training on real files, in this process and on Ray."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from safetensors import safe_open

from reelscribe.pipeline.bundle import load_bundle
from reelscribe.pipeline.config import Config
from reelscribe.pipeline.config_files import load_config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import ManifestError, ServiceUnavailableError, TrainingError
from reelscribe.pipeline.tracking.registry import fetch_model
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.training.following import Follower
from reelscribe.pipeline.training.job import TrainingResult, run_training
from reelscribe.pipeline.training.steps.gradients import GradientHealth


def history(uri: str, run_id: str, name: str) -> list[float]:
    return [m.value for m in sorted(MlflowClient(uri).get_metric_history(run_id, name), key=lambda m: m.step)]


def test_the_run_holds_all_that_repeats_it(trained: TrainingResult, tiny_config: Config) -> None:
    client = MlflowClient(trained.tracking_uri)
    run = client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.recurrent"] == tiny_config.model.recurrent
    assert run.data.params["sampling.num_frames"] == "6"
    assert len(history(trained.tracking_uri, trained.run_id, "train_loss")) == tiny_config.training.epochs
    assert run.data.metrics["top1"] == pytest.approx(trained.evaluation.scores.metrics["top1"])
    pictures = {"pictures/curves.png", "pictures/confusion_matrix.png", "pictures/reliability.png"}
    assert {f.path for f in client.list_artifacts(trained.run_id, "pictures")} == pictures
    assert run.inputs.dataset_inputs[0].dataset.name == "tiny"
    assert "mlflow.source.git.commit" in run.data.tags
    assert load_config(client.download_artifacts(trained.run_id, "config.yaml")) == tiny_config


def test_the_model_is_registered_whole_under_its_alias(trained: TrainingResult) -> None:
    found = fetch_model("models:/tiny@champion", uri=trained.tracking_uri)
    bundle = load_bundle(found.folder)
    assert bundle.weights_digest == trained.bundle.weights_digest
    assert bundle.spec == trained.bundle.spec
    assert bundle.spec.data_digest
    assert found.run_id == trained.run_id
    card = (found.folder / "README.md").read_text()
    assert "## Validation" in card
    assert "clockwise" in card
    assert "## Leaks" not in card


def test_broken_training_files_are_left_out_and_named(trained: TrainingResult) -> None:
    assert trained.failures
    assert all(failure.failure in {"truncated", "not_a_video", "no_video_stream"} for failure in trained.failures)
    text = MlflowClient(trained.tracking_uri)
    path = text.download_artifacts(trained.run_id, "failures.json")
    assert [row["video_id"] for row in json.loads(Path(path).read_text())] == [f.video_id for f in trained.failures]


def test_the_checkpoint_is_a_model_too(trained: TrainingResult) -> None:
    checkpoint = load_bundle(trained.bundle.folder.parent / "checkpoint")
    assert checkpoint.weights_digest == trained.bundle.weights_digest


def test_the_same_config_gives_the_same_model(trained: TrainingResult, tiny_config: Config) -> None:
    again = run_training(
        tiny_config.model_copy(update={"tracking": tiny_config.tracking.model_copy(update={"alias": ""})}), progress=progress
    )
    assert again.bundle.weights_digest == trained.bundle.weights_digest
    assert again.version is not None
    assert trained.version is not None
    assert again.version.version == trained.version.version + 1
    assert fetch_model("models:/tiny@champion", uri=trained.tracking_uri).version == str(trained.version.version)


def changed(config: Config, section: str, **values: object) -> Config:
    """Without a place in the registry, which is for other tests."""
    tracking = config.tracking.model_copy(update={"register_model": False})
    return config.model_copy(update={"tracking": tracking, section: getattr(config, section).model_copy(update=values)})


def test_gradients_are_pictured_and_tracked(tiny_config: Config) -> None:
    looking = changed(tiny_config, "training", gradient_health_every=2)
    result = run_training(changed(looking, "model", time_gaps=True), progress=progress)
    pictures = {f.path for f in MlflowClient(result.tracking_uri).list_artifacts(result.run_id, "pictures")}
    assert {path for path in pictures if "gradients" in path} == {"pictures/gradients_0001.png", "pictures/gradients_0003.png"}
    assert len(history(result.tracking_uri, result.run_id, "gradient/reach")) == 2
    assert history(result.tracking_uri, result.run_id, "gradient/live_frames") == [5, 5]
    assert min(history(result.tracking_uri, result.run_id, "gradient/layer/recurrent.layers.0")) > 0
    check_that_the_saved_model_says_what_the_loop_heard(result)


def check_that_the_saved_model_says_what_the_loop_heard(result: TrainingResult) -> None:
    """From the files on, frames and the seconds between them, against the last validation."""
    found = result.evaluation.labelled()
    logits = torch.from_numpy(np.concatenate([prediction.logits for prediction in found.values()]))
    targets = torch.tensor([result.bundle.spec.labels.index(row["label"]) for row in result.evaluation.truth.values()])
    expected = torch.nn.functional.cross_entropy(logits, targets).item()
    assert history(result.tracking_uri, result.run_id, "val_loss")[-1] == pytest.approx(expected, abs=1e-5)
    told = result.bundle.build().recurrent.gap
    assert told is not None
    assert told.weight.abs().min() > 0


def test_a_gradient_that_vanishes_is_said_once(
    trained: TrainingResult, tiny_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunTracker(uri=trained.tracking_uri, experiment="gradients") as run:
        follower = Follower(tiny_config, trained.bundle.spec, tmp_path, run, clips=1, advance=print)
        for epoch, first in ((1, 1.0), (2, 1e-9), (3, 1e-8)):
            follower.log_gradients(GradientHealth(by_frame=(1.0, 1.0), of_last=(first, 1.0), by_layer={}), epoch)
    said = capsys.readouterr().err
    assert said.count("vanishes") == 1
    assert "epoch 2: the gradient vanishes: 2 frames before the last state it is 1e-09 of" in said


def poisoned(config: Config) -> Config:
    """A rate at which the weights overflow at once."""
    return changed(config, "training", learning_rate=1e36, warmup_epochs=0)


def check_the_batch_that_was_kept(config: Config, message: str) -> None:
    found = re.search(r"the batch is kept in (\S+)", message)
    assert found
    with safe_open(found[1], framework="pt") as kept:
        video_ids = json.loads(kept.metadata()["video_ids"])
        assert 0 < len(video_ids) <= config.training.batch_size
        assert all(name in message for name in video_ids)
        assert kept.get_tensor("inputs.0").shape == (6, 3, 24, 32)


def test_a_run_that_diverges_fails_and_keeps_the_batch(tiny_config: Config) -> None:
    with pytest.raises(TrainingError, match=r"no clip stands out: lower training\.learning_rate") as caught:
        run_training(poisoned(tiny_config), progress=progress)
    assert caught.value.exit_status == 1
    check_the_batch_that_was_kept(tiny_config, str(caught.value))


def test_leaks_that_are_allowed_mark_the_result(tiny_config: Config, drawn: Path, tmp_path: Path) -> None:
    lines = (drawn / "manifest.csv").read_text().splitlines()
    rows = [f"{drawn / line}" for line in lines[1:]]
    copied = next(row for row in rows if row.endswith("val"))
    shutil.copy(copied.split(",")[0], tmp_path / "copy.mp4")
    manifest = tmp_path / "leaky.csv"
    manifest.write_text("\n".join([lines[0], *rows, f"copy.mp4,{copied.split(',')[1]},train"]) + "\n")
    data = tiny_config.data.model_copy(update={"manifest": str(manifest)})
    training = tiny_config.training.model_copy(update={"epochs": 1})
    config = tiny_config.model_copy(update={"name": "leaky", "data": data, "training": training})
    with pytest.raises(ManifestError, match=r"1 leak\(s\)(?s:.*)the same file: copy\.mp4 is trained on"):
        run_training(config, progress=progress)
    allowed = run_training(config.model_copy(update={"data": data.model_copy(update={"allow_leaks": True})}), progress=progress)
    (leak,) = allowed.leaks
    assert leak.kind == "file"
    assert str(leak) in MlflowClient(allowed.tracking_uri).get_run(allowed.run_id).data.tags["reelscribe.leaks"]
    assert load_bundle(allowed.bundle.folder).spec.leaks == 1
    assert allowed.version is not None
    assert not allowed.version.aliases  # nobody's champion
    assert allowed.alias_kept == "champion"
    assert "**The figures below are too good**" in (allowed.bundle.folder / "README.md").read_text()


def test_a_server_that_is_not_there_is_named_before_anything_starts(tiny_config: Config) -> None:
    config = tiny_config.model_copy(update={"tracking": tiny_config.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})})
    with pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:9"):
        run_training(config, progress=progress)


def test_a_split_that_is_not_there_is_named_with_the_nearest(tiny_config: Config) -> None:
    config = tiny_config.model_copy(update={"data": tiny_config.data.model_copy(update={"val_split": "vall"})})
    with pytest.raises(ManifestError, match=r"no row has the split 'vall'; did you mean 'val'\?"):
        run_training(config, progress=progress)
