"""Verbs that hand commands to a Ray cluster. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

from typing import Annotated

import typer

from reelscribe.pipeline.cli.options import Json

app = typer.Typer()
submitted = typer.Typer(no_args_is_help=True, help="Commands that were submitted to a Ray cluster.")
app.add_typer(submitted, name="submitted")

Cluster = Annotated[str, typer.Option(help="Jobs API of the cluster; default RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="What submit said.")]


@app.command(epilog="Example: reelscribe submit -- train gestures data.manifest=/videos/labels.csv training.workers=4")
def submit(
    arguments: Annotated[
        list[str], typer.Argument(metavar="VERB", help="After --, any command of reelscribe; paths are those of the cluster.")
    ],
    address: Cluster = "",
    json: Json = False,
) -> None:
    """Run a command on a Ray cluster, and return at once."""
    from reelscribe.pipeline import cluster_jobs
    from reelscribe.pipeline.show import cluster as show

    show.job(cluster_jobs.submit(arguments, address=address), as_json=json)


@submitted.command("status", epilog="Example: reelscribe submitted status raysubmit_LTxb")
def status_(job_id: JobId, address: Cluster = "", json: Json = False) -> None:
    """How a submitted command is."""
    from reelscribe.pipeline import cluster_jobs
    from reelscribe.pipeline.show import cluster as show

    show.job(cluster_jobs.find(job_id, address=address), as_json=json)


@submitted.command("logs", epilog="Example: reelscribe submitted logs raysubmit_LTxb")
def logs_(job_id: JobId, address: Cluster = "") -> None:
    """What a submitted command has written so far."""
    from reelscribe.pipeline import cluster_jobs, console

    console.say(cluster_jobs.logs(job_id, address=address))


@submitted.command("stop", epilog="Example: reelscribe submitted stop raysubmit_LTxb")
def stop_(job_id: JobId, address: Cluster = "", json: Json = False) -> None:
    """Ask a submitted command to stop; a training leaves a checkpoint first."""
    from reelscribe.pipeline import cluster_jobs
    from reelscribe.pipeline.show import cluster as show

    show.job(cluster_jobs.stop(job_id, address=address), as_json=json)
