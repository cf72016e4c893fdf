"""The command line: verbs only. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn, Optional

import typer

from reelscribe import __version__
from reelscribe.pipeline.cli.cluster import app as cluster
from reelscribe.pipeline.cli.labeling import app as labeling
from reelscribe.pipeline.cli.options import Json
from reelscribe.pipeline.cli.registry import app as registry
from reelscribe.pipeline.cli.training import app as training
from reelscribe.pipeline.errors import ReelScribeError

app = typer.Typer(
    name="reelscribe",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Label video archives with CNN + RNN models: train, track, register, label at scale.\n\n"
    "Try it: [bold]reelscribe demo[/bold]   Then: [bold]reelscribe train gestures data.manifest=labels.csv[/bold]",
)
for verbs in (training, labeling, cluster):
    app.add_typer(verbs)
app.add_typer(registry, name="registry")


@app.command(epilog="Example: reelscribe demo --task caption")
def demo(
    task: Annotated[Literal["single_label", "caption"], typer.Option(help="Learn labels, or sentences.")] = "single_label",
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("reelscribe-demo"),
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Train and label in this process, or on Ray.")] = "local",
    json: Json = False,
) -> None:
    """Draw videos, train, evaluate, register and label: the whole way on this machine, in minutes."""
    from reelscribe.pipeline import console
    from reelscribe.pipeline.demo import run_demo
    from reelscribe.pipeline.show import demo as show

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
    from reelscribe.pipeline.show import doctor as show

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
