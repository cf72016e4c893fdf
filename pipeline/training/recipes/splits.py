"""Who is trained on, and who judges: by the manifest's splits, by holding out whole groups at random, or by folds."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from reelscribe.pipeline.config import DataConfig, Task
from reelscribe.pipeline.errors import ManifestError, nearest
from reelscribe.pipeline.fields import labels_of
from reelscribe.pipeline.sampling import AnySampling
from reelscribe.pipeline.video.clip import ClipRequest
from reelscribe.pipeline.video.types import Backend, FrameSize

Row = dict[str, Any]
_MOST_NAMED = 10  # things listed in one message


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Labelled rows of a manifest by use, and the labels in the order of the model's outputs."""

    labels: tuple[str, ...]
    train: list[Row]
    val: list[Row]
    test: list[Row]  # for a last evaluation: here only to see that nothing of it is trained on


def row_request(row: Row, *, sampling: AnySampling, size: FrameSize, backend: Backend, jitter_seed: int | None = None) -> ClipRequest:
    """What to decode of a row's clip."""
    return ClipRequest(
        uri=row["uri"],
        start_s=row["start_s"],
        end_s=row["end_s"],
        sampling=sampling,
        size=size,
        jitter_seed=jitter_seed,
        backend=backend,
    )


def split_rows(table: pa.Table, config: DataConfig, task: Task = "single_label") -> Splits:
    """Rows for training and validation: one fold held out, else by the split column, else by holding out whole groups at random.

    Raises ManifestError for a split or a fold that has no rows, too few labels or values, or a label that only validation has.
    """
    rows = table.to_pylist()
    test = [row for row in rows if row["split"] == config.test_split]
    if config.folds or config.fold:
        train, val = _hold_out_fold(rows, config, task)
    elif any(row["split"] for row in rows):
        train, val = _of_split(rows, config.train_split, config), _of_split(rows, config.val_split, config)
    else:
        train, val = _hold_out(rows, config.val_fraction, config.split_seed, task)
    labels = sorted({label for row in train for label in labels_of(row, task)})
    _refuse_nothing_to_learn(train, labels, config, task)
    unseen = sorted({label for row in val for label in labels_of(row, task)} - set(labels))
    if unseen:
        raise ManifestError(f"{config.manifest}: labels of validation rows that no training row has: {some(unseen)}")
    return Splits(labels=tuple(labels), train=train, val=val, test=test)


def _refuse_nothing_to_learn(train: list[Row], labels: list[str], config: DataConfig, task: Task) -> None:
    if task == "value" and len({row["value"] for row in train}) < 2:
        raise ManifestError(f"{config.manifest}: all training rows have the same value, at least 2 are needed")
    fewest = {"single_label": 2, "multi_label": 1, "value": 0, "dense": 2, "caption": 0}[task]
    if len(labels) < fewest:
        named = f" ({', '.join(labels)})" if labels else ""
        raise ManifestError(f"{config.manifest}: the training rows have {len(labels)} label{named}, at least {fewest} are needed")


def fold_names(table: pa.Table, config: DataConfig, task: Task = "single_label") -> list[str]:
    """The folds that ``data.fold`` chooses among. Raises ManifestError where the rows cannot be divided so."""
    return list(_folds(table.to_pylist(), config, task))


def _source(row: Row) -> str:
    """What a row must stay together with: its group, else its file."""
    return str(row["group"] or row["uri"])


def _kinds(row: Row, task: Task) -> tuple[str, ...]:
    """What a row is held out as: its labels, each in its share, or one kind for all rows without any."""
    return labels_of(row, task) or ("",)


def some(names: list[str]) -> str:
    """The names, or the first ten of them and how many more."""
    return ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")


def _of_split(rows: list[Row], name: str, config: DataConfig) -> list[Row]:
    found = sorted({row["split"] for row in rows if row["split"]})
    if name not in found:
        raise ManifestError(f"{config.manifest}: no row has the split '{name}'{nearest(name, found)} (splits there: {', '.join(found)})")
    return [row for row in rows if row["split"] == name]


