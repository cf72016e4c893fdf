"""Counting videos, written once per test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from videos import CASES


@pytest.fixture(scope="session")
def counting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of each case. Written before any test may load decord, whose library disturbs the VP8 encoder of PyAV."""
    folder = tmp_path_factory.mktemp("counting")
    return {name: case.write(folder / f"{name}{case.suffix}") for name, case in CASES.items()}
