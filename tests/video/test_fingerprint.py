"""Fingerprints: copies are near, other clips are far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.fft import dctn

from reelscribe.pipeline.drawing.order import CLASSES, draw_clip
from reelscribe.pipeline.video import fingerprint as look
from reelscribe.pipeline.video.clip import ClipRequest, read_clip
from reelscribe.pipeline.video.scaling import scale
from reelscribe.pipeline.video.types import Uint8Array
from reelscribe.pipeline.video.writer import write_video


def of_file(path: Path) -> look.Fingerprint:
    return look.fingerprint(read_clip(ClipRequest(uri=str(path), sampling=look.SAMPLING, size=look.SIZE)).views[0].pixels)


def bits(a: look.Fingerprint, b: look.Fingerprint) -> int:
    return int(np.bitwise_count(a ^ b).sum())


def drawn(seed: int) -> tuple[Uint8Array, float]:
    """A moving shape, three times as large as in the demo."""
    frames, rate = draw_clip(CLASSES[seed % len(CLASSES)], np.random.default_rng(seed))
    return np.stack([scale(frame, (192, 256)) for frame in frames]), rate


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_at_another_size_quality_and_container_is_near(seed: int, tmp_path: Path) -> None:
    frames, rate = drawn(seed)
    write_video(tmp_path / "a.mp4", frames, frame_rate=rate)
    write_video(tmp_path / "b.mkv", [scale(frame, (144, 192)) for frame in frames], frame_rate=rate, options={"crf": "32", "g": "7"})
    a, b = of_file(tmp_path / "a.mp4"), of_file(tmp_path / "b.mkv")
    assert 0 < bits(a, b) <= look.SAME_UP_TO


def test_other_clips_are_far_and_a_clip_backwards_is_another() -> None:
    clips = [np.stack([scale(f, (32, 32)) for f in drawn(seed)[0]]) for seed in range(24)]
    picked = [clip[np.linspace(0, len(clip) - 1, 8).round().astype(int)] for clip in clips]
    prints = np.stack([look.fingerprint(clip) for clip in [*picked, *(clip[::-1] for clip in picked)]])
    assert list(look.similar(prints, prints)) == [(i, i, 0) for i in range(48)]


def test_bits_are_those_of_a_cosine_transform_by_scipy() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    grey = frames @ np.array([0.299, 0.587, 0.114])
    still = dctn(grey, axes=(1, 2))[:, :8, :8].reshape(8, -1)
    change = dctn(grey)[1:5, :8, :8].reshape(4, -1)
    spectra = np.concatenate([still, change])
    expected = spectra > np.median(spectra, axis=1, keepdims=True)
    found = np.unpackbits(look.fingerprint(frames).view(np.uint8)).reshape(12, 64)
    assert np.array_equal(found, expected)


def test_flat_pictures_are_alike_whatever_their_grey() -> None:
    first, second = (look.fingerprint(np.full((8, 32, 32, 3), grey, np.uint8)) for grey in (7, 201))
    assert bits(first, second) == 0


def test_pairs_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**64, (700, 12), dtype=np.uint64)
    second = rng.integers(0, 2**64, (600, 12), dtype=np.uint64)
    second[[3, 599]] = first[[650, 2]]
    second[599, 5] ^= np.uint64(0b1011)
    expected = {(i, j, bits(a, b)) for i, a in enumerate(first) for j, b in enumerate(second[[3, 599, 77]]) if bits(a, b) <= 330}
    found = {(i, (3, 599, 77).index(j), d) for i, j, d in look.similar(first, second, up_to=330) if j in (3, 599, 77)}
    assert found == expected
    assert {(650, 0, 0), (2, 1, 3)} <= found


def test_other_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"frames of shape \(8, 16, 16, 3\)"):
        look.fingerprint(np.zeros((8, 16, 16, 3), np.uint8))