def _hold_out_fold(rows: list[Row], config: DataConfig, task: Task) -> tuple[list[Row], list[Row]]:
    folds = _folds(rows, config, task)
    if config.fold not in folds:
        raise ManifestError(f"{config.manifest}: no fold '{config.fold}' to hold out (data.fold); folds there: {', '.join(folds)}")
    return [row for name, part in folds.items() if name != config.fold for row in part], folds[config.fold]


def _folds(rows: list[Row], config: DataConfig, task: Task) -> dict[str, list[Row]]:
    """The rows of each fold: by the fold column, else groups dealt out evenly by label. Where there are splits, only training rows."""
    if any(row["split"] for row in rows):
        rows = _of_split(rows, config.train_split, config)
    if not any(row["fold"] for row in rows):
        return _dealt(rows, config, task)
    without = [row["video_id"] for row in rows if not row["fold"]]
    if without:
        raise ManifestError(f"{config.manifest}: rows without a fold, while others have one: {some(without)}")
    names = sorted({row["fold"] for row in rows}, key=lambda name: (len(name), name))
    if len(names) < 2 or config.folds not in (0, len(names)):
        wanted = f", {config.folds} wanted" if config.folds else ""
        raise ManifestError(f"{config.manifest}: the fold column has {len(names)} folds ({', '.join(names)}){wanted}")
    return {name: [row for row in rows if row["fold"] == name] for name in names}


def _dealt(rows: list[Row], config: DataConfig, task: Task) -> dict[str, list[Row]]:
    """Rows of one group, or of one file, stay together; each fold gets about as much of each label (scikit-learn)."""
    from sklearn.model_selection import StratifiedGroupKFold

    if not config.folds:
        raise ManifestError(f"{config.manifest}: data.fold is '{config.fold}', but there is no fold column; say how many by data.folds")
    rows = sorted(rows, key=lambda row: str(row["video_id"]))  # the same for every order of the file
    sources = [_source(row) for row in rows]
    if len(set(sources)) < config.folds:
        raise ManifestError(f"{config.manifest}: {len(set(sources))} groups of training rows cannot make {config.folds} folds")
    dealer = StratifiedGroupKFold(config.folds, shuffle=True, random_state=config.split_seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a label with few groups; a fold that cannot be used is refused with its labels
        try:
            parts = [held_out for _, held_out in dealer.split(rows, ["|".join(_kinds(row, task)) for row in rows], sources)]
        except ValueError as error:
            raise ManifestError(f"{config.manifest}: {config.folds} folds cannot be made: {error}") from error
    return {str(number): [rows[i] for i in part] for number, part in enumerate(parts)}


def _hold_out(rows: list[Row], fraction: float, seed: int, task: Task) -> tuple[list[Row], list[Row]]:
    """Split off about ``fraction`` of each label's rows. Rows of one group, or of one file, stay together; each label keeps a group."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_source(row), []).append(row)
    names = sorted(groups)
    random.Random(seed).shuffle(names)
    wanted = {label: fraction * count for label, count in Counter(kind for row in rows for kind in _kinds(row, task)).items()}
    left = Counter(label for group in groups.values() for label in {kind for row in group for kind in _kinds(row, task)})
    train: list[Row] = []
    val: list[Row] = []
    for name in names:
        counts = Counter(kind for row in groups[name] for kind in _kinds(row, task))
        held_out = all(wanted[label] >= 1 and left[label] > 1 for label in counts)
        (val if held_out else train).extend(groups[name])
        if held_out:
            left -= Counter(counts.keys())
            wanted = {label: share - counts[label] for label, share in wanted.items()}
    if not val:
        raise ManifestError(f"too few rows to hold out {fraction:.0%} for validation: add rows, or a split column with train and val")
    return train, val
