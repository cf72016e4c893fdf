"""Objects behind s3://bucket/key, through Arrow's file system.

Credentials and region are found as every AWS tool finds them (environment, profile, instance); ``AWS_ENDPOINT_URL_S3`` or
``AWS_ENDPOINT_URL`` names another server (MinIO, Ceph). The key is taken to the letter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any

from pyarrow import fs

from reelscribe.pipeline.errors import NetworkError, VideoError, VideoNotFoundError, VideoPermissionError
from reelscribe.pipeline.video.sources.remote import pieces

CONNECT_TIMEOUT_S = 10.0
_TRIES = 4
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
        self._store = _file_system(bucket, *_environment())
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


def _environment() -> tuple[str, str]:
    """The endpoint and the region that the environment names; empty for the usual ones."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""


@cache
def _file_system(bucket: str, endpoint: str, region: str) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        endpoint_override=endpoint or None,
        region=region or (fs.resolve_s3_region(bucket) if not endpoint else "us-east-1"),
        connect_timeout=CONNECT_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
    )


def _failure(uri: str, error: Exception) -> VideoError:
    """The class of failure that an error of Arrow means; the SDK tells it only in words."""
    words = str(error)
    if isinstance(error, FileNotFoundError) or any(word in words for word in _ABSENT):
        return VideoNotFoundError(f"{uri}: no such object")
    if any(word in words for word in _DENIED):
        return VideoPermissionError(f"{uri}: the store refuses to give it ({words[-200:]})")
    return NetworkError(f"{uri}: {words}")
