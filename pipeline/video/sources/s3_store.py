"""Objects behind s3://bucket/key, through Arrow's file system (see ``stores``). The key is taken to the letter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reelscribe.pipeline.errors import NetworkError, VideoError, VideoNotFoundError, VideoPermissionError
from reelscribe.pipeline.stores import s3_file_system
from reelscribe.pipeline.video.sources.remote import pieces

_DENIED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_CLIENT_TOKEN_ID",
    "HTTP status 403",
    "HTTP status 401",
)
_ABSENT = ("NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "Bucket '", "HTTP status 404")


class S3Store:
    """See ``remote.Store``. Raises VideoNotFoundError, VideoPermissionError or NetworkError."""

    ranges = True

    def __init__(self, uri: str) -> None:
        self._uri = uri
        bucket, _, key = uri.partition("://")[2].partition("/")
        if not bucket or not key:
            raise VideoNotFoundError(f"{uri}: expected s3://bucket/key")
        self._object = f"{bucket}/{key}"
        self._store = s3_file_system(bucket)
        try:
            self._file = self._store.open_input_file(self._object)
            self.size: int | None = self._file.size()
            self._opened = _validators(self._file)
        except (OSError, ValueError) as error:
            raise _failure(uri, error) from error

    def fetch(self, offset: int, length: int) -> bytes:
        """See ``remote.Store``. Raises VideoNotFoundError, VideoPermissionError or NetworkError."""
        try:
            data = bytes(self._file.read_at(length, offset))
        except OSError as error:
            raise _failure(self._uri, error) from error
        if len(data) != length:
            raise NetworkError(f"{self._uri}: asked for {length} bytes, got {len(data)}")
        return data

    def chunks(self) -> Iterator[bytes]:
        """See ``remote.Store``."""
        return pieces(self)

    def validators(self) -> tuple[str, ...]:
        """See ``remote.Store``. Arrow compares nothing while it reads, so the store is asked once more."""
        try:
            now = _validators(self._store.open_input_file(self._object))
        except OSError as error:
            raise _failure(self._uri, error) from error
        if now != self._opened:
            raise NetworkError(f"{self._uri}: it was replaced while it was read")
        return now


def _validators(file: Any) -> tuple[str, ...]:
    facts = file.metadata()
    return tuple(facts[name].decode() for name in ("ETag", "Last-Modified") if name in facts)


def _failure(uri: str, error: Exception) -> VideoError:
    """The class of failure that an error of Arrow means; the SDK tells it only in words."""
    words = str(error)
    if isinstance(error, FileNotFoundError) or any(word in words for word in _ABSENT):
        return VideoNotFoundError(f"{uri}: no such object")
    if any(word in words for word in _DENIED):
        return VideoPermissionError(f"{uri}: the store refuses to give it ({words[-200:]})")
    return NetworkError(f"{uri}: {words}")
