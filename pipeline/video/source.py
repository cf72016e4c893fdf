"""From what a manifest says to a file that can be opened."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from reelscribe.pipeline.errors import NotAVideoError, VideoNotFoundError, VideoPermissionError


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


def _path_of(uri: str) -> str:
    """The local path in a path or a ``file://`` URI."""
    scheme, separator, _ = uri.partition("://")
    if not separator or not scheme.isalnum() or Path(uri).exists():
        return uri
    if scheme.lower() != "file":
        raise VideoNotFoundError(f"{uri}: only local paths and file:// are read, got {scheme}://")
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"}:
        raise VideoNotFoundError(f"{uri}: file:// with the host '{parts.netloc}'; expected file:///path")
    return unquote(uri[len("file://") + len(parts.netloc) :])
