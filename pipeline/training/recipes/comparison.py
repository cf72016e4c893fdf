"""Recipes side by side: each trained on the same data with the same seeds, judged on validation, and measured for its cost."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from reelscribe.pipeline.config import Config
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.predictor import pick_device
from reelscribe.pipeline.report.pictures import accuracy_against_cost
from reelscribe.pipeline.sampling import RateSampling
from reelscribe.pipeline.training.recipes.cost import Cost, measure
from reelscribe.pipeline.training.recipes.repeats import Repeats, open_series

if TYPE_CHECKING:
    from reelscribe.models.recognizer import Recognizer


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One recipe, trained."""

    name: str  # what sets it apart, as key=value
    repeats: Repeats
    cost: Cost  # of the first of its networks, trained

    @property
    def epoch_s(self) -> float:
        """Median over trainings of the seconds of an epoch."""
        return statistics.median(repeat.result.epoch_s for repeat in self.repeats.repeats)

    def facts(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {"name": self.name, "epoch_s": self.epoch_s, **asdict(self.cost), **self.repeats.facts()}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All candidates, and the run that holds their trainings."""

    candidates: tuple[Candidate, ...]
    picture: Path
    run_id: str
    tracking_uri: str


def run_comparison(variants: Mapping[str, Config], seeds: Sequence[int], *, progress: OpenProgress) -> Comparison:
    """Train every variant with every fold and seed, as child runs of one; nothing is registered.

    The variants share their data (see config.load_variants), and with it the leak check and the cache. Figures are of the validation clips:
    test data chooses nothing. Raises what run_repeats raises.
    """
    first = next(iter(variants.values()))
    candidates = []
    with open_series(first, f"{first.name}, compared", progress=progress) as series:
        for name, config in variants.items():
            repeats = series.train(config, seeds, progress=_named(progress, name))
            candidates.append(Candidate(name=name, repeats=repeats, cost=_cost(config, repeats)))
        series.run.log_text(json.dumps([c.facts() for c in candidates], indent=2, ensure_ascii=False), "comparison.json")
        picture = series.folder / "accuracy_against_cost.png"
        _draw(candidates, picture)
        series.run.log_artifact(picture, "pictures")
    return Comparison(candidates=tuple(candidates), picture=picture, run_id=series.run.run_id, tracking_uri=series.run.uri)


def _cost(config: Config, repeats: Repeats) -> Cost:
    sampling, transform = config.sampling, config.transform
    return measure(
        cast("Recognizer", repeats.repeats[0].result.bundle.build()),  # a captioner is measured as one that cannot be stepped
        frame_size=(transform.height, transform.width),
        batch_size=config.training.batch_size,
        num_frames=sampling.max_frames if isinstance(sampling, RateSampling) else sampling.num_frames,
        device=pick_device(config.training.device),
    )


def _draw(candidates: list[Candidate], path: Path) -> None:
    """The headline metric against multiply-adds; where all have the same encoder, only what follows it tells them apart."""
    same_encoder = len({c.cost.encoder_macs for c in candidates}) == 1
    headline = candidates[0].repeats.headline
    spreads = [c.repeats.spread(headline.metric) for c in candidates]
    accuracy_against_cost(
        names=[c.name for c in candidates],
        costs=[c.cost.head_macs + (0 if same_encoder else c.cost.encoder_macs) for c in candidates],
        accuracies=[spread.mean for spread in spreads],
        deviations=[spread.deviation or 0.0 for spread in spreads],
        cost_name="multiply-adds a frame" + (" after the encoder" if same_encoder else ""),
        path=path,
        measure=headline.words,
        is_share=not headline.lower_is_better,
    )


def _named(progress: OpenProgress, name: str) -> OpenProgress:
    return lambda what: progress(f"{name}: {what}")
