"""The model card that goes with every model."""

from __future__ import annotations

from reelscribe.pipeline.bundle import BundleSpec
from reelscribe.pipeline.config import Config, Task
from reelscribe.pipeline.training.data import TrainingData
from reelscribe.pipeline.training.recipes.leaks import Leak
from reelscribe.pipeline.training.scores.evaluation import Evaluation
from reelscribe.pipeline.training.scores.metrics import by_label
from reelscribe.pipeline.vocabulary import SPECIAL

_LEAKS_SHOWN = 20
_LIMITS: dict[Task, str] = {
    "single_label": "- The model always names one of its labels, also for a video that shows none of them: use the confidence.",
    "multi_label": "- A label is given from a probability of 0.5 on; the probabilities are calibrated together, not one by one.",
    "value": "- The model gives a number to every video, also to one that it means nothing for, and says nothing of how sure it is.",
    "dense": "- The confidence of a segment is not calibrated.",
    "caption": "- The model says a sentence of every video, in the words of its training captions and no others. Its confidence is the\n"
    "  probability, fitted on the validation clips, that a person wrote just this sentence.",
}
_USE: dict[Task, str] = {
    "single_label": "what is below the threshold of confidence is for a person to look at",
    "multi_label": "to find videos with a label, most probable first",
    "value": "to sort and compare videos by the number",
    "dense": "to find where in a video something happens",
    "caption": "to find and skim videos by what they show, not as a record of it",
}


def model_card(
    spec: BundleSpec, config: Config, data: TrainingData, evaluation: Evaluation, leaks: tuple[Leak, ...], *, num_clips: int
) -> str:
    """Markdown for a person who meets the model: what it does, what it learned from, how well, and its limits."""
    network = spec.model
    lines = [
        f"# {spec.name}",
        "",
        _what_it_does(spec),
        "",
        "## Intended use",
        "",
        f"- For videos like those of the manifest below, read by `reelscribe label` or MLflow; {_USE[spec.task]}.",
        "- Not for decisions about people that nobody looks over.",
        "",
        "## Network",
        "",
        f"- encoder `{network.encoder}` cut at stride {network.stride}, "
        + ("frozen" if not network.trainable_stages else f"last {network.trainable_stages} stages trained"),
        f"- recurrent core `{network.recurrent}`, {network.layers} layer(s) of {network.hidden_size}, readout `{network.readout}`",
        *_decoder(spec),
        f"- frames: `{spec.sampling.model_dump_json()}` at {spec.transform.height} x {spec.transform.width} ({spec.transform.fit})",
        "",
        "## Data",
        "",
        f"- manifest `{config.data.manifest}`, digest `{spec.data_digest}`",
        f"- {len(data.train)} clips for training, {len(data.val)} for validation",
        f"- {len(data.failures)} left out because they could not be decoded",
        "",
        *_leaks(leaks),
        "## Validation",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.4g} |" for name, value in spec.metrics.items()),
        "",
        *_by_label(evaluation),
        *_confidence(spec),
    ]
    chosen = (
        f"the epoch with the best {config.training.monitor} was kept"
        if config.training.patience
        else "the last epoch was kept, whatever its figures"
    )
    fitted = "What the confidence rests on was fitted on the same clips. " if _calibrated(spec) else ""
    lines += [
        *([f"Frames of {num_clips} of these clips are stored with the model, in `clips.npz`.", ""] if num_clips else []),
        "## Limits",
        "",
        f"- The figures are from the validation clips; {chosen}. {fitted}Expect a little less on others.",
        _LIMITS[spec.task],
        "- It was trained on clips like those above; nothing is known of other cameras, places or people.",
        "",
    ]
    return "\n".join(lines)


def _decoder(spec: BundleSpec) -> list[str]:
    if spec.task != "caption":
        return []
    caption = spec.caption
    where = "moments and cells of the grid" if caption.attend_space else "moments"
    return [f"- decoder `{caption.decoder}` with {caption.attention} attention to {where}; beam of {caption.beam}"]


def _what_it_does(spec: BundleSpec) -> str:
    match spec.task:
        case "single_label":
            return f"Names one of {len(spec.labels)} labels for a video clip: {', '.join(spec.labels)}."
        case "multi_label":
            return f"Says which of {len(spec.labels)} labels a video clip has, none, one or several: {', '.join(spec.labels)}."
        case "value":
            return f"Gives a video clip a number; those of the training clips are {spec.value_mean:.4g} ± {spec.value_deviation:.4g}."

        case "dense":
            return f"Names one of {len(spec.labels)} labels for each frame of a video clip: {', '.join(spec.labels)}."
        case "caption":
            return f"Says a sentence about a video clip, with a vocabulary of {len(spec.labels) - len(SPECIAL)} {spec.caption.vocabulary}."


def _by_label(evaluation: Evaluation) -> list[str]:
    measure, values = by_label(evaluation.scores)
    if not values:
        return []
    return [f"| label | {measure} |", "|---|---|", *(f"| {label} | {value:.3f} |" for label, value in values.items()), ""]


def _calibrated(spec: BundleSpec) -> bool:
    return "ece_before" in spec.metrics


def _confidence(spec: BundleSpec) -> list[str]:
    """What the confidence means, and from where on to trust it."""
    if not _calibrated(spec):
        return []
    metrics = spec.metrics
    lines = [
        "## Confidence",
        "",
        f"- Logits are divided by a temperature of {spec.temperature:.3f}; the expected calibration error went from "
        f"{metrics['ece_before']:.3f} to {metrics['ece']:.3f}.",
    ]
    if spec.precision and spec.threshold is not None:
        lines.append(
            f"- For a precision of {spec.precision:g}, accept a label from a confidence of {spec.threshold:.3f} on: that is "
            f"{metrics['accepted_share']:.0%} of the validation clips, and {metrics['accepted_precision']:.3f} of these are right."
        )
    elif spec.precision:
        lines.append(f"- No confidence gives a precision of {spec.precision:g}: no label is accepted.")
    return [*lines, ""]


def _leaks(leaks: tuple[Leak, ...]) -> list[str]:
    """The mark of a result that cannot be trusted."""
    if not leaks:
        return []
    more = [f"- and {len(leaks) - _LEAKS_SHOWN} more"] if len(leaks) > _LEAKS_SHOWN else []
    return [
        "## Leaks",
        "",
        "**The figures below are too good**: clips that judged the model are not independent of clips that it was trained on.",
        "",
        *(f"- {leak}" for leak in leaks[:_LEAKS_SHOWN]),
        *more,
        "",
    ]
