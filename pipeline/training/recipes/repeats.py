"""One recipe trained several times, by fold and by seed: what it gives, and how much that varies."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reelscribe.pipeline.config import Config
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.features import FeatureCache
from reelscribe.pipeline.manifest import read_manifest, table_digest
from reelscribe.pipeline.report.pictures import confusion_matrix
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.tracking.uri import tracking_uri
from reelscribe.pipeline.training.job import TrainingResult, check_writable, log_recipe, run_training
from reelscribe.pipeline.training.recipes.leaks import Leak, find_leaks
from reelscribe.pipeline.training.recipes.splits import fold_names, split_rows
from reelscribe.pipeline.training.scores.metrics import ClassificationScores
from reelscribe.pipeline.training.tasks import TASKS, Headline
from reelscribe.pipeline.video.sandbox.pool import DecodePool


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One of the trainings."""

    fold: str  # what was held out; empty for the split
    seed: int
    result: TrainingResult


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A metric over folds and seeds. Deviations are those of a sample (n - 1), None where there is one value."""

    mean: float  # over folds of the mean over seeds
    fold_deviation: float | None  # over folds, of the mean over seeds
    seed_deviation: float | None  # over seeds, of the mean over folds

    @property
    def deviation(self) -> float | None:
        """Over seeds where there are several, else over folds."""
        return self.fold_deviation if self.seed_deviation is None else self.seed_deviation


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """All trainings of one recipe."""

    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    repeats: tuple[Repeat, ...]  # every fold with every seed

    def spread(self, metric: str) -> Spread:
        """Mean and deviations of one metric."""
        values = np.array([[self._metric(fold, seed, metric) for seed in self.seeds] for fold in self.folds])
        return Spread(
            mean=float(values.mean()),
            fold_deviation=_deviation(values.mean(axis=1).tolist()),
            seed_deviation=_deviation(values.mean(axis=0).tolist()),
        )

    def of_fold(self, fold: str) -> Repeats:
        """The trainings that held out this fold."""
        return Repeats(folds=(fold,), seeds=self.seeds, repeats=tuple(r for r in self.repeats if r.fold == fold))

    def facts(self) -> dict[str, Any]:
        """All figures, for JSON."""
        runs = [{"fold": r.fold, "seed": r.seed, "run_id": r.result.run_id, "metrics": r.result.bundle.spec.metrics} for r in self.repeats]
        return {"metrics": {name: asdict(self.spread(name)) for name in self.metrics()}, "runs": runs}

    def leaks(self) -> tuple[Leak, ...]:
        """Those of all trainings."""
        return tuple(leak for repeat in self.repeats for leak in repeat.result.leaks)

    @property
    def headline(self) -> Headline:
        """The metric that the recipe is judged by."""
        return TASKS[self.repeats[0].result.evaluation.task].headline

    def metrics(self) -> list[str]:
        """Names of the metrics that every training has."""
        first, *others = [repeat.result.bundle.spec.metrics for repeat in self.repeats]
        return [name for name in first if all(name in other for other in others)]

    def _metric(self, fold: str, seed: int, name: str) -> float:
        (found,) = [r for r in self.repeats if (r.fold, r.seed) == (fold, seed)]
        return found.result.bundle.spec.metrics[name]


@dataclass(frozen=True, kw_only=True)
class RepeatedTraining:
    """Trainings of one recipe, and the run that holds them together."""

    repeats: Repeats
    run_id: str
    tracking_uri: str
    folder: Path


def run_repeats(config: Config, seeds: Sequence[int], *, progress: OpenProgress) -> RepeatedTraining:
    """Train once for every fold (``data.folds``) and seed, as child runs of one. Nothing is registered: the recipe is judged, not a model.

    Raises what run_training raises, and ManifestError before the first training where any fold cannot be used or leaks.
    """
    with open_series(config, f"{config.name}, repeated", progress=progress) as series:
        repeats = series.train(config, seeds, progress=progress)
        spreads = {name: repeats.spread(name) for name in repeats.metrics()}
        series.run.log_metrics({name: spread.mean for name, spread in spreads.items()})
        series.run.log_metrics({f"{name}_deviation": s.deviation for name, s in spreads.items() if s.deviation is not None})
        scores = [repeat.result.evaluation.scores for repeat in repeats.repeats]
        confusions = [found.confusion for found in scores if isinstance(found, ClassificationScores)]
        if confusions:
            picture = series.folder / "confusion_matrix.png"
            confusion_matrix(np.sum(confusions, axis=0), repeats.repeats[0].result.evaluation.labels, picture)
            series.run.log_artifact(picture, "pictures")
    return RepeatedTraining(repeats=repeats, run_id=series.run.run_id, tracking_uri=series.run.uri, folder=series.folder)


@dataclass(frozen=True, kw_only=True)
class Series:
    """An open run that holds trainings on the same data, and what they share."""

    run: RunTracker
    folder: Path
    leaks: dict[str, tuple[Leak, ...]]  # of each fold that is held out in turn; one empty name is the split
    cache: FeatureCache

    def train(self, config: Config, seeds: Sequence[int], *, progress: OpenProgress) -> Repeats:
        """Train with every fold and every seed."""
        tracking = config.tracking.model_copy(update={"register_model": False})
        repeats = []
        for fold, seed in itertools.product(self.leaks, seeds):
            one = _of_fold(config, fold).model_copy(update={"seed": seed, "tracking": tracking})
            result = run_training(one, progress=progress, parent_run_id=self.run.run_id, cache=self.cache, leaks=self.leaks[fold])
            repeats.append(Repeat(fold=fold, seed=seed, result=result))
        return Repeats(folds=tuple(self.leaks), seeds=tuple(seeds), repeats=tuple(repeats))


@contextmanager
def open_series(config: Config, name: str, *, progress: OpenProgress) -> Iterator[Series]:
    """Check that every fold can be used and is free of leaks, then open a run for trainings on the data of ``config``."""
    output = Path(config.output).absolute()
    check_writable(output)
    cache = FeatureCache(output / "cache")
    table = read_manifest(config.data.manifest, require_labels=True, task=config.task)
    folds = fold_names(table, config.data, config.task) if config.data.folds and not config.data.fold else [config.data.fold]
    all_splits = {fold: split_rows(table, _of_fold(config, fold).data, config.task) for fold in folds}
    uri = tracking_uri(config.tracking.uri, config.output)
    with RunTracker(uri=uri, experiment=config.tracking.experiment, run_name=name) as run:
        log_recipe(run, config, table_digest(table), table.num_rows)
        with DecodePool(config.decode.num_workers, config.decode.limits) as pool, progress("looking for leaks") as advance:
            leaks = {fold: find_leaks(splits, config, pool=pool, cache=cache, progress=advance) for fold, splits in all_splits.items()}
        folder = output / config.name / run.run_id
        folder.mkdir(parents=True)
        yield Series(run=run, folder=folder, leaks=leaks, cache=cache)


def _of_fold(config: Config, fold: str) -> Config:
    """The config that holds out this fold."""
    return config.model_copy(update={"data": config.data.model_copy(update={"fold": fold})})


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
