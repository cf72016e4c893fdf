"""What the registry says beyond its tables: gates, lineage, label maps, copies and removals."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from reelscribe.pipeline.console import print_json, print_table, say
from reelscribe.pipeline.show import promotion

if TYPE_CHECKING:
    from reelscribe.pipeline.promotion import GateResult
    from reelscribe.pipeline.tracking.comparison import LabelChange
    from reelscribe.pipeline.tracking.lineage import LabellingJob, Lineage
    from reelscribe.pipeline.tracking.transfer import Copied, Removal


def gate(result: GateResult, *, as_json: bool) -> None:
    """Check by check, and what came of it."""
    if as_json:
        print_json(asdict(result) | {"passed": result.passed})
        return
    before = f"version {result.champion}" if result.champion else "always naming the commonest label"
    say(f"{result.name} version {result.challenger} against {before}, for @{result.alias}; clips with digest {result.data_digest}\n")
    print_table(["", "check", "found"], [("ok" if check.passed else "!!", check.name, check.found) for check in result.checks])
    say("")
    if result.moved:
        promotion(result.moved, as_json=False)
    elif result.passed:
        say("the gate passes; nothing was moved (--dry-run)")
    else:
        failed = ", ".join(check.name for check in result.checks if not check.passed)
        say(f"the gate refuses: {failed}; @{result.alias} stays where it is")


def labels(changes: list[LabelChange], *, as_json: bool) -> None:
    """One line a label that is not at the same place."""
    if as_json:
        print_json([asdict(change) for change in changes])
    elif not changes:
        say("the same labels in the same order")
    else:
        print_table(["label", "first", "second"], [(change.label, _place(change.first), _place(change.second)) for change in changes])


def lineage(found: list[Lineage], *, as_json: bool) -> None:
    """Run by run: data in, versions out, and the jobs of each."""
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for one in found:
        for data in one.data:
            say(f"data      {data.name}, {data.context}, digest {data.digest}   {data.source}")
        commit = f", commit {one.git_commit[:12]}" + (" with changes" if one.git_dirty == "true" else "") if one.git_commit else ""
        say(f"run       {one.run_id} {one.run_name} {one.status}{commit}" if one.run_id else "run       none")
        if one.command:
            say(f"          {one.command}")
        for use in one.uses:
            aliases = "".join(f" @{alias}" for alias in use.version.aliases)
            say(f"version   models:/{use.version.name}/{use.version.version}{aliases}")
            for job in use.jobs:
                _job(job)


def copied(result: Copied, *, as_json: bool) -> None:
    """Where a copy is."""
    if as_json:
        print_json(asdict(result))
        return
    copy = f"models:/{result.copy.name}/{result.copy.version}"
    say(f"{copy} there is a true copy (SHA-256) of version {result.source.version}" + ("" if result.new else "; it was there already"))


def removal(result: Removal, *, as_json: bool) -> None:
    """What went, or would go, and what stays."""
    if as_json:
        print_json(asdict(result))
        return
    version = result.version
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    say(f"{'removed' if result.removed else 'would remove'}   models:/{version.name}/{version.version}{aliases}")
    for job in result.jobs:
        _job(job)
    say(f"stays     run {version.run_id} with its files in {version.source}")


def _job(job: LabellingJob) -> None:
    say(f"labelled  job {job.job_id} {job.state}: {job.labelled} labelled, {job.failed} failed, in {job.out}")


def _place(place: int | None) -> str:
    return "-" if place is None else str(place)
