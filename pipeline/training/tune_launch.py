"""A search for better settings: Ray Tune draws, places, compares and ends trials; each trial is a training as any other."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reelscribe.pipeline.cluster import cluster
from reelscribe.pipeline.config import Config, SearchConfig, SearchRange
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.errors import StoppedError, TrainingError, UsageError
from reelscribe.pipeline.manifest import read_manifest, table_digest
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.tracking.uri import tracking_uri
from reelscribe.pipeline.training.job import TrainingResult, check_writable, log_recipe, run_training
from reelscribe.pipeline.training.progress import EpochMetrics
from reelscribe.pipeline.training.resumption import held
from reelscribe.pipeline.training.steps.optimization import FALLING

_RUN_FILE = "run"  # in the folder of a search: the id of its run
_TOLD: list[Callable[..., None]] = []  # of trials that end, in this process


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One drawn setting and what came of it."""

    settings: dict[str, Any]
    value: float | None  # of the monitored figure after its last epoch; None where it failed
    epochs: int


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """All trials, the best first, and the training of the best."""

    monitor: str
    trials: tuple[Trial, ...]
    run_id: str  # of the search; trials are its child runs
    training: TrainingResult


def run_search(config: Config, *, progress: OpenProgress) -> SearchResult:
    """Draw ``search.trials`` settings from ``search.space``, train each, then train the best to the end, and register it.

    The same command goes on with the trials that are missing. Raises UsageError before the first trial where the config, the data or
    the cluster is not usable, StoppedError where it was stopped, TrainingError where no trial came to an end.
    """
    if not config.search.space:
        raise UsageError("nothing to search: give search.space some keys, e.g. training.learning_rate: {log_uniform: [1e-4, 1e-2]}")
    output = Path(config.output).absolute()
    check_writable(output)
    table = read_manifest(config.data.manifest, require_labels=True, task=config.task)
    data_digest = table_digest(table)
    facts = [config.recipe, config.search.model_dump(mode="json"), data_digest]
    folder = output / config.name / f"search-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}"
    with cluster(config.cluster.address), held(folder):
        file = folder / _RUN_FILE
        run_id = file.read_text(encoding="utf-8") if file.exists() else ""
        tracking = config.tracking
        run = RunTracker(
            uri=tracking_uri(tracking.uri, config.output),
            experiment=tracking.experiment,
            run_name=f"{config.name}, searched",
            run_id=run_id,
        )
        with run:
            if not run_id:
                log_recipe(run, config, data_digest, table.num_rows)
                file.write_text(run.run_id, encoding="utf-8")
            with progress("trials") as advance:
                _TOLD.append(advance)
                try:
                    trials = _trials(config, folder, run.run_id)
                finally:
                    _TOLD.remove(advance)
            run.end_children()
            training = run_training(with_settings(config, trials[0].settings), progress=progress)
            run.log_metrics({config.training.monitor: trials[0].value or 0.0, "trials": len(trials)})
            run.set_tags({"reelscribe.best": json.dumps(trials[0].settings), "reelscribe.best_run": training.run_id})
    return SearchResult(monitor=config.training.monitor, trials=trials, run_id=run.run_id, training=training)


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """The config with dotted keys set; raises pydantic's ValidationError where they do not go together."""
    tree = config.model_dump(mode="json")
    for key, value in settings.items():
        *path, last = key.split(".")
        section = tree
        for name in path:
            section = section[name]
        section[last] = value
    return Config.model_validate(tree)


