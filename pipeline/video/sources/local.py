"""A video on a local disk."""

from __future__ import annotations

import hashlib
import stat
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from reelscribe.pipeline.errors import NotAVideoError, VideoNotFoundError, VideoPermissionError


class LocalSource:
    """See ``types.Source``."""

    def __init__(self, path: str) -> None:
        self.name = path
        self.size = Path(path).stat().st_size

    def open(self) -> BinaryIO:
        """See ``types.Source``."""
        return Path(self.name).open("rb")

    def file_name(self) -> str | None:
        """See ``types.Source``."""
        return self.name

    def path(self) -> str:
        """See ``types.Source``."""
        return self.name

    def digest(self) -> str:
        """See ``types.Source``."""
        return digest(self.name)


def digest(path: str) -> str:
    """sha256 of a local file's bytes, hexadecimal; remembered until the file changes."""
    return _digest(path, identity(path))


def identity(path: str) -> tuple[int, ...]:
    """What changes when a local file is changed or replaced."""
    facts = Path(path).stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


@lru_cache(maxsize=1024)
def _digest(path: str, known_by: tuple[int, ...]) -> str:  # noqa: ARG001 - what it is remembered by
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_path(uri: str) -> str:
    """The absolute path of a readable, non-empty regular file, from a path or a ``file://`` URI.

    Raises VideoNotFoundError, VideoPermissionError or NotAVideoError (a folder, a pipe, an empty file).
    """
    path = Path(_path_of(uri)).absolute()
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
            raise NotAVideoError(f"{uri}: is {kind}")
        path.open("rb").close()
    except PermissionError:
        raise VideoPermissionError(f"{uri}: permission denied") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise VideoNotFoundError(f"{uri}: {reason.lower()}") from None
    if facts.st_size == 0:
        raise NotAVideoError(f"{uri}: the file is empty")
    return str(path)


def scheme_of(uri: str) -> str:
    """The scheme of a URI in small letters; empty for a path, even one that looks like a URI and exists."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower() if separator and scheme.isalnum() and "\0" not in uri and not Path(uri).exists() else ""


def _path_of(uri: str) -> str:
    """The local path in a path or a ``file://`` URI."""
    scheme = scheme_of(uri)
    if not scheme:
        return uri
    if scheme != "file":
        raise VideoNotFoundError(f"{uri}: {scheme}:// is not read; expected a local path, file://, http://, https:// or s3://")
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"}:
        raise VideoNotFoundError(f"{uri}: file:// with the host '{parts.netloc}'; expected file:///path")
    return unquote(uri[len("file://") + len(parts.netloc) :])
