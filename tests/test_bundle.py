"""Model folders: whole or refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelscribe.pipeline.bundle import BundleSpec, load_bundle, new_recognizer, save_bundle
from reelscribe.pipeline.config import ModelConfig, TransformConfig
from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.training.job import TrainingResult

TINY = ModelConfig(encoder="tiny", weights="none", stride=4, projection=4, hidden_size=8)
FRAMES = TransformConfig(height=16, width=16)


def spec() -> BundleSpec:
    return BundleSpec(name="x", labels=("a", "b", "ß ü"), model=TINY, sampling=UniformSampling(num_frames=3), transform=FRAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = new_recognizer(TINY, FRAMES, num_classes=3, seed=1).state_dict()
    return save_bundle(tmp_path / "model", spec=spec(), state=state, card="# x\n").folder


def test_what_is_saved_is_what_is_loaded(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.spec.labels == ("a", "b", "ß ü")
    frames = torch.randint(0, 255, (1, 3, 3, 16, 16), dtype=torch.uint8)
    expected = new_recognizer(TINY, FRAMES, num_classes=3, seed=1).eval()(frames, torch.tensor([3]))
    assert torch.equal(bundle.build()(frames, torch.tensor([3])), expected)


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(folder: Path) -> None:
    state = new_recognizer(TINY, FRAMES, num_classes=3, seed=2).state_dict()
    before = load_bundle(folder).weights_digest
    assert save_bundle(folder, spec=spec(), state=state, card="").weights_digest != before
    assert [f.name for f in folder.parent.iterdir()] == ["model"]


def test_a_seed_fixes_the_first_weights() -> None:
    first, again, other = (new_recognizer(TINY, FRAMES, num_classes=3, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_clips_come_back_as_they_were_kept(tmp_path: Path) -> None:
    clips = [(np.full((count, 16, 16, 3), count, dtype=np.uint8), np.arange(count, dtype=np.float32)) for count in (4, 2)]
    without = save_bundle(tmp_path / "without", spec=spec(), state={}, card="")
    assert (without.clips(), without.clips_digest) == ([], None)
    kept = save_bundle(tmp_path / "kept", spec=spec(), state={}, card="", clips=clips)
    assert kept.clips_digest
    for (frames, gaps), (same, times) in zip(clips, kept.clips(), strict=True):
        np.testing.assert_array_equal(frames, same)
        np.testing.assert_array_equal(gaps, times)


@pytest.mark.parametrize(
    "arrays",
    [
        {"frames0": np.zeros((2, 9, 9, 3), dtype=np.uint8), "gaps0": np.zeros(2, dtype=np.float32)},
        {"frames0": np.zeros((0, 16, 16, 3), dtype=np.uint8), "gaps0": np.zeros(0, dtype=np.float32)},
        {"frames0": np.zeros((2, 16, 16, 3)), "gaps0": np.zeros(2, dtype=np.float32)},
        {"frames0": np.array([object()]), "gaps0": np.zeros(1, dtype=np.float32)},
        {"pictures": np.zeros(1), "sounds": np.zeros(1)},
        {"frames0": np.zeros((1, 2**25), dtype=np.uint8), "frames1": np.zeros((1, 2**27), dtype=np.uint8)},
    ],
    ids=["size", "empty", "floats", "pickled", "names", "bomb"],
)
def test_a_file_of_other_things_than_clips_is_refused(arrays: dict[str, Any], folder: Path) -> None:
    np.savez_compressed(folder / "clips.npz", **arrays)
    with pytest.raises(ModelError, match="does not hold clips that this model sees"):
        load_bundle(folder).clips()


@pytest.mark.parametrize("damage", [slice(200, 240), slice(-400, None), slice(None)])
def test_a_damaged_file_of_clips_is_refused(damage: slice, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    bundle = save_bundle(tmp_path / "model", spec=spec(), state={}, card="", clips=[(frames, np.zeros(3, dtype=np.float32))])
    file = bundle.folder / "clips.npz"
    content = bytearray(file.read_bytes())
    content[damage] = bytes(byte ^ 0xFF for byte in content[damage])
    file.write_bytes(content)
    with pytest.raises(ModelError, match="does not hold clips that this model sees"):
        bundle.clips()


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model: expected model\.json and weights\.safetensors"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    "damage", ['{"format": 2}', "not json", '{"name": "x", "labels": [], "surprise": 1}', '{"format": 1, "name": "x", "labels": ["a"]}']
)
def test_a_description_that_is_not_ours_is_refused(folder: Path, damage: str) -> None:
    (folder / "model.json").write_text(damage)
    with pytest.raises(ModelError, match=r"is not a model description"):
        load_bundle(folder)


def test_weights_of_another_network_are_refused(folder: Path, trained: TrainingResult) -> None:
    shutil.copy(trained.bundle.folder / "weights.safetensors", folder)
    with pytest.raises(ModelError, match=r"do not fit the network"):
        load_bundle(folder).build()


def test_a_pickle_in_place_of_the_weights_is_never_run(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "exploded",)

    (folder / "weights.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError):
        load_bundle(folder).build()
    assert not (tmp_path / "exploded").exists()