def _trials(config: Config, folder: Path, run_id: str) -> tuple[Trial, ...]:
    """Have all trials, of this run of the command or of one before; the best first."""
    from ray import tune

    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # MLflow has it all
    task = {"config": config.model_dump(mode="json"), "run_id": run_id, "folder": str(Path.cwd())}
    trainable = tune.with_resources(tune.with_parameters(_trial, task=task), {"cpu": 1, "gpu": config.training.gpus_per_worker})
    space = {key: _domain(allowed) for key, allowed in config.search.space.items()}
    path = str(folder / "tune")
    if tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(path, trainable, param_space=space, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=_tune_config(config),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[_teller(config.search.trials)]),
        )
    monitor, sign = config.training.monitor, 1 if config.training.monitor in FALLING else -1
    found = []
    grid = tuner.fit()
    for result in (grid[i] for i in range(len(grid))):
        metrics = result.metrics or {}
        value = None if result.error else metrics.get(monitor)
        found.append(Trial(settings=result.config or {}, value=value, epochs=int(metrics.get("epoch", 0))))
    ended = [trial for trial in found if trial.value is not None]
    if len(found) < config.search.trials:
        raise StoppedError(f"stopped after {len(ended)} of {config.search.trials} trials; the same command goes on")
    if not ended:
        raise TrainingError(f"no trial came to an end; their runs in MLflow, below {run_id}, say why")
    return tuple(sorted(found, key=lambda trial: float("inf") if trial.value is None else sign * trial.value))


def _tune_config(config: Config) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    search: SearchConfig = config.search
    if search.sampler == "optuna":
        if find_spec("optuna") is None:
            raise UsageError("search.sampler=optuna needs Optuna: pip install 'reelscribe[optuna]', or take search.sampler=random")
        from ray.tune.search.optuna import OptunaSearch

        algorithm: Any = OptunaSearch(seed=config.seed % 2**32)
    else:
        algorithm = BasicVariantGenerator(random_state=config.seed % 2**32)
    epochs = config.training.epochs
    asha = ASHAScheduler(time_attr="epoch", max_t=epochs, grace_period=min(search.grace_epochs, epochs), reduction_factor=3)
    return tune.TuneConfig(
        metric=config.training.monitor,
        mode="min" if config.training.monitor in FALLING else "max",
        num_samples=search.trials,
        search_alg=algorithm,
        scheduler=asha if search.scheduler == "asha" else None,
    )


def _domain(allowed: SearchRange) -> Any:
    from ray import tune

    if allowed.choice is not None:
        return tune.choice(allowed.choice)
    if allowed.integer is not None:
        low, high = allowed.integer
        return tune.randint(low, high + 1)
    if allowed.uniform is not None:
        return tune.uniform(*allowed.uniform)
    assert allowed.log_uniform is not None
    return tune.loguniform(*allowed.log_uniform)


def _teller(total: int) -> Any:
    """Tune keeps its callbacks in a file, so that they may hold nothing of this process: whom to tell is looked up when there is a word."""
    from ray import tune

    class Teller(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002 - as Tune calls it
            for tell in sys.modules[__name__]._TOLD:  # and not a copy of it that would travel with this class
                tell(sum(trial.is_finished() for trial in trials), total)

    return Teller()


def _trial(settings: dict[str, Any], *, task: dict[str, Any]) -> None:
    """Runs on a worker."""
    from ray import tune

    os.chdir(task["folder"])  # Tune moves to a folder of its own, and paths in a config are taken from where the command was given
    config = with_settings(Config.model_validate(task["config"]), settings)
    alone = {"workers": 1, "device": "cuda" if config.training.gpus_per_worker else "cpu"}
    config = config.model_copy(
        update={
            "training": config.training.model_copy(update=alone),
            "cluster": config.cluster.model_copy(update={"address": ""}),
            "decode": config.decode.model_copy(update={"workers": 1}),
            "tracking": config.tracking.model_copy(update={"register_model": False}),
        }
    )

    def report(metrics: EpochMetrics) -> None:
        tune.report({"epoch": int(metrics["epoch"]), config.training.monitor: metrics[config.training.monitor]})

    run_training(config, progress=_silent, parent_run_id=task["run_id"], report=report)


@contextmanager
def _silent(_: str) -> Iterator[Callable[..., None]]:
    yield lambda *_: None
