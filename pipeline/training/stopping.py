"""Ctrl-C: the step under way is finished, a checkpoint is left, and the training ends in order, on every engine.

The request is a file in the folder of the run, which all workers look at after each step.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reelscribe.pipeline.console import note

STOP_FILE = "stop"


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Inside, the first Ctrl-C (or SIGTERM, as clusters send) asks to stop, and a second one stops at once."""
    file = folder / STOP_FILE
    file.unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        file.touch()
        give_back()
        note("stopping after this step; once more stops at once")

    try:
        for number in before:
            signal.signal(number, ask)
        yield
    finally:
        give_back()
        file.unlink(missing_ok=True)
