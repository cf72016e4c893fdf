"""What the registry says: versions, aliases, gates, lineage, label maps, copies and removals."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from reelscribe.pipeline.console import note, print_json, print_table, say

if TYPE_CHECKING:
    from reelscribe.pipeline.promotion import GateResult
    from reelscribe.pipeline.tracking.comparison import LabelChange, LabelPair
    from reelscribe.pipeline.tracking.lineage import LabellingJob, Lineage
    from reelscribe.pipeline.tracking.query_language import Field
    from reelscribe.pipeline.tracking.registry import AliasMove, ModelDetails, ModelVersion, Promotion, RegisteredModel, VersionComparison
    from reelscribe.pipeline.tracking.transfer import Copied, Removal


def models(found: list[RegisteredModel], *, as_json: bool) -> None:
    """One line a registered model."""
    if as_json:
        print_json([asdict(model) for model in found])
        return
    rows = [(m.name, m.latest_version or "", _aliases(m.aliases), f"{m.updated:%Y-%m-%d %H:%M}", m.description) for m in found]
    print_table(["name", "newest", "aliases", "updated (UTC)", "description"], rows)


def model(details: ModelDetails, *, as_json: bool) -> None:
    """One version in full."""
    version = details.version
    if as_json:
        print_json(asdict(details))
        return
    say(f"{version.name} version {version.version}   {version.status}   {', '.join('@' + alias for alias in version.aliases)}")
    say(f"created {version.created:%Y-%m-%d %H:%M:%S} UTC by run {version.run_id}   files {version.source}")
    say(f"aliases of {version.name}: {_aliases(details.model.aliases) or 'none'}; newest version {details.model.latest_version}")
    say("")
    print_table(["metric", "value"], [(name, f"{value:.4g}") for name, value in sorted(version.metrics.items())])
    say("")
    lineage([details.lineage], as_json=False)
    say("")
    say(details.card or f"(no model card: {details.problem})")


def versions(found: list[ModelVersion], named: Sequence[Field], *, as_json: bool) -> None:
    """One line a version, with what the query named of it (top1 and the recurrent core where it named nothing)."""
    if as_json:
        print_json([asdict(version) for version in found])
        return
    shown = [(field.group, field.key) for field in named] or [("metrics", "top1"), ("params", "model.recurrent")]
    rows = [
        (
            v.name,
            v.version,
            ", ".join(v.aliases),
            f"{v.created:%Y-%m-%d %H:%M}",
            *(_cell(getattr(v, group).get(key, "")) for group, key in shown),
            v.run_id or "",
        )
        for v in found
    ]
    keys = [key.removeprefix("model.") for _, key in shown]
    print_table(["name", "version", "aliases", "created (UTC)", *keys, "run"], rows)
    if not found:
        note("no version is so")


def versions_as_csv(found: list[ModelVersion]) -> None:
    """One row a version, with a column for every metric, parameter and tag that one of them has."""
    keyed = {group: sorted({key for v in found for key in getattr(v, group)}) for group in ("metrics", "params", "tags")}
    writer = csv.writer(sys.stdout, lineterminator="\n")
    plain = ("name", "version", "aliases", "created", "status", "run_id", "source", "description")
    writer.writerow([*plain, *(f"{group}.{key}" for group, keys in keyed.items() for key in keys)])
    for v in found:
        values = [getattr(v, group).get(key, "") for group, keys in keyed.items() for key in keys]
        writer.writerow(
            [v.name, v.version, " ".join(v.aliases), v.created.isoformat(), v.status, v.run_id, v.source, v.description, *values]
        )


def promotion(moved: Promotion, *, as_json: bool) -> None:
    """Where an alias was and is."""
    if as_json:
        print_json(asdict(moved))
    elif moved.before == moved.after:
        say(f"models:/{moved.name}@{moved.alias} is {_version(moved.after)} already")
    else:
        say(f"models:/{moved.name}@{moved.alias}: {_version(moved.before)} -> {_version(moved.after)}")


def history(moves: list[AliasMove], *, as_json: bool) -> None:
    """One line a move of an alias."""
    if as_json:
        print_json([asdict(move) for move in moves])
        return
    rows = [(f"{m.when:%Y-%m-%d %H:%M:%S}", m.who, f"@{m.alias}", _version(m.before), _version(m.after), m.why) for m in moves]
    print_table(["when (UTC)", "who", "alias", "from", "to", "why"], rows)


def comparison(found: VersionComparison, *, as_json: bool) -> None:
    """Two versions side by side."""
    if as_json:
        print_json(asdict(found))
        return
    names = [f"{version.name} {version.version}" for version in (found.first, found.second)]
    print_table(["metric", *names], [(pair.name, _number(pair.first), _number(pair.second)) for pair in found.metrics])
    say("")
    print_table(["config", *names], [(pair.name, pair.first or "", pair.second or "") for pair in found.params])
    say("")
    if found.label_scores:
        print_table([found.label_measure, *names, "gain"], [_label_row(pair) for pair in found.label_scores])
        worse, better = (sum(sign * pair.gain > 0 for pair in found.label_scores) for sign in (-1, 1))
        say(f"{better} labels better, {worse} worse, {len(found.label_scores) - worse - better} the same\n")
    labels = "the same" if found.same_labels else f"lost: {', '.join(found.labels_lost)}; gained: {', '.join(found.labels_gained)}"
    data = {True: "the same", False: "different", None: "not known"}[found.same_data]
    say(f"labels: {labels}; training data: {data}")


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


def _label_row(pair: LabelPair) -> tuple[object, ...]:
    return pair.label, _number(pair.first), _number(pair.second), f"{pair.gain:+.4f}" if pair.gain else ""


def _place(place: int | None) -> str:
    return "-" if place is None else str(place)


def _version(version: int | None) -> str:
    return f"version {version}" if version else "none"


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _aliases(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"@{alias} = {version}" for alias, version in sorted(aliases.items()))
