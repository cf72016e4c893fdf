"""The model card that goes with every model."""

from __future__ import annotations

from reelscribe.pipeline.bundle import BundleSpec
from reelscribe.pipeline.config import Config
from reelscribe.pipeline.training.data import TrainingData
from reelscribe.pipeline.training.evaluation import Evaluation


def model_card(spec: BundleSpec, config: Config, data: TrainingData, evaluation: Evaluation | None) -> str:
    """Markdown for a person who meets the model: what it does, what it learned from, how well, and its limits."""
    network = spec.model
    lines = [
        f"# {spec.name}",
        "",
        f"Names one of {len(spec.labels)} labels for a video clip: {', '.join(spec.labels)}.",
        "",
        "## Network",
        "",
        f"- encoder `{network.encoder}` cut at stride {network.stride}, "
        + ("frozen" if not network.trainable_stages else f"last {network.trainable_stages} stages trained"),
        f"- recurrent core `{network.recurrent}`, {network.layers} layer(s) of {network.hidden_size}, readout `{network.readout}`",
        f"- frames: `{spec.sampling.model_dump_json()}` at {spec.transform.height} x {spec.transform.width} ({spec.transform.fit})",
        "",
        "## Data",
        "",
        f"- manifest `{config.data.manifest}`, digest `{spec.data_digest}`",
        f"- {len(data.train)} clips for training, {len(data.val)} for validation",
        f"- {len(data.failures)} left out because they could not be decoded",
        "",
    ]
    if evaluation:
        lines += ["## Validation", "", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in evaluation.scores.metrics.items()]
        lines += ["", "| label | recall |", "|---|---|"]
        lines += [f"| {label} | {value:.3f} |" for label, value in evaluation.scores.recall.items()]
        lines += [""]
    chosen = (
        f"the epoch with the best {config.training.monitor} was kept"
        if config.training.patience
        else "the last epoch was kept, whatever its figures"
    )
    lines += [
        "## Limits",
        "",
        f"- The figures are from the validation split; {chosen}, and the temperature ({spec.temperature:.3f}) was fitted on it.",
        "- The model always names one of its labels, also for a video that shows none of them: use the confidence.",
        "- It was trained on clips like those above; nothing is known of other cameras, places or people.",
        "",
    ]
    return "\n".join(lines)
