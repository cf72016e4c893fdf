"""Two versions side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from reelscribe.pipeline.tracking.versions import ModelVersion

LABEL_SCORES_TAG = "reelscribe.label_scores"


@dataclass(frozen=True, kw_only=True)
class MetricPair:
    """One metric of both versions."""

    name: str
    first: float | None
    second: float | None

    @property
    def gain(self) -> float | None:
        """Second minus first, where both have it."""
        return None if self.first is None or self.second is None else self.second - self.first


@dataclass(frozen=True, kw_only=True)
class LabelPair:
    """How well both versions do at one label."""

    label: str
    first: float
    second: float

    @property
    def gain(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True, kw_only=True)
class ParamPair:
    """One parameter that differs."""

    name: str
    first: str | None
    second: str | None


@dataclass(frozen=True, kw_only=True)
class VersionComparison:
    """What two versions share and where they differ."""

    first: ModelVersion
    second: ModelVersion
    metrics: tuple[MetricPair, ...]  # every metric of either, by name
    params: tuple[ParamPair, ...]  # those that differ, by name
    label_measure: str  # what label_scores are: recall, average precision; empty where they are not known of both
    label_scores: tuple[LabelPair, ...]  # of the labels that both were judged by, the greatest loss first
    labels_lost: tuple[str, ...]  # the first knows them, the second does not
    labels_gained: tuple[str, ...]
    same_labels: bool  # the same, in the same order: their outputs can be compared class by class
    same_data: bool | None  # None where one does not say what it was trained on
    same_weights: bool | None


def compare_versions(first: ModelVersion, second: ModelVersion) -> VersionComparison:
    """Set two versions side by side."""
    labels_a, labels_b = _labels(first), _labels(second)
    names = sorted({*first.metrics, *second.metrics})
    keys = sorted(key for key in {*first.params, *second.params} if first.params.get(key) != second.params.get(key))
    measure, scores = _label_scores(first, second)
    return VersionComparison(
        first=first,
        second=second,
        metrics=tuple(MetricPair(name=name, first=first.metrics.get(name), second=second.metrics.get(name)) for name in names),
        params=tuple(ParamPair(name=key, first=first.params.get(key), second=second.params.get(key)) for key in keys),
        label_measure=measure,
        label_scores=scores,
        labels_lost=tuple(label for label in labels_a if label not in labels_b),
        labels_gained=tuple(label for label in labels_b if label not in labels_a),
        same_labels=labels_a == labels_b,
        same_data=_same(first.tags, second.tags, "reelscribe.data_digest"),
        same_weights=_same(first.tags, second.tags, "reelscribe.weights_digest"),
    )


@dataclass(frozen=True, kw_only=True)
class LabelChange:
    """A label whose place among the outputs is not the same."""

    label: str
    first: int | None  # from 0; None where that version does not know it
    second: int | None


def label_changes(first: ModelVersion, second: ModelVersion) -> list[LabelChange]:
    """Labels that only one version knows, or that have moved, in the order of the first, then of the second."""
    places = [{label: place for place, label in enumerate(_labels(version))} for version in (first, second)]
    pairs = [(label, places[0].get(label), places[1].get(label)) for label in dict.fromkeys([*places[0], *places[1]])]
    return [LabelChange(label=label, first=before, second=after) for label, before, after in pairs if before != after]


def _label_scores(first: ModelVersion, second: ModelVersion) -> tuple[str, tuple[LabelPair, ...]]:
    """The measure and its values label by label, where both versions were judged by the same one."""
    one, other = (json.loads(version.tags.get(LABEL_SCORES_TAG, "{}")) for version in (first, second))
    if not one or not other or one["measure"] != other["measure"]:
        return "", ()
    shared = [
        LabelPair(label=label, first=one["scores"][label], second=other["scores"][label])
        for label in one["scores"].keys() & other["scores"]
    ]
    return one["measure"], tuple(sorted(shared, key=lambda pair: (pair.gain, pair.label)))


def _labels(version: ModelVersion) -> tuple[str, ...]:
    return tuple(json.loads(version.tags.get("reelscribe.labels", "[]")))


def _same(first: Mapping[str, str], second: Mapping[str, str], key: str) -> bool | None:
    return first[key] == second[key] if key in first and key in second else None
