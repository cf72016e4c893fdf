"""What a training left, and how a model was judged."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

from reelscribe.pipeline.console import print_json, print_table, say
from reelscribe.pipeline.show.predictions import prediction
from reelscribe.pipeline.tracking.uri import redact

if TYPE_CHECKING:
    from reelscribe.pipeline.bundle import BundleSpec
    from reelscribe.pipeline.training.data import Failure
    from reelscribe.pipeline.training.job import TrainingResult
    from reelscribe.pipeline.training.recipes.leaks import Leak
    from reelscribe.pipeline.training.scores.evaluation import Evaluation
    from reelscribe.pipeline.training.scores.metrics import ClassificationScores

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
    from reelscribe.pipeline.show import captions as show_captions
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


def how_to_look(tracking_uri: str) -> str:
    """What opens the runs of a tracking store."""
    if tracking_uri.startswith("http"):
        return redact(tracking_uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(redact(tracking_uri))}"


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
