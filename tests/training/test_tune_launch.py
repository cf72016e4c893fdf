"""A search on a real Ray Tune: trials as child runs, the best trained out and registered, gone on with where it was stopped."""

from __future__ import annotations

import json

import pytest
from mlflow import MlflowClient
from pydantic import ValidationError

from reelscribe.pipeline.config import Config, SearchConfig
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import UsageError
from reelscribe.pipeline.training.tune_launch import _tune_config, run_search, with_settings

SPACE = {"training.learning_rate": {"log_uniform": [1e-3, 1e-2]}, "model.hidden_size": {"integer": [8, 9]}}


def searching(config: Config, **search: object) -> Config:
    tracking = config.tracking.model_copy(update={"alias": ""})
    return config.model_copy(update={"name": "searched", "search": SearchConfig.model_validate(search), "tracking": tracking})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_trains_the_best_out_and_goes_on(tiny_config: Config) -> None:
    pytest.importorskip("optuna")
    config = searching(tiny_config, trials=2, space=SPACE, sampler="optuna")
    result = run_search(config, progress=progress)
    values = [trial.value for trial in result.trials if trial.value is not None]
    assert len(values) == 2
    assert values == sorted(values)
    for trial in result.trials:
        assert 1e-3 <= trial.settings["training.learning_rate"] <= 1e-2
        assert trial.settings["model.hidden_size"] in (8, 9)
        assert trial.epochs == config.training.epochs
    assert result.training.version is not None
    assert result.training.version.name == "searched"
    client = MlflowClient(result.training.tracking_uri)
    params = client.get_run(result.training.run_id).data.params
    assert {key: json.loads(params[key]) for key in SPACE} == result.trials[0].settings
    assert json.loads(client.get_run(result.run_id).data.tags["reelscribe.best"]) == result.trials[0].settings
    losses = [m.value for m in client.get_metric_history(result.training.run_id, "val_loss")]
    assert losses[-1] == pytest.approx(values[0])  # the best trial, once more

    def children() -> int:
        experiment = client.get_experiment_by_name(config.tracking.experiment)
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
        statuses = {run.info.status for run in found}
        assert {"FINISHED"} <= statuses <= {"FINISHED", "KILLED"}  # killed: ended early by the scheduler
        return len(found)

    assert children() == 2
    again = run_search(config, progress=progress)
    assert (again.run_id, again.trials) == (result.run_id, result.trials)
    assert children() == 2


def test_what_is_asked_of_tune(tiny_config: Config) -> None:
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    plain = _tune_config(searching(tiny_config, trials=7, space=SPACE, scheduler="none"))
    assert (type(plain.search_alg), plain.scheduler, plain.num_samples, plain.metric, plain.mode) == (
        BasicVariantGenerator,
        None,
        7,
        "val_loss",
        "min",
    )
    config = searching(tiny_config, space=SPACE)
    config = config.model_copy(update={"training": config.training.model_copy(update={"monitor": "val_top1", "patience": 1})})
    asked = _tune_config(config)
    assert (type(asked.scheduler), asked.metric, asked.mode) == (ASHAScheduler, "val_top1", "max")


def test_a_space_that_cannot_be_searched(tiny_config: Config) -> None:
    with pytest.raises(UsageError, match=r"nothing to search: give search\.space some keys"):
        run_search(searching(tiny_config), progress=progress)
    for space, words in (
        ({"model.hiden_size": {"choice": [1]}}, r"unknown key 'model\.hiden_size'; did you mean 'model\.hidden_size'"),
        ({"data.manifest": {"choice": ["a"]}}, r"unknown key 'data\.manifest'"),
        ({"model.dropout": {"uniform": [0.5, 0.1]}}, r"uniform=\[0\.5, 0\.1\]: expected the lower end first"),
        ({"model.dropout": {"log_uniform": [0, 0.1]}}, "above 0"),
        (
            {"model.dropout": {"uniform": [0, 1], "choice": [0]}},
            "expected one of choice, uniform, log_uniform and integer, got choice, uniform",
        ),
        ({"model.dropout": {}}, "got none"),
    ):
        with pytest.raises(ValidationError, match=words):
            SearchConfig.model_validate({"space": space})


def test_settings_are_set(tiny_config: Config) -> None:
    changed = with_settings(tiny_config, {"model.hidden_size": 9, "training.learning_rate": 0.5})
    assert (changed.model.hidden_size, changed.training.learning_rate) == (9, 0.5)
    assert with_settings(changed, {"model.hidden_size": 16, "training.learning_rate": 1e-3}) == tiny_config
    with pytest.raises(ValidationError):
        with_settings(tiny_config, {"model.hidden_size": 0})
