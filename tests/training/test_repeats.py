"""Several trainings of one recipe: disjoint folds, one run above them, figures that a statistics library confirms."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from reelscribe.pipeline.config import Config
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.training.recipes.comparison import run_comparison
from reelscribe.pipeline.training.recipes.repeats import Repeat, Repeats, run_repeats


def repeats_of(values: dict[tuple[str, int], float]) -> Repeats:
    folds, seeds = (tuple(dict.fromkeys(key[i] for key in values)) for i in (0, 1))
    results = {key: SimpleNamespace(bundle=SimpleNamespace(spec=SimpleNamespace(metrics={"top1": v}))) for key, v in values.items()}
    made = tuple(Repeat(fold=fold, seed=seed, result=results[fold, seed]) for fold, seed in values)  # type: ignore[arg-type]
    return Repeats(folds=folds, seeds=seeds, repeats=made)  # type: ignore[arg-type]


def test_spread_over_folds_and_over_seeds() -> None:
    found = repeats_of({("0", 1): 0.5, ("0", 2): 0.7, ("1", 1): 0.9, ("1", 2): 0.8, ("2", 1): 0.4, ("2", 2): 0.6})
    spread = found.spread("top1")
    assert spread.mean == pytest.approx(statistics.mean([0.6, 0.85, 0.5]))
    assert spread.fold_deviation == pytest.approx(statistics.stdev([0.6, 0.85, 0.5]))
    assert spread.seed_deviation == pytest.approx(statistics.stdev([1.8 / 3, 2.1 / 3]))
    assert spread.deviation == spread.seed_deviation
    one = found.of_fold("1").spread("top1")
    assert (one.mean, one.fold_deviation) == (pytest.approx(0.85), None)


def test_one_training_has_no_spread() -> None:
    spread = repeats_of({("", 0): 0.5}).spread("top1")
    assert (spread.mean, spread.deviation) == (0.5, None)


@pytest.fixture(scope="module")
def sound(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn clips with two labels, in groups of two, and no split."""
    with (drawn / "manifest.csv").open(encoding="utf-8") as manifest:
        rows = [row for row in csv.DictReader(manifest) if row["split"] != "test"]
    file = tmp_path_factory.mktemp("folds") / "labels.csv"
    lines = [f"{drawn / row['path']},{'turn' if 'clock' in row['label'] else 'move'},g{i // 2}" for i, row in enumerate(rows)]
    file.write_text("\n".join(["path,label,group", *lines]) + "\n")
    return file


@pytest.fixture(scope="module")
def config(tiny_config: Config, sound: Path) -> Config:
    changes = {
        "name": "several",
        "data": tiny_config.data.model_copy(update={"manifest": str(sound), "folds": 2}),
        "training": tiny_config.training.model_copy(update={"epochs": 1}),
    }
    return tiny_config.model_copy(update=changes)


@pytest.mark.slow
def test_folds_and_seeds_are_children_of_one_run(config: Config) -> None:
    result = run_repeats(config, [3, 4], progress=progress)
    client = MlflowClient(result.tracking_uri)
    run = client.get_run(result.run_id)
    children = [client.get_run(repeat.result.run_id) for repeat in result.repeats.repeats]
    assert [(c.data.params["data.fold"], c.data.params["seed"]) for c in children] == [("0", "3"), ("0", "4"), ("1", "3"), ("1", "4")]
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {result.run_id}
    assert run.data.metrics["top1"] == pytest.approx(statistics.mean(c.data.metrics["top1"] for c in children))
    assert "top1_deviation" in run.data.metrics
    held_out = {r.fold: set(r.result.evaluation.predictions) for r in result.repeats.repeats}
    assert held_out["0"].isdisjoint(held_out["1"])
    assert not client.search_registered_models("name = 'several'")
    assert [f.path for f in client.list_artifacts(result.run_id, "pictures")] == ["pictures/confusion_matrix.png"]


def test_a_fold_that_leaks_is_refused_before_any_training(config: Config, sound: Path, tmp_path: Path) -> None:
    rows = [line.rsplit(",", 1)[0] for line in sound.read_text().splitlines()]
    leaky = tmp_path / "leaky.csv"
    leaky.write_text("\n".join([f"{rows[0]},group,fold", *(f"{row},g{i // 2},{i % 2}" for i, row in enumerate(rows[1:]))]) + "\n")
    changed = config.model_copy(update={"data": config.data.model_copy(update={"manifest": str(leaky)})})
    with pytest.raises(ManifestError, match=r"leak\(s\)(?s:.*)group 'g0'"):
        run_repeats(changed, [0], progress=progress)


def test_recipes_are_compared_on_the_same_clips_and_features(config: Config) -> None:
    config = config.model_copy(update={"data": config.data.model_copy(update={"folds": 0})})
    cores = ("rnn_tanh", "lstm")
    variants = {core: config.model_copy(update={"model": config.model.model_copy(update={"recurrent": core})}) for core in cores}
    cache = Path(config.output) / "cache"
    result = run_comparison(variants, [0], progress=progress)
    files = {file: file.stat().st_mtime_ns for file in cache.rglob("*.npy")}
    client = MlflowClient(result.tracking_uri)
    first, second = result.candidates
    assert [c.name for c in result.candidates] == list(cores)
    assert list(first.repeats.repeats[0].result.evaluation.truth) == list(second.repeats.repeats[0].result.evaluation.truth)
    assert first.cost.head_macs < second.cost.head_macs
    assert first.cost.encoder_macs == second.cost.encoder_macs
    for candidate in result.candidates:
        child = client.get_run(candidate.repeats.repeats[0].result.run_id)
        assert child.data.tags["mlflow.parentRunId"] == result.run_id
        assert child.data.params["model.recurrent"] == candidate.name
    stored = json.loads(Path(client.download_artifacts(result.run_id, "comparison.json")).read_text())
    assert [(c["name"], c["parameters"]) for c in stored] == [(c.name, c.cost.parameters) for c in result.candidates]
    assert result.picture.is_file()
    run_comparison({"lstm": variants["lstm"]}, [0], progress=progress)
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.npy")} == files  # nothing was decoded again
