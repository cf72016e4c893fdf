"""What libraries log and warn of: in a file for who looks for it, not on the console."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG_FILE = "log.txt"
_LOGGERS = ("reelscribe", "ray", "mlflow", "alembic", "torch", "py.warnings")


@contextmanager
def chatter_in(file: Path) -> Iterator[None]:
    """Inside, the loggers of libraries and Python's warnings write to ``file``, after what is in it."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    logging.getLogger("reelscribe").setLevel(logging.INFO)
    shown = warnings.showwarning
    try:
        for logger in loggers:
            logger.handlers[:], logger.propagate = [handler], False
        logging.captureWarnings(True)
        yield
    finally:
        logging.captureWarnings(False)
        warnings.showwarning = shown
        for logger, handlers, propagate in before:
            logger.handlers[:], logger.propagate = handlers, propagate
        handler.close()
