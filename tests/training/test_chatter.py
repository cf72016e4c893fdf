"""Libraries are heard in a file, and the console stays as it was."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from reelscribe.pipeline.training.chatter import chatter_in


def test_what_libraries_say_goes_to_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mlflow")
    before = (logger.handlers[:], logger.propagate, warnings.showwarning)
    with chatter_in(tmp_path / "log.txt"), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("mlflow.tracking").error("the store is slow")
        logging.getLogger("reelscribe").info("Ray is up")
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
    text = (tmp_path / "log.txt").read_text()
    for words in ("ERROR mlflow.tracking: the store is slow", "INFO reelscribe: Ray is up", "FutureWarning: deprecated"):
        assert words in text
    assert capfd.readouterr() == ("", "")
    assert (logger.handlers[:], logger.propagate, warnings.showwarning) == before
    with chatter_in(tmp_path / "log.txt"):
        logger.error("again")
    assert (tmp_path / "log.txt").read_text().startswith(text)
