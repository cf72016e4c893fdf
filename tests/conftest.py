"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos and labels beside the checkout; absent on a user's machine."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        message = "the real data (../shared/data) is not beside this checkout"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return folder
