"""Counting videos, written once per test run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # videos.py, offenders.py

from videos import CASES  # noqa: E402


@pytest.fixture(scope="session")
def counting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The file of each case. Written before any test may load decord, whose library disturbs the VP8 encoder of PyAV."""
    folder = tmp_path_factory.mktemp("counting")
    return {name: case.write(folder / f"{name}{case.suffix}") for name, case in CASES.items()}
