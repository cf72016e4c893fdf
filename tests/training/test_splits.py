"""Who is trained on and who judges: never the same group on both sides, whatever divides them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reelscribe.pipeline.config import DataConfig
from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.manifest import MANIFEST_SCHEMA
from reelscribe.pipeline.training.recipes.splits import fold_names, split_rows


def table(rows: list[dict[str, object]]) -> pa.Table:
    full = [
        {"video_id": str(i), "uri": f"/{i}.mp4", "start_s": None, "end_s": None, "group": None, "split": None, **row}
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(full, schema=MANIFEST_SCHEMA)


DATA = DataConfig(manifest="m.csv")


def test_the_split_column_decides() -> None:
    rows = [{"label": label, "split": split} for split in ("train", "val", "test") for label in ("b", "a")]
    splits = split_rows(table(rows), DATA)
    assert splits.labels == ("a", "b")
    assert {row["split"] for row in splits.train} == {"train"}
    assert {row["split"] for row in splits.val} == {"val"}
    assert len(splits.train) == len(splits.val) == 2


@given(
    groups=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=12, max_size=30),
    seed=st.integers(0, 5),
)
def test_held_out_groups_are_never_trained_on(groups: list[list[str]], seed: int) -> None:
    rows = [{"label": label, "group": f"g{i}"} for i, group in enumerate(groups) for label in group]
    try:
        splits = split_rows(table(rows), DATA.model_copy(update={"split_seed": seed}))
    except ManifestError:
        return  # too few rows of a label for a share of them
    assert {r["group"] for r in splits.train}.isdisjoint(r["group"] for r in splits.val)
    assert len(splits.train) + len(splits.val) == len(rows)
    assert {r["label"] for r in splits.val} <= set(splits.labels)
    again = split_rows(table(rows), DATA.model_copy(update={"split_seed": seed}))
    assert again == splits


def test_about_a_fifth_of_each_label_is_held_out() -> None:
    splits = split_rows(table([{"label": "ab"[i % 2]} for i in range(100)]), DATA)
    assert [sum(r["label"] == label for r in splits.val) for label in "ab"] == [10, 10]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"label": "a", "split": "train"}, {"label": "a", "split": "val"}], "1 label"),
        ([{"label": "a", "split": "train"}, {"label": "b", "split": "train"}, {"label": "c", "split": "val"}], "no training row has: c"),
        ([{"label": "a"}, {"label": "b"}], "too few rows to hold out 20%"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(rows: list[dict[str, object]], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        split_rows(table(rows), DATA)


# ---------------------------------------------------------------------------------------------------------------------------- folds


def folds_of(rows: list[dict[str, object]], **changes: object) -> dict[str, set[str]]:
    """Fold -> ids of what it holds out."""
    data = table(rows)
    config = DATA.model_copy(update=changes)
    found = {}
    for name in fold_names(data, config):
        splits = split_rows(data, config.model_copy(update={"fold": name}))
        found[name] = {row["video_id"] for row in splits.val}
        assert found[name].isdisjoint(row["video_id"] for row in splits.train)
        assert {row["group"] for row in splits.val}.isdisjoint(row["group"] for row in splits.train)
    return found


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 4), min_size=12, max_size=24), folds=st.integers(2, 4), seed=st.integers(0, 3))
def test_folds_hold_each_clip_out_once_and_no_group_twice(sizes: list[int], folds: int, seed: int) -> None:
    rows: list[dict[str, object]] = [{"label": "ab"[g % 2], "group": f"g{g}"} for g, size in enumerate(sizes) for _ in range(size)]
    found = folds_of(rows, folds=folds, split_seed=seed)
    assert sorted(found) == [str(number) for number in range(folds)]
    held_out = [video_id for part in found.values() for video_id in part]
    assert sorted(held_out) == sorted(str(i) for i in range(len(rows)))
    assert folds_of(list(rows), folds=folds, split_seed=seed) == found


def test_folds_do_not_depend_on_the_order_of_rows() -> None:
    rows: list[dict[str, object]] = [{"video_id": f"v{i}", "label": "ab"[i % 2], "group": f"g{i // 3}"} for i in range(40)]
    assert folds_of(rows, folds=4) == folds_of(rows[::-1], folds=4)


def test_the_fold_column_decides() -> None:
    rows: list[dict[str, object]] = [{"label": "ab"[i % 2], "group": f"g{i}", "fold": str(i % 3 + 9)} for i in range(12)]
    for changes in ({"folds": 3}, {"fold": "9"}):
        assert folds_of(rows, **changes) == {str(f + 9): {str(i) for i in range(12) if i % 3 == f} for f in range(3)}


def test_folds_of_a_manifest_with_splits_leave_validation_and_test_alone() -> None:
    rows: list[dict[str, object]] = [{"label": "ab"[i % 2], "split": ("train", "train", "val", "test")[i // 2 % 4]} for i in range(64)]
    held_out = set.union(*folds_of([row | {"group": f"g{i}"} for i, row in enumerate(rows)], folds=2).values())
    assert held_out == {str(i) for i, row in enumerate(rows) if row["split"] == "train"}


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        ([{"label": "ab"[i % 2], "fold": str(i % 3)} for i in range(12)], {"folds": 4}, r"has 3 folds \(0, 1, 2\), 4 wanted"),
        ([{"label": "ab"[i % 2], "fold": str(i % 3)} for i in range(12)], {"fold": "7"}, r"no fold '7' to hold out .* 0, 1, 2"),
        ([{"label": "ab"[i % 2], "fold": None if i else "0"} for i in range(12)], {"folds": 2}, "rows without a fold"),
        ([{"label": "ab"[i % 2]} for i in range(12)], {"fold": "0"}, "there is no fold column; say how many by data.folds"),
        ([{"label": "ab"[i % 2], "group": f"g{i % 3}"} for i in range(12)], {"folds": 4, "fold": "0"}, "3 groups .* cannot make 4 folds"),
        ([{"label": "ab"[i % 2]} for i in range(6)], {"folds": 5, "fold": "0"}, "5 folds cannot be made"),
        ([{"label": "abc"[min(2, i % 3)], "fold": str(i % 3 // 2)} for i in range(12)], {"fold": "1"}, "no training row has: c"),
    ],
)
def test_folds_that_cannot_be_are_refused(rows: list[dict[str, object]], changes: dict[str, object], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        split_rows(table(rows), DATA.model_copy(update=changes))
