"""A drawn data set as a folder: there whole or not at all, and never over anything else."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from reelscribe.pipeline.errors import OutputConflictError

MANIFEST_FILE = "manifest.csv"  # path, split and truth of the clips to learn from
TRUTH_FILE = "truth.csv"  # path and truth of the sound files in new/, to check answers against
NEW_FOLDER = "new"
_MARKER_FILE = "drawing.json"


def draw_once(folder: Path, marker: Mapping[str, float], draw: Callable[[Path], None]) -> None:
    """Let ``draw`` fill a folder, unless it holds what ``marker`` stands for. Raises OutputConflictError where it holds anything else."""
    if _is_drawn(folder, marker):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        draw(draft)
        (draft / _MARKER_FILE).write_text(json.dumps(marker) + "\n", encoding="utf-8")
        draft.chmod(0o755)  # mkdtemp keeps others out
        _put_in_place(draft, folder, marker)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_table(file: Path, columns: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV file of these columns; what else the rows hold is left out."""
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _is_drawn(folder: Path, marker: Mapping[str, float]) -> bool:
    """Whether ``folder`` holds this very data set. Raises OutputConflictError where it holds another, or anything else."""
    try:
        found = json.loads((folder / _MARKER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == marker:
        return True
    if found is not None or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        what = f"a data set drawn otherwise ({json.dumps(found)}, wanted {json.dumps(marker)})" if found else "something else"
        raise OutputConflictError(f"{folder} holds {what}; remove it, or choose another folder")
    return False


def _put_in_place(draft: Path, folder: Path, marker: Mapping[str, float]) -> None:
    """Rename the finished draft; somebody else may have done the same meanwhile."""
    try:
        draft.rename(folder)
    except OSError:
        if not _is_drawn(folder, marker):
            raise
