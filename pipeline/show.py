"""Results in words for people, or as JSON for programs."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.console import print_json, print_table, say
from reelscribe.pipeline.tracking.uri import redact

if TYPE_CHECKING:
    from reelscribe.pipeline.bundle import BundleSpec
    from reelscribe.pipeline.cluster_jobs import Job
    from reelscribe.pipeline.demo import DemoResult
    from reelscribe.pipeline.doctor import Check, VideoFacts
    from reelscribe.pipeline.predictor import AnyPrediction
    from reelscribe.pipeline.tracking.registry import AliasMove, ModelDetails, ModelVersion, Promotion, RegisteredModel, VersionComparison
    from reelscribe.pipeline.training.data import Failure
    from reelscribe.pipeline.training.job import TrainingResult
    from reelscribe.pipeline.training.recipes.leaks import Leak
    from reelscribe.pipeline.training.scores.evaluation import Evaluation
    from reelscribe.pipeline.training.scores.metrics import ClassificationScores
    from reelscribe.pipeline.video.types import Inspection

_SHOWN_CONFUSIONS = 5


def training(result: TrainingResult, *, as_json: bool) -> None:
    """What a training left, and where."""
    from reelscribe.pipeline.training.tasks import TASKS

    if as_json:
        version = result.version
        print_json(
            {
                "run_id": result.run_id,
                "tracking_uri": result.tracking_uri,
                "model": result.model_uri,
                "version": version and version.version,
                "folder": str(result.bundle.folder),
                "metrics": result.bundle.spec.metrics,
                "temperature": result.bundle.spec.temperature,
                "threshold": result.bundle.spec.threshold,
                "time": asdict(result.spent) | {"samples_per_s": result.spent.samples_per_s, "verdict": result.spent.verdict},
                "log": str(result.log_file),
                "leaks": [asdict(leak) for leak in result.leaks],
                "failures": [asdict(failure) for failure in result.failures],
            }
        )
        return
    metrics = result.bundle.spec.metrics
    head = TASKS[result.evaluation.task].headline
    against = f"{head.baseline_words} {metrics[head.baseline]:.3f}"
    say(f"validation {head.words} {metrics[head.metric]:.3f} on {metrics['clips']:.0f} clips ({against})")
    leaks(result.leaks)
    _confidence(result.bundle.spec)
    _failures(result.failures)
    aliases = "".join(f" @{alias}" for alias in result.version.aliases) if result.version else ""
    say(f"model     {result.model_uri}{aliases}   folder {result.bundle.folder}")
    if result.alias_kept:
        why = "these figures prove nothing" if result.leaks else "that version did better on the same data"
        say(f"          @{result.alias_kept} stays where it is: {why}")
    say(f"speed     {result.spent.samples_per_s:.1f} clips/s; {result.spent.verdict}")
    say(f"run       {result.run_id}   pictures and checkpoint in {result.bundle.folder.parent}")
    say(f"log       {result.log_file}")
    say(f"look      {how_to_look(result.tracking_uri)}")


def evaluation(result: Evaluation, *, as_json: bool) -> None:
    """Scores, also by label where there are labels, the commonest confusions, and what could not be decoded."""
    from reelscribe.pipeline import show_captions
    from reelscribe.pipeline.training.scores.captions import CaptionScores
    from reelscribe.pipeline.training.scores.metrics import ClassificationScores, by_label

    scores = result.scores
    measure, values = by_label(scores)
    if as_json:
        print_json(
            {
                "task": result.task,
                "metrics": scores.metrics,
                **({measure.replace(" ", "_"): values, "labels": list(result.labels)} if values else {}),
                **show_captions.facts(scores),
                **({"confusion": scores.confusion.tolist()} if isinstance(scores, ClassificationScores) else {}),
                "predictions": {video_id: prediction(found) for video_id, found in result.predictions.items()},
                "failures": [asdict(failure) for failure in result.failures],
            }
        )
        return
    show_captions.metrics(scores)
    if values:
        say("")
        print_table(["label", measure], [(label, f"{value:.3f}") for label, value in values.items()])
    if isinstance(scores, ClassificationScores):
        _confusions(scores, list(result.labels))
    if isinstance(scores, CaptionScores):
        show_captions.extremes(result, scores)
    _failures(result.failures)


def _confusions(scores: ClassificationScores, labels: list[str]) -> None:
    wrong = [
        (scores.confusion[i, j], a, b) for i, a in enumerate(labels) for j, b in enumerate(labels) if i != j and scores.confusion[i, j]
    ]
    if wrong:
        say("")
        worst = sorted(wrong, reverse=True)[:_SHOWN_CONFUSIONS]
        print_table(["true", "taken for", "clips"], [(a, b, count) for count, a, b in worst])


def prediction(found: AnyPrediction) -> dict[str, Any]:
    """A prediction of any task as JSON."""
    from reelscribe.pipeline.predictor import CaptionPrediction, FramesPrediction, LabelsPrediction, Prediction, ValuePrediction

    match found:
        case CaptionPrediction():
            return {"caption": found.label, "confidence": found.confidence, "accepted": found.accepted}
        case Prediction():
            return {"label": found.label, "confidence": found.confidence, "accepted": found.accepted}
        case LabelsPrediction():
            return {"labels": list(found.labels)}
        case ValuePrediction():
            return {"value": found.value}
        case FramesPrediction():
            return {"segments": [segment._asdict() for segment in found.segments]}


def demo(result: DemoResult, *, as_json: bool) -> None:
    """The demo's one screen."""
    from reelscribe.pipeline.report.page import REPORT_FILE

    job, test, shuffled = result.labelling, result.test.scores.metrics, result.shuffled.scores.metrics
    if as_json:
        print_json(
            {
                "folder": result.folder,
                "model": result.training.model_uri,
                "tracking_uri": result.training.tracking_uri,
                "test": test,
                "test_shuffled": shuffled,
                "labelling": asdict(job),
                "right": result.right,
                "report": f"{job.out}/{REPORT_FILE}",
            }
        )
        return
    failed = ", ".join(f"{count} {failure}" for failure, count in job.failed_by_class.items())
    where = f"--tracking-uri {shlex.quote(result.training.tracking_uri)}"
    words, figure = result.figure_words, result.figure
    if figure == "top1":
        say(f"Everything is in {result.folder}/; the classes differ only in the order of their frames.\n")
        say(f"test clips, never seen before    {words} {test[figure]:.2f} on {test['clips']:.0f} clips")
        say(f"  always the commonest class     {words} {test['majority']:.2f}")
    else:
        say(f"Everything is in {result.folder}/; some shapes of a colour never moved that way in a training clip.\n")
        say(f"sentences never seen before      {words} {test[figure]:.2f} on {test['clips']:.0f} clips")
    say(f"  same model, frames shuffled    {words} {shuffled[figure]:.2f}")
    say(f"training clips left out          {len(result.training.failures)} (broken files)")
    say(f"new videos labelled              {job.labelled} of {job.total}, {result.right} of them right")
    say(f"new videos that failed           {job.failed}: {failed}\n")
    say(f"report    {job.out}/{REPORT_FILE}")
    say(f"model     reelscribe registry show {result.training.model_uri} {where}")
    say(f"runs      {how_to_look(result.training.tracking_uri)}")
    say(f"predict   reelscribe predict {result.training.model_uri} VIDEO {where}")


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
    say(details.card or f"(no model card: {details.problem})")


