"""A web server on the loopback that serves a folder by ranges, counts the bytes it sends, and misbehaves where the address says so."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from loopback import running


@dataclass
class RangeServer:
    """``/FAULT/NAME`` serves the file NAME with a fault; ``/plain/NAME`` without."""

    folder: Path
    address: str = ""
    sent: int = 0
    requests: Counter[str] = field(default_factory=Counter)  # by path
    stop: threading.Event = field(default_factory=threading.Event)

    def uri(self, name: str, fault: str = "plain") -> str:
        return f"{self.address}/{fault}/{name}"


@contextmanager
def serve(folder: Path) -> Iterator[RangeServer]:
    state = RangeServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if state.stop.is_set():
                self.close_connection = True
                return
            state.requests[self.path] += 1
            _, fault, name = self.path.split("/", 2)
            if fault.isdigit():
                self.refuse(int(fault))
            elif fault == "moved":
                self.send_response(302)
                self.send_header("Location", f"/plain/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif fault == "busy" and state.requests[self.path] % 2:
                self.refuse(503)
            elif fault == "silent":
                state.stop.wait(30)
                self.close_connection = True
            else:
                self.give((state.folder / name).read_bytes(), fault)

        def refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def give(self, data: bytes, fault: str) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            part = data
            if wanted and fault != "whole":
                first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
                if first > last:
                    self.refuse(416)
                    return
                part = data[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            else:
                self.send_response(200)
            if fault != "anonymous":
                changed = state.requests[self.path] if fault == "changing" else 0
                self.send_header("ETag", f'"{len(data)}-{changed}"')
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            cut = len(part) > 1 and (fault == "cut" or (fault == "flaky" and state.requests[self.path] % 2))
            shown = part[: len(part) // 2] if cut else part
            self.close_connection = self.close_connection or cut
            try:
                self.wfile.write(shown)
                state.sent += len(shown)
            except ConnectionError:  # the client has what it wanted
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, running(server, state.stop) as state.address:
        yield state
