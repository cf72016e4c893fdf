"""What a text names as a video: a path, which leaves here absolute, or a URI of a store that is read here; and the id it gets by itself."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from reelscribe.pipeline.video.sources.source import REMOTE_SCHEMES

SCHEMES = ("file", *REMOTE_SCHEMES)
_NO_NAMES = {"", ".", ".."}  # of files


def scheme(uri: str) -> str:
    """The scheme of ``scheme://...``, in small letters, or an empty text for a path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return match[1].lower() if match else ""


def refuse_unknown_scheme(uri: str) -> None:
    """Raise ValueError for a URI that no store here reads."""
    found = scheme(uri)
    if found not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"'{uri}': {found}:// is not read here; expected a path, or {allowed}")


def video_uri(given: str, folder: Path) -> str:
    """An absolute path, or a URI of a known scheme as it is. Raises ValueError for another scheme."""
    if scheme(given):
        refuse_unknown_scheme(given)
        return given
    parent, name = os.path.split(given)
    return os.path.join(_absolute_folder(parent, folder), name) if name not in _NO_NAMES else str(folder / given)  # noqa: PTH118


@cache  # a manifest of a million rows names few folders, and pathlib takes its time
def _absolute_folder(given: str, folder: Path) -> str:
    """A folder without ``..``, links on the way followed as the system does."""
    path = folder / given
    return str(path.resolve() if ".." in path.parts else path)


def default_id(given: str, folder: Path) -> str:
    """The path as given, relative to the manifest's folder where it lies in it."""
    parent, name = os.path.split(given)
    return given if scheme(given) else _short_folder(parent, folder) + name if name not in _NO_NAMES else Path(given).as_posix()


@cache
def _short_folder(given: str, folder: Path) -> str:
    """What stands before a file's name: nothing, or a folder and a slash."""
    path = Path(given)
    short = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
    return "" if short == "." else short.rstrip("/") + "/"
