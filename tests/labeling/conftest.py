"""A tiny model, drawn videos and one Ray cluster for the tests of labelling."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reelscribe.pipeline.bundle import BundleSpec, ModelBundle, save_bundle
from reelscribe.pipeline.config import ModelConfig, TransformConfig
from reelscribe.pipeline.sampling import UniformSampling

LABELS = ("left", "right", "<b>up & down</b>")


@dataclass(frozen=True)
class Identity:
    """A registered model as the registry hands it out."""

    name: str | None = "shapes"
    version: str | None = "3"
    alias: str | None = "champion"
    run_id: str | None = "0123abcd"


def make_bundle(folder: Path, *, num_frames: int = 4, seed: int = 0) -> ModelBundle:
    """A recognizer with random weights."""
    from reelscribe.pipeline.bundle import new_recognizer

    model, transform = ModelConfig(encoder="tiny", weights="none", hidden_size=16), TransformConfig(height=32, width=32)
    network = new_recognizer(model, transform, num_classes=len(LABELS), seed=seed)
    spec = BundleSpec(
        name="shapes", labels=LABELS, model=model, sampling=UniformSampling(num_frames=num_frames), transform=transform, temperature=0.5
    )
    return save_bundle(folder, spec=spec, state=network.state_dict(), card="# shapes\n")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """The model of most tests."""
    return make_bundle(tmp_path_factory.mktemp("models") / "shapes")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 drawn videos, 8 of them broken; only to be read."""
    from reelscribe.pipeline.drawing import draw_order_dataset

    return draw_order_dataset(tmp_path_factory.mktemp("drawn") / "data", num_videos=40, broken_share=0.2).parent


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster on the loopback for all tests that need one."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from reelscribe.pipeline.cluster import cluster

    with cluster("local"):
        yield
