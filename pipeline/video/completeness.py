"""Whether a file is as long as its own header says: the plainest sign of a download or a recording that was cut.

FFmpeg plays what is there of such a file, and the clip would silently be a shorter one.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_BOXES_OF_A_VIDEO = {b"moov", b"mdat", b"moof"}
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


def missing_bytes(path: str) -> int:
    """Bytes that an ISO media file (MP4, MOV), a Matroska or a RIFF file (AVI) promises beyond its end; 0 for other containers."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            end = 8 + int.from_bytes(head[4:8], "little")
        elif head[:4] == _EBML:
            end = _segment_end(file)
        elif head[4:8].isalpha():
            end = _boxes_end(file, size)
        else:
            end = 0
    return max(0, end - size)


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last top-level box ends (ISO/IEC 14496-12, 4.2), if it is one that a video needs."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # to the end of the file
            return size
        if length < 8 or not kind.isascii():
            return 0  # no boxes any more
        if start + length > size:
            return start + length if kind in _BOXES_OF_A_VIDEO else 0
        start += length
    return start


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
