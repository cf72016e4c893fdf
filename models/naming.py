"""The one wording for a name that is in none of the tables of this package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(kind: str, got: str, known: Iterable[str], *, listed: int = 20) -> ValueError:
    """The error for an unknown name: the nearest known ones, and all of them where they are few."""
    names = list(known)
    close = difflib.get_close_matches(got, names, n=3, cutoff=0.5)
    hint = f"; nearest: {', '.join(close)}" if close else ""
    allowed = f" (known: {', '.join(names)})" if len(names) <= listed else ""
    return ValueError(f"unknown {kind} '{got}'{hint}{allowed}")
