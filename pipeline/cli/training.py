"""Verbs of training and judging models. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from reelscribe.pipeline.cli.options import Device, Json, Memory, Model, Reader, Timeout, TrackingUri, Truncated, Workers, tracking_store
from reelscribe.pipeline.errors import UsageError

app = typer.Typer()

Seeds = Annotated[str, typer.Option(help="Train with each of these seeds, e.g. 0,1,2; registers nothing.")]


@app.command(epilog="Example: reelscribe train configs/gestures.yaml data.manifest=labels.csv model.recurrent=lstm")
def train(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a config that comes with the package.")] = "",
    overrides: Annotated[Optional[list[str]], typer.Argument(help="key=value, e.g. training.epochs=20")] = None,  # noqa: UP045
    resume: Annotated[str, typer.Option(metavar="RUN", help="Go on with a run that was stopped, with its config.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew, even if the same command was stopped before.")] = False,
    folds: Annotated[int, typer.Option(help="Hold out each of so many folds in turn, as data.folds; registers nothing.")] = 0,
    seeds: Seeds = "",
    json: Json = False,
) -> None:
    """Train a recognizer, evaluate it, track the run and register the model.

    The same command goes on where it was stopped. With --folds or --seeds the recipe is judged instead: trained several times, with the
    mean and the spread of what it gives.
    """
    from reelscribe.pipeline import console
    from reelscribe.pipeline.config_files import load_config
    from reelscribe.pipeline.show import repeats as show_repeats
    from reelscribe.pipeline.show import training as show

    if resume:
        if folds or seeds or fresh:
            raise UsageError("--resume goes on with one run as it began: leave --folds, --seeds and --fresh out")
        from reelscribe.pipeline.training.job import run_training
        from reelscribe.pipeline.training.resumption import resumed_config

        settings = resumed_config(resume, [config, *(overrides or [])] if config else [])
        show.training(run_training(settings, progress=console.progress, resume=resume), as_json=json)
        return
    if not config:
        raise UsageError("give a config, e.g. reelscribe train gestures data.manifest=labels.csv, or --resume RUN")

    settings = load_config(config, [*(overrides or []), *([f"data.folds={folds}"] if folds else [])])  # before what takes seconds to import
    if seeds or (settings.data.folds and not settings.data.fold):
        wanted = _seeds(seeds, settings.seed)
        from reelscribe.pipeline.training.recipes.repeats import run_repeats

        show_repeats.repeats(run_repeats(settings, wanted, progress=console.progress), as_json=json)
        return
    from reelscribe.pipeline.training.job import run_training

    show.training(run_training(settings, progress=console.progress, fresh=fresh), as_json=json)


@app.command(epilog="Example: reelscribe tune gestures data.manifest=labels.csv search.trials=30")
def tune(
    config: Annotated[str, typer.Argument(help="A YAML file with a search.space, or the name of a config that comes with the package.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(help="key=value, e.g. search.trials=30")] = None,  # noqa: UP045
    json: Json = False,
) -> None:
    """Search for better settings on Ray Tune, then train the best to the end and register it.

    Trials are child runs of one. The same command goes on where it was stopped.
    """
    from reelscribe.pipeline import console
    from reelscribe.pipeline.config_files import load_config
    from reelscribe.pipeline.show import repeats as show

    settings = load_config(config, overrides)
    from reelscribe.pipeline.training.tune_launch import run_search

    show.search(run_search(settings, progress=console.progress), as_json=json)


@app.command(epilog="Example: reelscribe compare gestures data.manifest=labels.csv model.recurrent=rnn_tanh,lstm,gru --seeds 0,1,2")
def compare(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a config that comes with the package.")],
    overrides: Annotated[list[str], typer.Argument(help="key=value; several values, key=a,b, are what is compared.")],
    seeds: Seeds = "",
    json: Json = False,
) -> None:
    """Train recipes side by side: accuracy with its spread, and what each costs.

    All are trained on the same data with the same seeds and judged on the validation clips (or folds, with data.folds=K): keep the
    test data for the one that you choose.
    """
    from reelscribe.pipeline import console
    from reelscribe.pipeline.config_files import load_variants
    from reelscribe.pipeline.show import repeats as show

    variants = load_variants(config, overrides)
    wanted = _seeds(seeds, next(iter(variants.values())).seed)
    from reelscribe.pipeline.training.recipes.comparison import run_comparison

    show.recipes(run_comparison(variants, wanted, progress=console.progress), as_json=json)


@app.command(epilog="Example: reelscribe evaluate models:/gestures@champion labels.csv --split val")
def evaluate(
    model: Model,
    data: Annotated[str, typer.Argument(help="A label file or a folder of class folders.")],
    split: Annotated[str, typer.Option(help="Only rows of this split; empty takes all rows.")] = "",
    shuffle_frames: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="SEED", help="Put each clip's frames in random order first: a model that reads motion must then lose."),
    ] = None,
    report: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.html", help="Of captions: the worst and best with their frames, and where the model looked."),
    ] = None,
    device: Device = "auto",
    workers: Workers = 0,
    timeout: Timeout = 60.0,
    memory_mb: Memory = 2048,
    backend: Reader = "auto",
    truncated: Truncated = "fail",
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Compare a model's predictions with labels."""
    from reelscribe.pipeline import console
    from reelscribe.pipeline.config import DecodeConfig
    from reelscribe.pipeline.show import training as show
    from reelscribe.pipeline.training.scores.evaluation import evaluate_model

    result = evaluate_model(
        model,
        data,
        split=split,
        tracking=tracking_store(tracking_uri),
        device=device,
        decode=DecodeConfig(backend=backend, workers=workers, timeout_s=timeout, memory_mb=memory_mb, truncated=truncated),
        shuffle_seed=shuffle_frames,
        progress=console.progress,
        meteor=True,
        report=report,
    )
    show.evaluation(result, as_json=json)


def _seeds(text: str, default: int) -> list[int]:
    """The seeds of ``0,1,2``, each once; the config's own where none is given."""
    if not text:
        return [default]
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise UsageError(f"--seeds {text}: expected different whole numbers from 0 on, e.g. 0,1,2")
    return [int(word) for word in words]
