"""Objects behind http(s)://, by range requests (RFC 9110, 14)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, ProtocolError

from reelscribe.pipeline.errors import NetworkError, VideoError, VideoNotFoundError, VideoPermissionError
from reelscribe.pipeline.video.sources.remote import pieces

TIMEOUT_S = 10.0  # to connect, and between two pieces of an answer
_RETRIES = 3  # after half a second, one, and two
_BUSY = frozenset({429, 500, 502, 503, 504})
_CHUNK_BYTES = 1 << 20


class HttpStore:
    """See ``remote.Store``. Raises VideoNotFoundError, VideoPermissionError or NetworkError."""

    def __init__(self, uri: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._uri, self._timeout_s = uri, timeout_s
        answer = self._get("bytes=0-0", whole=False)
        answer.drain_conn() if answer.status == HTTPStatus.PARTIAL_CONTENT else answer.close()
        length = answer.headers.get("Content-Length", "")
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        self.ranges = answer.status == HTTPStatus.PARTIAL_CONTENT and total.isdigit()
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # there is no first byte
            self.size: int | None = 0
        else:
            self.size = int(total) if self.ranges else int(length) if length.isdigit() else None
        self._opened = _validators(answer)

    def fetch(self, offset: int, length: int) -> bytes:
        """See ``remote.Store``. Raises NetworkError, also where the object has changed meanwhile."""
        answer = self._get(f"bytes={offset}-{offset + length - 1}", whole=True)
        if answer.status != HTTPStatus.PARTIAL_CONTENT or len(answer.data) != length:
            raise NetworkError(f"{self._uri}: asked for {length} bytes, got {len(answer.data)} with status {answer.status}")
        if _validators(answer) != self._opened:
            raise NetworkError(f"{self._uri}: it was replaced while it was read")
        return bytes(answer.data)

    def validators(self) -> tuple[str, ...]:
        """See ``remote.Store``; every fetch has compared them."""
        return self._opened

    def chunks(self) -> Iterator[bytes]:
        """See ``remote.Store``."""
        yield from pieces(self) if self.ranges else self._stream()

    def _stream(self) -> Iterator[bytes]:
        answer = self._get(None, whole=False)
        try:
            yield from answer.stream(_CHUNK_BYTES)
        except HTTPError as error:
            raise NetworkError(f"{self._uri}: {_reason(error)}") from error
        finally:
            answer.close()

    def _get(self, part: str | None, *, whole: bool) -> Any:
        """The answer; ``whole`` reads its body, and reads again what was cut."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": part} if part else {})
        try:
            answer = _connections(_proxy(self._uri)).request(
                "GET",
                self._uri,
                headers=headers,
                preload_content=whole,
                timeout=self._timeout_s,
                retries=urllib3.Retry(_RETRIES, backoff_factor=0.5, status_forcelist=_BUSY, respect_retry_after_header=False),
            )
        except LocationValueError as error:
            raise VideoNotFoundError(f"{self._uri}: {error}") from error
        except HTTPError as error:
            raise NetworkError(f"{self._uri}: {_reason(error)}") from error
        if answer.status >= HTTPStatus.BAD_REQUEST and answer.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            answer.close()
            raise _refusal(self._uri, answer.status)
        return answer


def _validators(answer: Any) -> tuple[str, ...]:
    return tuple(answer.headers[name] for name in ("ETag", "Last-Modified") if name in answer.headers)


def _refusal(uri: str, status: int) -> VideoError:
    words = f"{uri}: the server answers {status}" + (f" ({HTTPStatus(status).phrase})" if status in set(HTTPStatus) else "")
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN | HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return VideoPermissionError(words)
        case HTTPStatus.NOT_FOUND | HTTPStatus.GONE:
            return VideoNotFoundError(words)
        case _:
            return NetworkError(words)


def _reason(error: HTTPError) -> str:
    """The cause at the end of the retries, without the names of urllib3's objects."""
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, ProtocolError):  # ("words", the exception below)
        return f"the connection was cut: {cause.args[-1]}"
    return str(cause).rpartition(": ")[2] or type(cause).__name__


def _proxy(uri: str) -> str:
    """The proxy that the environment names for this address; empty for none."""
    parts = urllib3.util.parse_url(uri)
    return "" if proxy_bypass(parts.host or "") else getproxies().get(parts.scheme or "", "")


@cache
def _connections(proxy: str) -> Any:
    """Open connections, kept for the next request."""
    return urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
