"""The command line: verbs only. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Optional

import typer

from reelscribe import __version__
from reelscribe.pipeline.cli_registry import Json, TrackingUri, registry, tracking_store
from reelscribe.pipeline.errors import ReelScribeError, UsageError

app = typer.Typer(
    name="reelscribe",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Label video archives with CNN + RNN models: train, track, register, label at scale.\n\n"
    "Try it: [bold]reelscribe demo[/bold]   Then: [bold]reelscribe train gestures data.manifest=labels.csv[/bold]",
)
app.add_typer(registry, name="registry")
job = typer.Typer(no_args_is_help=True, help="Look at labelling jobs.")
app.add_typer(job, name="job")
submitted = typer.Typer(no_args_is_help=True, help="Commands that were submitted to a Ray cluster.")
app.add_typer(submitted, name="submitted")

Model = Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID, or a model folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[int, typer.Option(min=0, help="Decode processes; 0 is one per core. On Ray the cluster's CPUs decide.")]
Timeout = Annotated[float, typer.Option(min=0.1, max=86400, help="Seconds that decoding one video may take.")]
Memory = Annotated[int, typer.Option(min=64, help="MB that decoding one video may take.")]
Truncated = Annotated[
    Literal["fail", "use"], typer.Option(help="A cut or damaged video is a failure, or the frames that decode of it are used.")
]
Reader = Annotated[
    Literal["auto", "decord", "opencv", "pyav", "torchcodec"],
    typer.Option("--backend", help="Decoding library; auto takes the one that is exact for the file, and falls back to the next."),
]
WindowsText = Annotated[
    str, typer.Option("--windows", metavar="LENGTH[/STEP]", help="Label windows of a long video: 10s, or 10s/5s for one every 5 s.")
]
Seeds = Annotated[str, typer.Option(help="Train with each of these seeds, e.g. 0,1,2; registers nothing.")]
Cluster = Annotated[str, typer.Option(help="Jobs API of the cluster; default RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="What submit said.")]


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
    from reelscribe.pipeline import console, show, show_repeats
    from reelscribe.pipeline.config_files import load_config

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
    from reelscribe.pipeline import console, show_repeats
    from reelscribe.pipeline.config_files import load_config

    settings = load_config(config, overrides)
    from reelscribe.pipeline.training.tune_launch import run_search

    show_repeats.search(run_search(settings, progress=console.progress), as_json=json)


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
    from reelscribe.pipeline import console, show_repeats
    from reelscribe.pipeline.config_files import load_variants

    variants = load_variants(config, overrides)
    wanted = _seeds(seeds, next(iter(variants.values())).seed)
    from reelscribe.pipeline.training.recipes.comparison import run_comparison

    show_repeats.recipes(run_comparison(variants, wanted, progress=console.progress), as_json=json)


@app.command(epilog="Example: reelscribe submit -- train gestures data.manifest=/videos/labels.csv training.workers=4")
def submit(
    arguments: Annotated[
        list[str], typer.Argument(metavar="VERB", help="After --, any command of reelscribe; paths are those of the cluster.")
    ],
    address: Cluster = "",
    json: Json = False,
) -> None:
    """Run a command on a Ray cluster, and return at once."""
    from reelscribe.pipeline import cluster_jobs, show

    show.job(cluster_jobs.submit(arguments, address=address), as_json=json)


@submitted.command("status", epilog="Example: reelscribe submitted status raysubmit_LTxb")
def status_(job_id: JobId, address: Cluster = "", json: Json = False) -> None:
    """How a submitted command is."""
    from reelscribe.pipeline import cluster_jobs, show

    show.job(cluster_jobs.find(job_id, address=address), as_json=json)


@submitted.command("logs", epilog="Example: reelscribe submitted logs raysubmit_LTxb")
def logs_(job_id: JobId, address: Cluster = "") -> None:
    """What a submitted command has written so far."""
    from reelscribe.pipeline import cluster_jobs, console

    console.say(cluster_jobs.logs(job_id, address=address))


@submitted.command("stop", epilog="Example: reelscribe submitted stop raysubmit_LTxb")
def stop_(job_id: JobId, address: Cluster = "", json: Json = False) -> None:
    """Ask a submitted command to stop; a training leaves a checkpoint first."""
    from reelscribe.pipeline import cluster_jobs, show

    show.job(cluster_jobs.stop(job_id, address=address), as_json=json)


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
    from reelscribe.pipeline import console, show
    from reelscribe.pipeline.config import DecodeConfig
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


@app.command(epilog="Example: reelscribe predict models:/gestures@champion clip.mp4")
def predict(
    model: Model,
    videos: Annotated[list[str], typer.Argument(help="Video files, folders, quoted globs or label files.")],
    windows: WindowsText = "",
    device: Device = "auto",
    workers: Workers = 0,
    timeout: Timeout = 60.0,
    memory_mb: Memory = 2048,
    backend: Reader = "auto",
    truncated: Truncated = "fail",
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Print the labels of a few videos."""
    from reelscribe.pipeline import show_labels
    from reelscribe.pipeline.config import DecodeConfig
    from reelscribe.pipeline.labeling.predict import predict_videos
    from reelscribe.pipeline.sampling import Windows

    decode = DecodeConfig(backend=backend, workers=workers, timeout_s=timeout, memory_mb=memory_mb, truncated=truncated)
    answers = predict_videos(
        model,
        videos,
        tracking=tracking_store(tracking_uri),
        device=device,
        decode=decode,
        windows=Windows.parse(windows) if windows else None,
    )
    show_labels.predictions(answers, as_json=json)


