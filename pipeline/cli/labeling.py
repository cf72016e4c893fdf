"""Verbs of labelling. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from reelscribe.pipeline.cli.options import (
    Device,
    Json,
    Memory,
    Model,
    Reader,
    Runtime,
    Subtitles,
    Timeout,
    TrackingUri,
    Truncated,
    WindowsText,
    Workers,
    tracking_store,
)
from reelscribe.pipeline.errors import UsageError

app = typer.Typer()
job = typer.Typer(no_args_is_help=True, help="Look at labelling jobs.")
app.add_typer(job, name="job")


@app.command(epilog="Example: reelscribe predict models:/gestures@champion clip.mp4")
def predict(
    model: Model,
    videos: Annotated[list[str], typer.Argument(help="Video files, folders, quoted globs or label files.")],
    windows: WindowsText = "",
    runtime: Runtime = "torch",
    subtitles: Subtitles = None,
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
    from reelscribe.pipeline.config import DecodeConfig
    from reelscribe.pipeline.labeling.predict import predict_videos
    from reelscribe.pipeline.sampling import Windows
    from reelscribe.pipeline.show import labels as show

    decode = DecodeConfig(backend=backend, workers=workers, timeout_s=timeout, memory_mb=memory_mb, truncated=truncated)
    answers = predict_videos(
        model,
        videos,
        tracking=tracking_store(tracking_uri),
        runtime=runtime,
        device=device,
        decode=decode,
        windows=Windows.parse(windows) if windows else None,
        subtitles=subtitles,
    )
    show.predictions(answers, as_json=json)


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
    subtitles: Subtitles = None,
    scores: Annotated[bool, typer.Option("--scores", help="Write the probability of every class, not only of the best.")] = False,
    retry: Annotated[
        str, typer.Option(metavar="CLASSES", help="Try failures of these classes again, e.g. timeout,network, or retryable for all such.")
    ] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Label a small sample, say what the job will take, and write nothing.")] = False,
    runtime: Runtime = "torch",
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
    from reelscribe.pipeline import console
    from reelscribe.pipeline.config import DecodeConfig
    from reelscribe.pipeline.errors import failure_classes
    from reelscribe.pipeline.labeling.job import JobOptions
    from reelscribe.pipeline.labeling.launch import label_videos
    from reelscribe.pipeline.sampling import Windows
    from reelscribe.pipeline.show import labels as show

    if address and engine == "local":
        raise UsageError("--address is for --engine ray; give both, or neither")
    options = JobOptions(
        engine=engine,
        cluster_address=address,
        runtime=runtime,
        device=device,
        decode=DecodeConfig(backend=backend, workers=workers, timeout_s=timeout, memory_mb=memory_mb, truncated=truncated),
        windows=Windows.parse(windows) if windows else None,
        scores=scores,
        retry=failure_classes(retry),
    )
    if plan:
        from reelscribe.pipeline.labeling.estimate import estimate_job

        show.estimate(estimate_job(model, videos, options=options, tracking=tracking_store(tracking_uri)), as_json=json)
        return
    summary = label_videos(
        model, videos, out=out, options=options, tracking=tracking_store(tracking_uri), progress=console.progress, subtitles=subtitles
    )
    show.labelling(summary, as_json=json)


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
    from reelscribe.pipeline import console
    from reelscribe.pipeline.config import DecodeConfig
    from reelscribe.pipeline.labeling.job import JobOptions
    from reelscribe.pipeline.labeling.relabel import relabel_videos
    from reelscribe.pipeline.show import labels as show

    options = JobOptions(device=device, decode=DecodeConfig(workers=workers, timeout_s=timeout, memory_mb=memory_mb))
    summary = relabel_videos(out, model, where=where, options=options, tracking=tracking_store(tracking_uri), progress=console.progress)
    show.labelling(summary, as_json=json)


@job.command("status", epilog="Example: reelscribe job status labels/")
def job_status_(
    out: Annotated[str, typer.Argument(help="The --out of a labelling job.")],
    json: Json = False,
) -> None:
    """Where a labelling job stands, while another process works on it or afterwards."""
    from reelscribe.pipeline.labeling.status import job_status
    from reelscribe.pipeline.show import labels as show

    show.job_status(job_status(out), as_json=json)


@app.command(epilog="Example: reelscribe export models:/gestures@champion --format onnx --out gestures-onnx/")
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="New folder for the model, what is said of it, and an example.")],
    format: Annotated[Literal["onnx", "openvino", "torch"], typer.Option(help="What will run it.")] = "onnx",  # noqa: A002
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Write a model as a folder that runs without ReelScribe, with an example that was run."""
    from reelscribe.pipeline.bundle import load_bundle
    from reelscribe.pipeline.runtimes.export import export as write
    from reelscribe.pipeline.show import labels as show
    from reelscribe.pipeline.tracking.registry import fetch_model

    found = fetch_model(model, uri=tracking_store(tracking_uri))
    show.exported(write(load_bundle(found.folder), out, format), as_json=json)
