"""An S3 server on the loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

# What a client must know; ``AWS_ENDPOINT_URL``, the address, besides.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
}


@contextmanager
def serve(words: Path) -> Iterator[str]:
    """Its address. What it says goes to the file ``words``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with words.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=file, stderr=file)
        try:
            address = f"http://127.0.0.1:{port}"
            _await(address, process)
            yield address
        finally:
            process.kill()
            process.wait()


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the S3 server has ended"
        try:
            urllib.request.urlopen(address + "/moto-api/").close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the S3 server does not start")


def client(address: str) -> fs.S3FileSystem:
    """To fill it with; needs ENVIRONMENT."""
    return fs.S3FileSystem(endpoint_override=address, region="us-east-1", allow_bucket_creation=True)