def versions(found: list[ModelVersion], *, as_json: bool) -> None:
    """One line a version."""
    if as_json:
        print_json([asdict(version) for version in found])
        return
    rows = [
        (
            v.name,
            v.version,
            ", ".join(v.aliases),
            f"{v.created:%Y-%m-%d %H:%M}",
            f"{v.metrics['top1']:.4f}" if "top1" in v.metrics else "",
            v.params.get("model.recurrent", ""),
            v.run_id or "",
        )
        for v in found
    ]
    print_table(["name", "version", "aliases", "created (UTC)", "top1", "recurrent", "run"], rows)


def job(found: Job, *, as_json: bool) -> None:
    """A command on a cluster, and what to do next."""
    if as_json:
        print_json(asdict(found))
        return
    say(f"{found.job_id}   {found.status}   {found.command}")
    if found.message:
        say(found.message)
    if not found.ended:
        say(f"look      reelscribe submitted logs {found.job_id}\nstop      reelscribe submitted stop {found.job_id}")


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
    labels = "the same" if found.same_labels else f"lost: {', '.join(found.labels_lost)}; gained: {', '.join(found.labels_gained)}"
    data = {True: "the same", False: "different", None: "not known"}[found.same_data]
    say(f"labels: {labels}; training data: {data}")


