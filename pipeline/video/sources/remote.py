"""A video in a store, read by ranges: only what decoding touches is fetched.

ISO media files (MP4, MOV) say in their headers where each picture lies and when it is shown (``sample_table``). Other containers tell the
time of each frame beside the frame, so that all of the file must be seen once: these, and what is small, are fetched whole into a file
without a name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from reelscribe.pipeline.errors import NetworkError, NotAVideoError, VideoTooLargeError
from reelscribe.pipeline.video.containers.completeness import starts_like_boxes
from reelscribe.pipeline.video.sources.local import digest

BLOCK_BYTES = 64 * 1024
SMALL_BYTES = 1 << 20  # one request for all of it
_MOST_AHEAD = 32  # blocks fetched at once while reading on
_KEPT_BLOCKS = 512
_PIECE_BYTES = 8 << 20
_TRIES = 3  # to fetch a whole file from a store that cannot go on where it was cut


class Store(Protocol):
    """One object in a store."""

    size: int | None  # bytes; None where the store does not say before all is fetched
    ranges: bool  # whether parts can be fetched

    def fetch(self, offset: int, length: int) -> bytes:
        """Exactly these bytes; a connection that is cut is tried again, a bounded number of times. Raises NetworkError."""

    def chunks(self) -> Iterator[bytes]:
        """All bytes in order. Raises NetworkError."""

    def validators(self) -> tuple[str, ...]:
        """What the store says to tell one content from another: ETag, last change.

        Raises NetworkError where the object was replaced since it was opened: what was read of it may be of two contents.
        """


def pieces(store: Store) -> Iterator[bytes]:
    """``Store.chunks`` by ranges: a cut costs one piece, not all that came before it."""
    size = store.size or 0
    for offset in range(0, size, _PIECE_BYTES):
        yield store.fetch(offset, min(_PIECE_BYTES, size - offset))


class RemoteSource:
    """See ``types.Source``."""

    def __init__(self, uri: str, store: Store) -> None:
        self.name = uri
        self._store = store
        self._path: str | None = None
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._ahead, self._after = 1, -1  # blocks to fetch at once; the block behind the last one fetched
        if store.size == 0:
            raise NotAVideoError(f"{uri}: the file is empty")
        self.size = store.size if store.size is not None else Path(self.path()).stat().st_size

    def open(self) -> BinaryIO:
        """See ``types.Source``."""
        if (path := self.file_name()) is not None:
            return Path(path).open("rb")
        return cast("BinaryIO", _RangeFile(self))

    def file_name(self) -> str | None:
        """See ``types.Source``."""
        if self._path is None and (not self._store.ranges or self.size <= SMALL_BYTES or not starts_like_boxes(self.read_at(0, 12))):
            return self.path()
        return self._path

    def path(self) -> str:
        """See ``types.Source``. Raises NetworkError, or VideoTooLargeError where the disk for temporary files cannot hold it."""
        if self._path is None:
            self._path = self._fetch_whole()
        return self._path

    def digest(self) -> str:
        """See ``source.content_digest``."""
        validators = self._store.validators()
        if not validators:
            return digest(self.path())
        identity = json.dumps([self.name, self.size, *validators])
        return f"remote:{hashlib.sha256(identity.encode()).hexdigest()}"

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset`` on, fewer at the end of the file. Raises NetworkError."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        last = (end - 1) // BLOCK_BYTES
        parts, number = [], offset // BLOCK_BYTES
        while number <= last:
            run = [self._known(number)] if number in self._blocks else self._fetch(number, last)
            parts += run
            number += len(run)
        start = offset % BLOCK_BYTES
        return b"".join(parts)[start : start + end - offset]

    def _known(self, number: int) -> bytes:
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _fetch(self, number: int, last: int) -> list[bytes]:
        """Blocks from ``number`` to ``last``, or to one that is known; more are fetched, and kept, while the file is read on and on."""
        self._ahead = min(2 * self._ahead, _MOST_AHEAD) if number == self._after else 1
        count = 1
        while (
            count < max(last - number + 1, self._ahead)
            and (number + count) * BLOCK_BYTES < self.size
            and number + count not in self._blocks
        ):
            count += 1
        start = number * BLOCK_BYTES
        data = self._store.fetch(start, min(count * BLOCK_BYTES, self.size - start))
        blocks = [data[i : i + BLOCK_BYTES] for i in range(0, len(data), BLOCK_BYTES)]
        self._blocks.update(zip(range(number, number + count), blocks, strict=True))
        self._after = number + count
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return blocks[: last - number + 1]

    def _fetch_whole(self) -> str:
        """The path of a temporary file that goes with this object, and with its process even when that is killed."""
        self._refuse_without_space()
        for attempt in range(_TRIES):
            file = _nameless_file()
            try:
                with io.FileIO(file, "w", closefd=False) as writer, io.BufferedWriter(writer) as buffered:
                    for chunk in self._store.chunks():
                        buffered.write(chunk)
            except NetworkError:
                os.close(file)
                if self._store.ranges or attempt + 1 == _TRIES:
                    raise
                time.sleep(0.5 * 2**attempt)
            except OSError as error:
                os.close(file)
                raise VideoTooLargeError(f"{self.name}: cannot be kept in {tempfile.gettempdir()}: {error.strerror}") from error
            else:
                weakref.finalize(self, os.close, file)
                return f"/dev/fd/{file}"
        raise AssertionError("every attempt returns or raises")

    def _refuse_without_space(self) -> None:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if self._store.size is not None and self._store.size > free // 2:
            raise VideoTooLargeError(
                f"{self.name}: its {self._store.size} bytes must be fetched whole, and {tempfile.gettempdir()} has {free} bytes left"
            )


class _RangeFile(io.RawIOBase):
    """A place in a remote source."""

    def __init__(self, source: RemoteSource) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        wanted = self._source.size - self._position if size < 0 else size
        data = self._source.read_at(self._position, wanted)
        self._position += len(data)
        return data


def _nameless_file() -> int:
    """A descriptor of an open file that nobody can find, and that is therefore never left behind."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
