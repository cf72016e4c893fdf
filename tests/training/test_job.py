"""A whole training on real files, in this process and on Ray."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from reelscribe.pipeline.bundle import load_bundle
from reelscribe.pipeline.config import Config, load_config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import ManifestError, ServiceUnavailableError, UsageError
from reelscribe.pipeline.tracking.registry import fetch_model
from reelscribe.pipeline.training.job import TrainingResult, run_training


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_on_ray_give_the_numbers_of_this_process(trained: TrainingResult, tiny_config: Config) -> None:
    config = tiny_config.model_copy(
        update={
            "training": tiny_config.training.model_copy(update={"workers": 2}),
            "tracking": tiny_config.tracking.model_copy(update={"register_model": False}),
        }
    )
    spread = run_training(config, progress=progress)
    for name in ("train_loss", "val_loss", "train_top1", "val_top1", "learning_rate"):
        mine, theirs = (history(trained.tracking_uri, run, name) for run in (trained.run_id, spread.run_id))
        assert mine == pytest.approx(theirs, abs=1e-5), name
    a, b = (load_file(result.bundle.folder / "weights.safetensors") for result in (trained, spread))
    assert max((a[name] - b[name]).abs().max().item() for name in a if a[name].is_floating_point()) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("ray_cluster")
def test_more_than_the_cluster_has_is_refused_at_once(tiny_config: Config) -> None:
    config = tiny_config.model_copy(update={"training": tiny_config.training.model_copy(update={"workers": 64, "gpus_per_worker": 1})})
    with pytest.raises(UsageError, match=r"64 workers need 64 CPUs, the cluster has"):
        run_training(config, progress=progress)


def test_a_server_that_is_not_there_is_named_before_anything_starts(tiny_config: Config) -> None:
    config = tiny_config.model_copy(update={"tracking": tiny_config.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})})
    with pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:9"):
        run_training(config, progress=progress)


def test_a_split_that_is_not_there_is_named_with_the_nearest(tiny_config: Config) -> None:
    config = tiny_config.model_copy(update={"data": tiny_config.data.model_copy(update={"val_split": "vall"})})
    with pytest.raises(ManifestError, match=r"no row has the split 'vall'; did you mean 'val'\?"):
        run_training(config, progress=progress)