@app.command(epilog="Example: reelscribe label models:/gestures@champion videos/ --out labels/")
def label(
    model: Model,
    videos: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="A folder, a quoted glob, one video, a label file, s3://BUCKET/PREFIX, or - for one path or URI a line."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder or s3://BUCKET/FOLDER for labels/, failures/, job.json and report.html.")],
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This process and its decode workers, or Ray.")] = "local",
    address: Annotated[str, typer.Option(help="Ray cluster for --engine ray: auto or HOST:PORT; empty starts one here.")] = "",
    windows: WindowsText = "",
    scores: Annotated[bool, typer.Option("--scores", help="Write the probability of every class, not only of the best.")] = False,
    retry: Annotated[
        str, typer.Option(metavar="CLASSES", help="Try failures of these classes again, e.g. timeout,network, or retryable for all such.")
    ] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Label a small sample, say what the job will take, and write nothing.")] = False,
    device: Device = "auto",
    workers: Workers = 0,
    timeout: Timeout = 60.0,
    memory_mb: Memory = 2048,
    backend: Reader = "auto",
    truncated: Truncated = "fail",
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Label videos into one table; the same command goes on where it was stopped.

    A video that cannot be used becomes a row in failures with its cause, and does not end the job.
    """
    from reelscribe.pipeline import console, show_labels
    from reelscribe.pipeline.config import DecodeConfig
    from reelscribe.pipeline.errors import failure_classes
    from reelscribe.pipeline.labeling.job import JobOptions
    from reelscribe.pipeline.labeling.launch import label_videos
    from reelscribe.pipeline.sampling import Windows

    if address and engine == "local":
        raise UsageError("--address is for --engine ray; give both, or neither")
    options = JobOptions(
        engine=engine,
        cluster_address=address,
        device=device,
        decode=DecodeConfig(backend=backend, workers=workers, timeout_s=timeout, memory_mb=memory_mb, truncated=truncated),
        windows=Windows.parse(windows) if windows else None,
        scores=scores,
        retry=failure_classes(retry),
    )
    if plan:
        from reelscribe.pipeline.labeling.estimate import estimate_job

        show_labels.estimate(estimate_job(model, videos, options=options, tracking=tracking_store(tracking_uri)), as_json=json)
        return
    summary = label_videos(model, videos, out=out, options=options, tracking=tracking_store(tracking_uri), progress=console.progress)
    show_labels.labelling(summary, as_json=json)


@app.command(epilog='Example: reelscribe relabel labels/ models:/gestures@champion --where "model_version < 5"')
def relabel(
    out: Annotated[str, typer.Argument(help="The --out of a finished labelling job.")],
    model: Model,
    where: Annotated[
        str, typer.Option(help='Which rows, by the columns of labels: "model_version < 5", "confidence < 0.6 and label == \'left\'".')
    ],
    device: Device = "auto",
    workers: Workers = 0,
    timeout: Timeout = 60.0,
    memory_mb: Memory = 2048,
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Label some rows of a finished job again, with another model, in place."""
    from reelscribe.pipeline import console, show_labels
    from reelscribe.pipeline.config import DecodeConfig
    from reelscribe.pipeline.labeling.job import JobOptions
    from reelscribe.pipeline.labeling.relabel import relabel_videos

    options = JobOptions(device=device, decode=DecodeConfig(workers=workers, timeout_s=timeout, memory_mb=memory_mb))
    summary = relabel_videos(out, model, where=where, options=options, tracking=tracking_store(tracking_uri), progress=console.progress)
    show_labels.labelling(summary, as_json=json)


@job.command("status", epilog="Example: reelscribe job status labels/")
def job_status_(
    out: Annotated[str, typer.Argument(help="The --out of a labelling job.")],
    json: Json = False,
) -> None:
    """Where a labelling job stands, while another process works on it or afterwards."""
    from reelscribe.pipeline import show_labels
    from reelscribe.pipeline.labeling.status import job_status

    show_labels.job_status(job_status(out), as_json=json)


@app.command(epilog="Example: reelscribe demo --task caption")
def demo(
    task: Annotated[Literal["single_label", "caption"], typer.Option(help="Learn labels, or sentences.")] = "single_label",
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("reelscribe-demo"),
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Train and label in this process, or on Ray.")] = "local",
    json: Json = False,
) -> None:
    """Draw videos, train, evaluate, register and label: the whole way on this machine, in minutes."""
    from reelscribe.pipeline import console, show
    from reelscribe.pipeline.demo import run_demo

    show.demo(run_demo(folder, task=task, engine=engine, progress=console.progress), as_json=json)


@app.command(epilog="Example: reelscribe doctor videos/ --write-clean clean.csv")
def doctor(
    inputs: Annotated[Optional[list[str]], typer.Argument(help="Videos, folders or label files; none checks this machine.")] = None,  # noqa: UP045
    write_clean: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.csv", help="Write a label file of the videos that can be used."),
    ] = None,
    json: Json = False,
) -> None:
    """Say what this machine has, or what is wrong with videos; status 1 if something is."""
    from reelscribe.pipeline import doctor as checks
    from reelscribe.pipeline import show

    if not inputs:
        if write_clean:
            raise typer.BadParameter("--write-clean needs videos, folders or label files to look at")
        sound = show.environment(checks.environment(), as_json=json)
    else:
        if write_clean:
            checks.check_clean_path(write_clean, inputs)  # before what may take hours
        facts = checks.inspect_inputs(inputs)
        if write_clean:
            checks.write_clean(write_clean, inputs, facts)
        sound = show.videos(facts, as_json=json)
    if not sound:
        raise typer.Exit(1)


def _seeds(text: str, default: int) -> list[int]:
    """The seeds of ``0,1,2``, each once; the config's own where none is given."""
    if not text:
        return [default]
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise UsageError(f"--seeds {text}: expected different whole numbers from 0 on, e.g. 0,1,2")
    return [int(word) for word in words]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; an error that the user can mend is shown without a traceback."""
    # Threads that wait asleep: decoding needs the cores that spinning ones would burn. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ReelScribeError as error:
        _complain(str(error), error.exit_status)
    except OSError as error:  # a full disk, a folder that may not be written: nothing a traceback explains better
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}", 1)


def _complain(text: str, status: int) -> NoReturn:
    from reelscribe.pipeline.console import printable

    typer.echo(f"reelscribe: {printable(text)}", err=True)
    sys.exit(status)
