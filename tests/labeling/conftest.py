"""A tiny model, drawn videos and one Ray cluster for the tests of labelling."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from labeling_model import make_bundle

from reelscribe.pipeline.bundle import ModelBundle


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
