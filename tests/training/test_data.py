"""Who is trained on, and what augmentation may change."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelscribe.pipeline.config import AugmentationConfig, DataConfig
from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.manifest import MANIFEST_SCHEMA
from reelscribe.pipeline.training.augment import augment
from reelscribe.pipeline.training.data import split_rows, stable_seed
from reelscribe.pipeline.training.evaluation import _reorder
from reelscribe.pipeline.video.types import Frames


def table(rows: list[dict[str, object]]) -> pa.Table:
    full = [
        {"video_id": str(i), "uri": f"/{i}.mp4", "start_s": None, "end_s": None, "group": None, "split": None, **row}
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(full, schema=MANIFEST_SCHEMA)


DATA = DataConfig(manifest="m.csv")


def test_the_split_column_decides() -> None:
    rows = [{"label": label, "split": split} for split in ("train", "val", "test") for label in ("b", "a")]
    splits = split_rows(table(rows), DATA, seed=0)
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
        splits = split_rows(table(rows), DATA, seed=seed)
    except ManifestError:
        return  # too few rows of a label for a share of them
    assert {r["group"] for r in splits.train}.isdisjoint(r["group"] for r in splits.val)
    assert len(splits.train) + len(splits.val) == len(rows)
    assert {r["label"] for r in splits.val} <= set(splits.labels)
    again = split_rows(table(rows), DATA, seed=seed)
    assert again == splits


def test_about_a_fifth_of_each_label_is_held_out() -> None:
    splits = split_rows(table([{"label": "ab"[i % 2]} for i in range(100)]), DATA, seed=3)
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
        split_rows(table(rows), DATA, seed=0)


def test_augmentation_off_changes_nothing() -> None:
    frames = torch.randint(0, 255, (3, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment(frames, AugmentationConfig(), seed=1), frames)


def test_every_frame_of_a_clip_is_changed_alike() -> None:
    frames = torch.randint(0, 255, (1, 3, 24, 32), dtype=torch.uint8).expand(5, -1, -1, -1)
    config = AugmentationConfig(crop_scale=0.5, brightness=0.4, contrast=0.4, horizontal_flip=True)
    for seed in range(10):
        changed = augment(frames, config, seed=seed)
        assert changed.shape == frames.shape
        assert changed.dtype == torch.uint8
        assert torch.equal(changed, changed[:1].expand_as(changed))
        assert torch.equal(changed, augment(frames, config, seed=seed))


def test_only_a_flip_turns_left_into_right() -> None:
    frames = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    frames[..., 8:] = 200  # the right is bright, also in every crop that keeps 80 percent
    lefts, rights = [], []
    for flip in (False, True):
        for seed in range(20):
            columns = augment(frames, AugmentationConfig(crop_scale=0.8, horizontal_flip=flip), seed=seed).float().mean(dim=(0, 1, 2))
            (rights if columns[-1] > columns[0] else lefts).append(flip)
    assert lefts
    assert all(lefts)
    assert rights.count(False) == 20


def test_seeds_do_not_depend_on_the_process() -> None:
    assert stable_seed(0, "order", 1) == 1332101017241992705
    assert stable_seed(0, "order", 1) != stable_seed(0, "order", 2)


def test_frames_keep_their_times_when_reordered() -> None:
    pixels = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    frames = Frames(pixels=pixels, index=(0, 5, 9), pts_seconds=(0.0, 0.5, 0.9), backend="pyav")
    turned = _reorder(frames, [2, 0, 1])
    assert turned.pixels[:, 0, 0, 0].tolist() == [2, 0, 1]
    assert turned.index == (9, 0, 5)
    assert turned.pts_seconds == (0.9, 0.0, 0.5)
