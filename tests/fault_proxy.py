"""A proxy on the loopback that stands between a client and a server and passes on their bytes, with faults."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socketserver import BaseRequestHandler, ThreadingTCPServer

from loopback import running

BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class FaultProxy:
    """What befalls the answers. Without faults it only passes them on."""

    address: str = ""
    cuts: float = 0  # so many connections more are cut
    stalls: float = 0  # so many connections more fall silent and stay open
    after_bytes: int = 0  # of an answer's connection, before it is cut or falls silent
    bytes_per_s: float = float("inf")  # of each connection
    unavailable: bool = False  # every request is answered that the server is too busy
    faults: int = 0  # that took place
    stop: threading.Event = field(default_factory=threading.Event)

    def take_fault(self) -> str:
        """What is to happen to a connection that has had its bytes."""
        for kind in ("cuts", "stalls"):
            if getattr(self, kind) > 0:
                setattr(self, kind, getattr(self, kind) - 1)
                self.faults += 1
                return kind
        return ""


@contextmanager
def between(server: str) -> Iterator[FaultProxy]:
    """A proxy in front of the server at ``http://HOST:PORT``."""
    host, _, port = server.removeprefix("http://").partition(":")
    state = FaultProxy()

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            if state.unavailable:
                state.faults += 1
                self.request.recv(65536)
                self.request.sendall(BUSY)
                return
            with socket.create_connection((host, int(port))) as upstream:
                asking = threading.Thread(target=pump, args=(self.request, upstream), daemon=True)
                asking.start()
                self.answer(upstream)
                for side in (self.request, upstream):  # wakes the thread
                    with suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)
                asking.join()

        def answer(self, upstream: socket.socket) -> None:
            passed = 0
            while piece := upstream.recv(min(65536, max(1, int(min(state.bytes_per_s, 1e6) / 10)))):
                if state.unavailable:  # a connection that was open before
                    return
                fault = state.take_fault() if passed + len(piece) > state.after_bytes else ""
                if fault:
                    self.request.sendall(piece[: max(0, state.after_bytes - passed)])
                    if fault == "stalls":
                        state.stop.wait(60)
                    return
                with suppress(ConnectionError):
                    self.request.sendall(piece)
                passed += len(piece)
                if state.stop.wait(len(piece) / state.bytes_per_s):
                    return

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as proxy, running(proxy, state.stop) as state.address:
        yield state


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
