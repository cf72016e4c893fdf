"""What comes in each batch, whoever reads it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import CONFIG, drawn_data

from reelscribe.pipeline.config import AugmentationConfig, TrainingConfig
from reelscribe.pipeline.training.data import ClipSet
from reelscribe.pipeline.training.steps.batches import Batch, Batches, blend
from reelscribe.pipeline.training.steps.losses import IGNORED

SPEED = AugmentationConfig(speed=0.8)


def batches(clips: ClipSet, config: TrainingConfig = CONFIG, augmentation: AugmentationConfig | None = None, *, seed: int = 0) -> Batches:
    return Batches(clips, 2, config, augmentation or AugmentationConfig(), seed=seed)


@pytest.fixture
def clips(tmp_path: Path) -> ClipSet:
    return drawn_data(tmp_path, train=10, val=1).train


def test_every_clip_comes_once_an_epoch_in_an_order_of_the_seed(clips: ClipSet) -> None:
    one = batches(clips)
    orders = [[draw.clip for draws in one.epoch(epoch) for draw in draws] for epoch in (1, 2)]
    assert [len(draws) for draws in one.epoch(1)] == [4, 4, 2]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1]
    assert one.epoch(1) == batches(clips).epoch(1)
    assert one.epoch(1) != batches(clips, seed=1).epoch(1)


def test_balanced_sampling_draws_rare_classes_as_often_as_common_ones(clips: ClipSet) -> None:
    rare = replace(clips, targets=(1, *[0] * 9))
    drawn = [
        draw
        for epoch in range(1, 101)
        for draws in batches(rare, CONFIG.model_copy(update={"balanced_sampling": True})).epoch(epoch)
        for draw in draws
    ]
    assert len(drawn) == 1000
    assert sum(draw.clip == 0 for draw in drawn) == pytest.approx(500, abs=60)


def test_a_clip_that_comes_again_comes_in_its_next_view(clips: ClipSet) -> None:
    """Two views: of its repeats in one epoch, the even and the odd ones are alike."""
    rare = replace(clips, targets=(1, *[0] * 9))
    some = batches(rare, CONFIG.model_copy(update={"balanced_sampling": True}))
    repeats = [draw for draws in some.epoch(1) for draw in draws if draw.clip == 0]
    assert [draw.repeat for draw in repeats] == list(range(len(repeats)))
    assert len(repeats) >= 3
    arrays = [some.clip(1, draw).array for draw in repeats]
    assert torch.equal(arrays[0], arrays[2])
    assert not torch.equal(arrays[0], arrays[1])
    changed = batches(rare, some.training, SPEED)
    assert len({changed.clip(1, draw).array.numpy().tobytes() for draw in repeats}) > 2


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_rows_are_the_same_whoever_reads_them(clips: ClipSet, mixup: float) -> None:
    some = batches(clips, CONFIG.model_copy(update={"mixup": mixup}), SPEED)
    draws = some.epoch(2)[0]
    whole = some.load(2, 0, draws, range(4))
    for rows in (range(2), range(2, 4), range(3, 4)):
        part = some.load(2, 0, draws, rows)
        assert (part.offset, part.total) == (rows.start, 4)
        assert torch.equal(part.lengths, whole.lengths[rows.start : rows.stop])
        assert torch.equal(part.targets, whole.targets[rows.start : rows.stop])
        for mine, theirs, length in zip(part.inputs, whole.inputs[rows.start : rows.stop], part.lengths.tolist(), strict=True):
            assert torch.equal(mine[:length], theirs[:length])


def test_time_is_changed_anew_in_each_epoch(clips: ClipSet) -> None:
    some = batches(clips, augmentation=SPEED)
    lengths = Counter(len(some.clip(epoch, some.epoch(1)[0][0]).array) for epoch in range(20))
    assert len(lengths) > 4


def test_mixup_blends_clips_and_classes_by_the_same_shares(tmp_path: Path) -> None:
    """Each clip is one number throughout, its own: a blend of two tells which, and how much of each."""
    files = []
    for i in range(6):
        files.append((tmp_path / f"{i}.npy",))
        np.save(files[-1][0], np.full((3 + i, 1, 1, 1), 10.0**i, np.float64))
    clips = ClipSet(video_ids=tuple("abcdef"), files=tuple(files), targets=(0, 0, 0, 1, 1, 1))
    some = batches(clips, CONFIG.model_copy(update={"batch_size": 6, "mixup": 1.0}))
    (draws,) = some.epoch(1)
    batch = some.load(1, 0, draws, range(6))
    assert batch.targets.shape == (6, 2)
    torch.testing.assert_close(batch.targets.sum(dim=1), torch.ones(6))
    partners = []
    for row, draw in enumerate(draws):
        assert batch.lengths[row] == 3 + draw.clip
        values = batch.inputs[row, : 3 + draw.clip].unique()
        assert len(values) == 1
        fits = [
            other.clip
            for other in draws
            for share in [(values.item() - 10.0**other.clip) / (10.0**draw.clip - 10.0**other.clip) if other != draw else 1.0]
            if -1e-6 <= share <= 1 + 1e-6
            and np.allclose(batch.targets[row, 0].item(), share * (draw.clip < 3) + (1 - share) * (other.clip < 3), atol=1e-4)
        ]
        assert fits
        partners.append(values.item() != 10.0**draw.clip)
    assert any(partners)
    assert some.load(1, 1, draws, range(6)).targets.tolist() != batch.targets.tolist()


@given(first=st.integers(1, 30), second=st.integers(1, 30), share=st.floats(0, 1))
def test_a_blend_has_the_length_of_the_first_and_both_from_end_to_end(first: int, second: int, share: float) -> None:
    one, other = torch.zeros(first, 1), torch.arange(second, dtype=torch.float32)[:, None]
    mixed = blend(one, other, share)
    assert mixed.shape == (first, 1)
    positions = mixed.squeeze(1) / max(1 - share, 1e-9)
    if share < 0.999:
        assert positions.diff().ge(-1e-3).all()
        assert positions[0] <= second / first
        assert positions[-1] >= second - 1 - second / first - 1e-3


def test_frames_of_bytes_stay_bytes() -> None:
    mixed = blend(torch.full((2, 3, 1, 1), 250, dtype=torch.uint8), torch.full((5, 3, 1, 1), 255, dtype=torch.uint8), 0.5)
    assert mixed.dtype == torch.uint8
    assert mixed.unique().tolist() == [252]


@given(rows=st.integers(1, 9), parts=st.integers(1, 12))
def test_parts_are_all_rows_in_order_and_none_is_empty(rows: int, parts: int) -> None:
    lengths = torch.arange(1, rows + 1)
    batch = Batch(inputs=torch.rand(rows, rows, 2), lengths=lengths, targets=lengths * 10, gaps=torch.rand(rows, rows), offset=3, total=20)
    pieces = batch.split(parts)
    assert len(pieces) == min(rows, parts)
    assert torch.equal(torch.cat([piece.targets for piece in pieces]), batch.targets)
    for piece in pieces:
        assert piece.total == 20
        start = piece.offset - 3
        assert torch.equal(piece.lengths, lengths[start : start + len(piece.lengths)])
        longest = int(piece.lengths.max())
        assert torch.equal(piece.inputs, batch.inputs[start : start + len(piece.lengths), :longest])
        assert torch.equal(piece.gaps, batch.gaps[start : start + len(piece.lengths), :longest])


def test_labels_of_frames_go_with_their_frames(tmp_path: Path) -> None:
    """Each frame is its own class, whichever are chosen."""
    files = tuple((tmp_path / f"{i}.npy",) for i in range(4))
    classes = [range(10 * i, 10 * i + 5 + i) for i in range(4)]
    for (file,), numbers in zip(files, classes, strict=True):
        np.save(file, np.array(numbers, np.uint8)[:, None, None, None])
    clips = ClipSet(video_ids=tuple("abcd"), files=files, targets=tuple((tuple(numbers),) for numbers in classes))
    some = batches(clips, augmentation=AugmentationConfig(speed=0.8, time_crop=0.6, frame_dropout=0.3))
    for epoch in range(1, 9):
        batch = some.load(epoch, 0, some.epoch(epoch)[0], range(4))
        for inputs, targets, length in zip(batch.inputs, batch.targets, batch.lengths.tolist(), strict=True):
            assert inputs[:length].flatten().tolist() == targets[:length].tolist()
            assert targets[length:].eq(IGNORED).all()


def test_gaps_go_with_their_frames(tmp_path: Path) -> None:
    """Each frame shows the time at which it was filmed, in tenths of a second, unevenly."""
    rng = np.random.default_rng(0)
    files = tuple((tmp_path / f"{i}.npy",) for i in range(4))
    for i, (file,) in enumerate(files):
        records = np.empty(5 + i, [("time_s", np.float64), ("frame", np.uint8, (1, 1, 1))])
        records["frame"][:, 0, 0, 0] = np.sort(rng.integers(0, 200, 5 + i))
        records["time_s"] = records["frame"][:, 0, 0, 0] / 10
        np.save(file, records)
    clips = ClipSet(video_ids=tuple("abcd"), files=files, targets=(0, 0, 1, 1))
    some = batches(clips, augmentation=AugmentationConfig(speed=0.8, time_crop=0.6, frame_dropout=0.3))
    for epoch in range(1, 9):
        batch = some.load(epoch, 0, some.epoch(epoch)[0], range(4))
        for inputs, gaps, length in zip(batch.inputs, batch.gaps, batch.lengths.tolist(), strict=True):
            assert gaps[1:length].tolist() == pytest.approx((inputs[:length].flatten().float().diff() / 10).tolist())
            assert gaps[0] == 0
            assert gaps[length:].eq(0).all()
