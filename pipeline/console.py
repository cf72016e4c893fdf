"""What the terminal shows: tables, JSON, and progress with the time left."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

OpenProgress = Callable[[str], AbstractContextManager[Callable[..., None]]]

_FILE_WIDTH = 200  # characters of a table in a file or a pipe, which have no width of their own
OUT = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _FILE_WIDTH)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)
LINE_EVERY_S = 10.0


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table for people; cells are shown to the letter."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(OUT.render_str(printable(str(cell)), markup=False, emoji=False) for cell in row))
    OUT.print(table)


def printable(text: str) -> str:
    """The text without what would steer a terminal: names of files and labels come from anywhere."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def say(text: str) -> None:
    """A line for people on standard output, to the letter."""
    OUT.print(printable(text), markup=False, emoji=False)


def note(text: str) -> None:
    """A line for people on standard error: what goes on, not what came out."""
    ERR.print(printable(text), markup=False, emoji=False)


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """A progress line on standard error; call the value with (done, total, extra text).

    On a terminal it is one live line; elsewhere (a log file) a plain line every ten seconds.
    """
    if not ERR.is_terminal:
        yield _Lines(what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[extra]}"),
    )
    with Progress(*columns, console=ERR, transient=True) as bar:
        task = bar.add_task(what, total=None, extra="")
        begun = False

        def advance(done: int, total: int, extra: str = "") -> None:
            nonlocal begun
            if not begun:  # see _Lines
                bar.reset(task, completed=done)
                begun = True
            bar.update(task, completed=done, total=total, extra=extra)

        yield advance


class _Lines:
    """Progress for a log file. What came before the first word, of an earlier run or of starting up, says nothing of the time left."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.shown = time.monotonic()
        self.first: tuple[int, float] | None = None  # done, and when

    def __call__(self, done: int, total: int, extra: str = "") -> None:
        now = time.monotonic()
        self.first = self.first or (done, now)
        if now - self.shown < LINE_EVERY_S:
            return
        self.shown = now
        before, began = self.first
        words = [f"{self.what}: {done} of {total}", extra]
        if done > before:
            words.insert(1, f"about {timedelta(seconds=round((now - began) / (done - before) * (total - done)))} left")
        note(", ".join(filter(None, words)))
