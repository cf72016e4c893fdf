"""From what a manifest says to bytes that can be opened: a local file, or an object in a store."""

from __future__ import annotations

from reelscribe.pipeline.video.sources.local import LocalSource, local_path, scheme_of
from reelscribe.pipeline.video.types import Source

REMOTE_SCHEMES = ("http", "https", "s3")


def open_source(uri: str) -> Source:
    """The bytes that a path, ``file://``, ``http(s)://`` or ``s3://`` URI names.

    Raises VideoNotFoundError, VideoPermissionError, NotAVideoError (a folder, a pipe, nothing in it) or NetworkError.
    """
    scheme = scheme_of(uri)
    if scheme not in REMOTE_SCHEMES:
        return LocalSource(local_path(uri))
    from reelscribe.pipeline.video.sources.remote import RemoteSource

    if scheme == "s3":
        from reelscribe.pipeline.video.sources.s3_store import S3Store

        return RemoteSource(uri, S3Store(uri))
    from reelscribe.pipeline.video.sources.http_store import HttpStore

    return RemoteSource(uri, HttpStore(uri))


def content_digest(uri: str) -> str:
    """What names the content of a video: the same text as long as the content is the same.

    For a local file it is the sha256 of its bytes, hexadecimal. Hashing a remote file would mean fetching all of it, so its digest is
    ``remote:`` and the sha256 of what the store vouches for: the URI, the size, the ETag and the time of the last change. A store that
    says neither of the last two is fetched and hashed. Raises what ``open_source`` raises.
    """
    return open_source(uri).digest()
