"""`mlflow server` as a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

DATABASE = "server.db"
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ends_with_parent() -> None:
    """In a new process: it is told to end when the one that started it dies, however that dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class MlflowServer:
    """`mlflow server` at 127.0.0.1, in a process group of its own; what it says goes to a file."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        workers: int = 1,
        backend: str = "",
        artifacts: str = "",
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes for jobs that nobody submits
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **(environment or {}),
        }
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
        self._command += ["--backend-store-uri", backend or f"sqlite:///{folder / DATABASE}"]
        self._command += ["--artifacts-destination", artifacts or str(folder / "artifacts"), *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self._folder / "server.log"
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=ends_with_parent,
            )
        deadline = time.monotonic() + 180
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.2)
        self.kill()
        pytest.fail(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it in order, and what is left of it at once."""
        if self._process is not None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=20)
            self.kill()

    def kill(self) -> None:
        """End all its processes as the kernel does."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(timeout=20)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def running_server(folder: Path, port: int, *, workers: int = 1) -> Iterator[str]:
    """A server on SQLite, artifacts behind it; its URI."""
    server = MlflowServer(folder, port, workers=workers)
    try:
        server.start()
        yield server.uri
    finally:
        server.stop()
