"""Whether a file is as long as its own header says: the plainest sign of a download or a recording that was cut.

FFmpeg plays what is there of such a file, and the clip would silently be a shorter one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from reelscribe.pipeline.video.types import Source

_BOXES_OF_A_VIDEO = {b"moov", b"mdat", b"moof"}
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


def missing_bytes(source: Source) -> int:
    """Bytes that an ISO media file (MP4, MOV), a Matroska or a RIFF file (AVI) promises beyond its end; 0 for other containers."""
    size = source.size
    with source.open() as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            end = 8 + int.from_bytes(head[4:8], "little")
        elif head[:4] == _EBML:
            end = _segment_end(file)
        elif starts_like_boxes(head):
            end = _boxes_end(file, size)
        else:
            end = 0
    return max(0, end - size)


def starts_like_boxes(head: bytes) -> bool:
    """Whether the first bytes are those of an ISO media file."""
    return head[4:8].isalpha() and head[4:8].isascii()


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last top-level box ends, if it is one that a video needs."""
    kind, end = b"", 0
    for kind, _, end in boxes(file, size):  # noqa: B007
        pass
    return end if end <= size or kind in _BOXES_OF_A_VIDEO else 0


def boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of the content, end) of each box (ISO/IEC 14496-12, 4.2), up to what is no box; the last may end beyond the file."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, kind, content = int.from_bytes(head[:4], "big"), head[4:8], start + 8
        if length == 1 and len(head) == 16:
            length, content = int.from_bytes(head[8:], "big"), start + 16
        elif length == 0:
            length = size - start  # to the end of the file
        if length < 8 or not kind.isascii():
            return
        yield kind, content, start + length
        start += length


def _segment_end(file: BinaryIO) -> int:
    """Where the Matroska segment ends (RFC 8794: the length of a number is told by its leading zero bits); 0 where it does not say."""
    file.seek(4)
    header_length = _number(file)
    if header_length is None:
        return 0
    file.seek(header_length, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length = _number(file)
    return 0 if length is None else file.tell() + length


def _number(file: BinaryIO) -> int | None:
    """An EBML number; None where it is unknown (all ones: a live recording) or cut."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    raw = first + file.read(width - 1)
    value = struct.unpack(">Q", raw.rjust(8, b"\0"))[0] & ((1 << 7 * width) - 1)
    return None if len(raw) < width or value == (1 << 7 * width) - 1 else int(value)
