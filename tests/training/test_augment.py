"""What augmentation may change, and that it is the same for every frame of a clip."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelscribe.pipeline.config import AugmentationConfig
from reelscribe.pipeline.training.steps.augment import augment, augment_stored, chosen_frames


def still(seed: int, *, height: int = 24, width: int = 32) -> torch.Tensor:
    """Five times the same picture."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 255, (1, 3, height, width), dtype=torch.uint8, generator=generator).expand(5, -1, -1, -1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_off_changes_nothing() -> None:
    frames = torch.randint(0, 255, (3, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment(frames, AugmentationConfig(), seed=1), frames)
    assert torch.equal(augment_stored(frames, AugmentationConfig(), seed=1), frames)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_scale": 0.5},
        {"horizontal_flip": True},
        {"brightness": 0.4},
        {"contrast": 0.4},
        {"saturation": 0.4},
        {"hue": 0.3},
        {"erasing": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_change_of_the_picture_is_the_same_in_every_frame_and_follows_from_the_seed(change: dict[str, float]) -> None:
    frames = still(0)
    config = AugmentationConfig(**change)  # type: ignore[arg-type]
    results = [augment(frames, config, seed=seed) for seed in range(6)]
    for seed, changed in enumerate(results):
        assert changed.shape == frames.shape
        assert changed.dtype == torch.uint8
        assert torch.equal(changed, changed[:1].expand_as(changed))
        assert torch.equal(changed, augment(frames, config, seed=seed))
    assert len({result.numpy().tobytes() for result in results}) > (1 if "horizontal_flip" in change else 4)


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


def test_hue_keeps_grey_and_saturation_keeps_how_light_it_is() -> None:
    grey = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(2, 3, -1, -1)
    colours = still(1, height=8, width=8)
    for seed in range(5):
        assert torch.equal(augment(grey, AugmentationConfig(hue=0.5), seed=seed), grey)
        paler = augment(colours, AugmentationConfig(saturation=0.5), seed=seed)
        weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        inside = ((paler > 0) & (paler < 255)).all(dim=1)  # where nothing was cut off
        lightness = [(weights * frames).sum(dim=1)[inside] for frames in (paler, colours)]
        assert inside.any()
        torch.testing.assert_close(lightness[0], lightness[1], atol=2.0, rtol=0)


def test_one_box_of_two_to_33_percent_is_erased_in_the_share_of_views_asked_for() -> None:
    frames = torch.zeros(3, 3, 60, 80, dtype=torch.uint8)
    frames[:, :, ::2] = 200  # stripes: the mean is 100
    boxes = []
    for seed in range(200):
        erased = augment(frames, AugmentationConfig(erasing=0.5), seed=seed) == 100
        if erased.any():
            assert torch.equal(erased, erased[:1, :1].expand_as(erased))
            rows, columns = erased[0, 0].any(dim=1), erased[0, 0].any(dim=0)
            assert erased[0, 0].sum() == rows.sum() * columns.sum()
            boxes.append(erased[0, 0].float().mean().item())
    assert 70 < len(boxes) < 130
    assert 0.015 < min(boxes) < 0.06
    assert 0.25 < max(boxes) < 0.35


@given(
    count=st.integers(1, 80),
    speed=st.floats(0, 3),
    warp=st.floats(0, 0.99),
    crop=st.floats(0.01, 1),
    dropout=st.floats(0, 0.99),
    seed=st.integers(0, 1000),
)
def test_frames_stay_in_order_and_inside_the_clip(count: int, speed: float, warp: float, crop: float, dropout: float, seed: int) -> None:
    config = AugmentationConfig(speed=speed, time_warp=warp, time_crop=crop, frame_dropout=dropout)
    chosen = chosen_frames(count, config, generator(seed))
    assert chosen == chosen_frames(count, config, generator(seed))
    assert 1 <= len(chosen) <= round(count * (1 + speed))
    assert chosen == sorted(chosen)
    assert chosen[0] >= 0
    assert chosen[-1] < count


@given(count=st.integers(1, 500), seed=st.integers(0, 50))
def test_without_changes_of_time_every_frame_comes_once(count: int, seed: int) -> None:
    assert chosen_frames(count, AugmentationConfig(), generator(seed)) == list(range(count))


@given(count=st.integers(1, 200), crop=st.floats(0.05, 1), seed=st.integers(0, 200))
def test_a_crop_of_time_is_a_window_of_neighbours(count: int, crop: float, seed: int) -> None:
    chosen = chosen_frames(count, AugmentationConfig(time_crop=crop), generator(seed))
    assert chosen == list(range(chosen[0], chosen[0] + len(chosen)))
    assert len(chosen) >= round(crop * count) or len(chosen) == 1


def test_speed_changes_the_length_and_keeps_both_ends() -> None:
    chosen = [chosen_frames(60, AugmentationConfig(speed=1.0), generator(seed)) for seed in range(50)]
    assert 30 <= min(map(len, chosen)) < 36
    assert 105 < max(map(len, chosen)) <= 120
    assert all(frames[0] <= 1 and frames[-1] >= 58 for frames in chosen)


def test_time_warp_moves_the_middle_and_keeps_the_length() -> None:
    chosen = [chosen_frames(100, AugmentationConfig(time_warp=0.6), generator(seed)) for seed in range(50)]
    assert {len(frames) for frames in chosen} == {100}
    middles = [frames[50] for frames in chosen]
    assert 20 <= min(middles) < 30
    assert 70 < max(middles) <= 81


def test_frames_are_left_out_at_the_rate_asked_for() -> None:
    kept = sum(len(chosen_frames(50, AugmentationConfig(frame_dropout=0.3), generator(seed))) for seed in range(100))
    assert kept == pytest.approx(0.7 * 5000, rel=0.05)


def test_noise_has_the_size_of_each_channel_and_leaves_frames_of_bytes_alone() -> None:
    grid = torch.randn(50, 2, 6, 8, generator=generator(0)) * torch.tensor([1.0, 20.0]).view(1, 2, 1, 1)
    config = AugmentationConfig(feature_noise=0.5)
    noisy = augment_stored(grid.half(), config, seed=3)
    assert noisy.dtype == torch.float16
    assert torch.equal(noisy, augment_stored(grid.half(), config, seed=3))
    assert not torch.equal(noisy, augment_stored(grid.half(), config, seed=4))
    spread = (noisy.float() - grid).std(dim=(0, 2, 3))
    assert spread.tolist() == pytest.approx([0.5, 10.0], rel=0.06)
    frames = still(2)
    assert torch.equal(augment_stored(frames, config, seed=3), frames)