def environment(checks: list[Check], *, as_json: bool) -> bool:
    """What this machine has; returns whether nothing is missing that is needed."""
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        marks = ["ok" if check.ok else "!!" if check.needed else "--" for check in checks]
        print_table(["", "what", "found"], [(mark, check.name, check.detail) for mark, check in zip(marks, checks, strict=True)])
        say("\nok  works   --  is not there and not needed   !!  must be mended")
    return all(check.ok or not check.needed for check in checks)


def videos(found: list[VideoFacts], *, as_json: bool) -> bool:
    """One line a video: first those that can be used, then the others; returns whether all can be used."""
    bad = [facts for facts in found if not facts.ok]
    if as_json:
        print_json([asdict(facts) | {"ok": facts.ok} for facts in found])
        return not bad
    folder = _common_folder([facts.uri for facts in found])
    if folder:
        say(f"in {folder}\n")
    rows = [_video_row(facts.uri.removeprefix(folder), facts.inspection) for facts in found if facts.inspection is not None]
    if rows:
        print_table(["video", "codec", "size", "frames/s", "seconds", "frames", "keyframe gap", "readers differ", "notes"], rows)
        say("\nkeyframe gap: the longest between two; readers differ: by so many levels of 255 at most (-: only one reads it)\n")
    if bad:
        causes = [(f.uri.removeprefix(folder), f.failure, f.cause.removeprefix(f"{f.uri}: "), f.advice) for f in bad]
        print_table(["cannot be used", "class", "cause", "what to do"], causes)
        say("")
    classes = "".join(f", {count} {failure}" for failure, count in Counter(facts.failure for facts in bad).most_common())
    say(f"{len(found) - len(bad)} can be used, {len(bad)} cannot{classes.replace(',', ':', 1)}")
    return not bad


def _common_folder(uris: Sequence[str]) -> str:
    """The folder that several local files share, with a slash at its end; empty where there is none."""
    if len(uris) < 2 or not all(Path(uri).is_absolute() for uri in uris):
        return ""
    return os.path.join(os.path.commonpath([Path(uri).parent for uri in uris]), "")  # noqa: PTH118 - a Path has no slash at its end


def _video_row(name: str, seen: Inspection) -> tuple[object, ...]:
    info = seen.info
    return (
        name,
        info.codec,
        f"{info.width}x{info.height}" + (f" turned {info.rotation_degrees}°" if info.rotation_degrees else ""),
        f"{info.frame_rate:.2f}" + (" variable" if seen.variable_rate else ""),
        f"{info.duration_s:.2f}",
        info.num_frames,
        f"{seen.keyframe_gap_s:.2f} s",
        "-" if seen.largest_difference is None else f"{seen.largest_difference:.1f}",
        "; ".join(seen.remarks),
    )


def how_to_look(tracking_uri: str) -> str:
    """What opens the runs of a tracking store."""
    if tracking_uri.startswith("http"):
        return redact(tracking_uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(redact(tracking_uri))}"


def _version(version: int | None) -> str:
    return f"version {version}" if version else "none"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _aliases(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"@{alias} = {version}" for alias, version in sorted(aliases.items()))


def leaks(found: tuple[Leak, ...]) -> None:
    """The mark of a result that cannot be trusted; nothing without leaks."""
    if found:
        say(f"NOT TO BE TRUSTED: {len(found)} leak(s) between training and held-out clips, e.g. {found[0]}")


def _confidence(spec: BundleSpec) -> None:
    metrics = spec.metrics
    if "ece_before" in metrics:
        say(f"calibration error {metrics['ece_before']:.3f}, with temperature {spec.temperature:.2f} {metrics['ece']:.3f}")
    if spec.precision is None:
        return
    if spec.threshold is None:
        say(f"no confidence gives a precision of {spec.precision:g}: no label is accepted")
    else:
        say(
            f"for a precision of {spec.precision:g}, labels are accepted from a confidence of {spec.threshold:.3f} on: "
            f"{metrics['accepted_share']:.0%} of the clips, {metrics['accepted_precision']:.3f} of them right"
        )


def _failures(failures: tuple[Failure, ...]) -> None:
    if failures:
        say("")
        print_table(["not decoded", "class", "cause"], [(f.video_id, f.failure, f.cause) for f in failures])
