"""The few bytes that supervisor and worker exchange over their socket pair. Frames go by shared memory, not through here."""

from __future__ import annotations

import socket
import struct
from enum import IntEnum

HEADER = struct.Struct("<BQQ")  # kind, bytes of the pickled part, bytes in all


class Kind(IntEnum):
    """What follows a header."""

    REQUEST = 1  # a pickled ClipRequest, in the socket
    READY = 2  # nothing
    RESULT = 3  # a descriptor of shared memory with a clip or a failure
    LAST_RESULT = 4  # the same, and the worker exits: its memory has grown


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """``count`` bytes. Raises EOFError where the other end closes before."""
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
