"""Arguments and options that several verbs take."""

from __future__ import annotations

from typing import Annotated, Literal, Optional

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
TrackingUri = Annotated[
    str, typer.Option("--tracking-uri", help="MLflow server or sqlite:///FILE; default MLFLOW_TRACKING_URI, else runs/mlflow.db.")
]
Model = Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID, or a model folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Runtime = Annotated[
    Literal["torch", "openvino", "openvino-bf16", "openvino-int8", "onnxruntime", "torch-compile", "auto"],
    typer.Option(help="What runs the network; auto: the fastest on this machine that agrees with torch."),
]
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
Subtitles = Annotated[
    Optional[Literal["srt", "vtt"]],  # noqa: UP045
    typer.Option(help="A subtitle file for each video of what is said of it, or of its windows: SubRip or WebVTT."),
]
DEFAULT_OUTPUT = "runs"  # as in config.Config


def tracking_store(chosen: str) -> str:
    """The tracking store that a verb works with."""
    from reelscribe.pipeline.tracking.uri import tracking_uri

    return tracking_uri(chosen, DEFAULT_OUTPUT)
