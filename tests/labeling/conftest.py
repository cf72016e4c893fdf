"""A tiny model for the tests of labelling."""

from __future__ import annotations

import pytest
from labeling_model import make_bundle

from reelscribe.pipeline.bundle import ModelBundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """The model of most tests."""
    return make_bundle(tmp_path_factory.mktemp("models") / "shapes")
