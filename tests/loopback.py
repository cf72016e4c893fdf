"""Servers of the tests, in threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from socketserver import ThreadingTCPServer


@contextmanager
def running(server: ThreadingTCPServer | ThreadingHTTPServer, stop: threading.Event) -> Iterator[str]:
    """The address of a server that answers until the block ends; ``stop`` then wakes what waits in it."""
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stop.set()
        server.shutdown()
        thread.join()
