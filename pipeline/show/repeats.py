"""Recipes that were trained several times, in words for people, or as JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from reelscribe.pipeline.console import print_json, print_table, say
from reelscribe.pipeline.show.training import how_to_look, leaks, training

if TYPE_CHECKING:
    from reelscribe.pipeline.training.recipes.comparison import Candidate, Comparison
    from reelscribe.pipeline.training.recipes.repeats import RepeatedTraining, Spread
    from reelscribe.pipeline.training.tune_launch import SearchResult

_SHOWN = (
    "top1",
    "macro_f1",
    "ece",
    "majority",
    "map",
    "micro_f1",
    "chance_map",
    "mae",
    "rmse",
    "median_mae",
    "frame_accuracy",
    "edit",
    "f1_50",
)  # what each task has of these


def repeats(result: RepeatedTraining, *, as_json: bool) -> None:
    """Fold by fold, then mean and spread."""
    found = result.repeats
    if as_json:
        print_json({"run_id": result.run_id, "tracking_uri": result.tracking_uri, **found.facts()})
        return
    shown = [name for name in _SHOWN if name in found.metrics()]
    rows = [
        (
            fold or "split",
            *(f"{one.spread(name).mean:.3f}" + _plus_minus(one.spread(name).seed_deviation) for name in shown),
            f"{one.spread('clips').mean:.0f}",
        )
        for fold, one in ((fold, found.of_fold(fold)) for fold in found.folds)
    ]
    print_table(["held out", *shown, "clips"], rows)
    say("")
    for name in shown[:2]:
        spread = found.spread(name)
        say(f"{name:8}  mean {spread.mean:.3f}" + _deviations(spread, len(found.folds), len(found.seeds)))
    leaks(found.leaks())
    say(f"runs      {len(found.repeats)} under {result.run_id}   pictures in {result.folder}")
    say(f"look      {how_to_look(result.tracking_uri)}")


def recipes(result: Comparison, *, as_json: bool) -> None:
    """One line a recipe."""
    if as_json:
        candidates = [candidate.facts() for candidate in result.candidates]
        print_json({"run_id": result.run_id, "tracking_uri": result.tracking_uri, "picture": result.picture, "candidates": candidates})
        return
    headline = result.candidates[0].repeats.headline
    columns = ["", headline.words, "parameters", "of the head", "MACs a frame", "of the head", "s an epoch"]
    columns += ["ms a step", "of the head", "training MB", "gradient lag"]
    print_table(columns, [_recipe_row(candidate) for candidate in result.candidates])
    found = result.candidates[0].repeats
    say("")
    say(f"{headline.words} of {found.spread('clips').mean:.0f} validation clips, {_repeated(len(found.folds), len(found.seeds))}")
    say("keep the test data for the one that you choose")
    say("ms a step: one more frame of one stream, on this machine; gradient lag: frames back to which a thousandth of the gradient reaches")
    leaks(tuple(leak for candidate in result.candidates for leak in candidate.repeats.leaks()))
    say(f"picture   {result.picture}")
    say(f"runs      under {result.run_id}; {how_to_look(result.tracking_uri)}")


def search(result: SearchResult, *, as_json: bool) -> None:
    """The trials, the best first, and the training of the best."""
    if as_json:
        trained = result.training
        facts = {"run_id": result.run_id, "monitor": result.monitor, "trials": [asdict(trial) for trial in result.trials]}
        print_json(facts | {"training": {"run_id": trained.run_id, "model": trained.model_uri, "metrics": trained.bundle.spec.metrics}})
        return
    keys = list(result.trials[0].settings)
    rows = [
        (
            *(f"{one.settings[key]:.3g}" if isinstance(one.settings[key], float) else one.settings[key] for key in keys),
            "failed" if one.value is None else f"{one.value:.4f}",
            one.epochs,
        )
        for one in result.trials
    ]
    print_table([*keys, result.monitor, "epochs"], rows)
    say(f"trials    under run {result.run_id}\n")
    training(result.training, as_json=False)


def _recipe_row(candidate: Candidate) -> tuple[object, ...]:
    cost, judged = candidate.cost, candidate.repeats.spread(candidate.repeats.headline.metric)
    return (
        candidate.name,
        f"{judged.mean:.3f}" + _plus_minus(judged.deviation),
        f"{cost.parameters:,}",
        f"{cost.head_parameters:,}",
        f"{cost.encoder_macs + cost.head_macs:,}",
        f"{cost.head_macs:,}",
        f"{candidate.epoch_s:.2f}",
        *("-" if ms is None else f"{ms:.2f}" for ms in (cost.step_ms, cost.head_step_ms)),
        f"{cost.training_mb:.1f}",
        cost.gradient_lag,
    )


def _plus_minus(deviation: float | None) -> str:
    return "" if deviation is None else f" ± {deviation:.3f}"


def _deviations(spread: Spread, folds: int, seeds: int) -> str:
    """Sample standard deviations, each with what it is taken over."""
    parts = []
    if spread.fold_deviation is not None:
        parts.append(f"{spread.fold_deviation:.3f} over folds (n = {folds})")
    if spread.seed_deviation is not None:
        parts.append(f"{spread.seed_deviation:.3f} over seeds (n = {seeds})")
    return ", standard deviation " + ", ".join(parts) if parts else ""


def _repeated(folds: int, seeds: int) -> str:
    """Of how many trainings a mean is, and what its ± is."""
    if folds * seeds == 1:
        return "one training"
    kind, n = ("seeds", seeds) if seeds > 1 else ("folds", folds)
    return f"mean of {folds * seeds} trainings ± sample standard deviation over {n} {kind}"
