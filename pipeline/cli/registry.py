"""The command line's verbs of the model registry. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

from typing import Annotated

import typer

from reelscribe.pipeline.cli.options import Json, TrackingUri, tracking_store
from reelscribe.pipeline.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Ask the model registry, and move its aliases.")

Why = Annotated[str, typer.Option(help="A word on the reason, kept in the history.")]


@app.command("list", epilog="Example: reelscribe registry list")
def list_(tracking_uri: TrackingUri = "", json: Json = False) -> None:
    """Registered models with their aliases."""
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.registry import list_models

    show.models(list_models(uri=tracking_store(tracking_uri)), as_json=json)


@app.command("show", epilog="Example: reelscribe registry show models:/gestures@champion")
def show_(
    model: Annotated[str, typer.Argument(help="NAME, models:/NAME@ALIAS or models:/NAME/VERSION.")],
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """One version: aliases, metrics, where it came from, and its card."""
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.registry import show_model

    show.model(show_model(model, uri=tracking_store(tracking_uri)), as_json=json)


@app.command("query", epilog="Example: reelscribe registry query \"metrics.top1 >= 0.9 and params.model.recurrent = 'gru'\"")
def query_(
    text: Annotated[str, typer.Argument(help="Conditions on name, version, alias, created, metrics.*, params.*, tags.*")] = "",
    tracking_uri: TrackingUri = "",
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print a CSV table of all that is known of each version.")] = False,
) -> None:
    """Versions that meet conditions, joined with the runs that made them."""
    if json and csv:
        raise UsageError("--json and --csv: choose one")
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.query import query_versions
    from reelscribe.pipeline.tracking.query_language import keyed_fields, parse_query

    found = query_versions(text, uri=tracking_store(tracking_uri))
    if csv:
        show.versions_as_csv(found)
    else:
        show.versions(found, keyed_fields(parse_query(text)), as_json=json)


@app.command("promote", epilog="Example: reelscribe registry promote models:/gestures/3 --to champion --gate configs/gate.yaml")
def promote_(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION or models:/NAME@OTHER_ALIAS.")],
    to: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    gate: Annotated[
        str, typer.Option(metavar="FILE.yaml", help="Compare it with the version there first, as configs/gate.yaml says.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --gate: compare, and move and keep nothing.")] = False,
    why: Why = "",
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Move an alias to a version; with --gate only if it passes, status 1 if it does not."""
    from reelscribe.pipeline import console
    from reelscribe.pipeline.show import registry as show

    if not gate:
        if dry_run:
            raise UsageError("--dry-run is for --gate; without one, promote only moves the alias")
        from reelscribe.pipeline.tracking.registry import promote

        show.promotion(promote(model, to=to, uri=tracking_store(tracking_uri), why=why), as_json=json)
        return
    from reelscribe.pipeline.tracking.gate import load_gate

    settings = load_gate(gate)  # before what takes seconds to import
    from reelscribe.pipeline.promotion import promote_by_gate

    result = promote_by_gate(
        model, to=to, gate=settings, tracking=tracking_store(tracking_uri), why=why, dry_run=dry_run, progress=console.progress
    )
    show.gate(result, as_json=json)
    if not result.passed:
        raise typer.Exit(1)


@app.command("rollback", epilog="Example: reelscribe registry rollback gestures --alias champion")
def rollback_(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    alias: Annotated[str, typer.Option(help="The alias to move back.")] = "champion",
    why: Why = "",
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Take the last move of an alias back."""
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.registry import rollback

    show.promotion(rollback(name, alias=alias, uri=tracking_store(tracking_uri), why=why), as_json=json)


@app.command("history", epilog="Example: reelscribe registry history gestures")
def history_(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Every move of a model's aliases: when, who, from, to, why."""
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.registry import alias_history

    show.history(alias_history(name, uri=tracking_store(tracking_uri)), as_json=json)


@app.command("compare", epilog="Example: reelscribe registry compare models:/gestures@champion models:/gestures/4")
def compare_(
    first: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/VERSION.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Two versions side by side: metrics, and where their configs and labels differ."""
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.registry import compare

    show.comparison(compare(first, second, uri=tracking_store(tracking_uri)), as_json=json)


@app.command("diff", epilog="Example: reelscribe registry diff models:/gestures@champion models:/gestures/4")
def diff_(
    first: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/VERSION.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Where the label maps of two versions differ; status 1 if they do."""
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.registry import label_differences

    changes = label_differences(first, second, uri=tracking_store(tracking_uri))
    show.labels(changes, as_json=json)
    if changes:
        raise typer.Exit(1)


@app.command("lineage", epilog="Example: reelscribe registry lineage models:/gestures@champion")
def lineage_(
    what: Annotated[str, typer.Argument(help="models:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN_ID, job:JOB_ID or data:DIGEST.")],
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Data, run, versions and labelling jobs, from any end."""
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.lineage import lineage

    show.lineage(lineage(what, uri=tracking_store(tracking_uri)), as_json=json)


@app.command("push", epilog="Example: reelscribe registry push models:/gestures@champion http://mlflow.example:5000")
def push_(
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/VERSION.")],
    to: Annotated[str, typer.Argument(metavar="URI", help="The tracking store that gets a copy.")],
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Copy a version with its run's facts into another tracking store; no alias moves there."""
    _copy(model, tracking_store(tracking_uri), to, as_json=json)


@app.command("pull", epilog="Example: reelscribe registry pull models:/gestures@champion http://mlflow.example:5000")
def pull_(
    model: Annotated[str, typer.Argument(help="models:/NAME@ALIAS or models:/NAME/VERSION, there.")],
    source: Annotated[str, typer.Argument(metavar="URI", help="The tracking store that has it.")],
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Copy a version with its run's facts out of another tracking store; no alias moves here."""
    _copy(model, source, tracking_store(tracking_uri), as_json=json)


def _copy(model: str, source: str, target: str, *, as_json: bool) -> None:
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.transfer import copy_version

    show.copied(copy_version(model, source=tracking_store(source), target=tracking_store(target)), as_json=as_json)


@app.command("rm", epilog="Example: reelscribe registry rm models:/gestures/2 --dry-run")
def rm_(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION.")],
    force: Annotated[bool, typer.Option("--force", help="Also a version that has an alias or that labelling jobs used.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    tracking_uri: TrackingUri = "",
    json: Json = False,
) -> None:
    """Remove a version that nobody uses."""
    from reelscribe.pipeline.show import registry as show
    from reelscribe.pipeline.tracking.transfer import remove_version

    show.removal(remove_version(model, uri=tracking_store(tracking_uri), force=force, dry_run=dry_run), as_json=json)
