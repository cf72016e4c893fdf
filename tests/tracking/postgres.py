"""A PostgreSQL cluster of the test's own: not the machine's, on the loopback, as a user without rights."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from mlflow_server import ends_with_parent, free_port

from optional import lacking

PASSWORD = "secret"


def _program(name: str) -> str:
    """A program of PostgreSQL's server, which Debian keeps out of the PATH. Skips where there is none, fails there on CI."""
    found = shutil.which(name) or next((str(file) for file in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[::-1]), None)
    if found is None:
        lacking(f"PostgreSQL's {name} is not installed (Debian: apt-get install postgresql)")
    return found


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """The URI of an empty database."""
    initdb, postgres = _program("initdb"), _program("postgres")
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # PostgreSQL refuses root
    identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    with tempfile.TemporaryDirectory(prefix="reelscribe-postgres-") as temporary:  # pytest's own folders are closed to other users
        folder = Path(temporary)
        password = folder / "password"
        password.write_text(PASSWORD)
        if owner:
            for path in (folder, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        data, port, log = folder / "data", free_port(), folder / "log"
        command = [initdb, "--pgdata", str(data), "--username", "tests", "--pwfile", str(password), "--auth", "scram-sha-256"]
        made = subprocess.run(
            [*command, "--no-sync", "--encoding", "UTF8", "--locale", "C"],
            **identity,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=folder,
        )
        assert made.returncode == 0, made.stderr
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        command = [
            postgres,
            "-D",
            str(data),
            "-p",
            str(port),
            *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
        ]
        with log.open("wb") as said:
            server = subprocess.Popen(
                command,
                **identity,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                preexec_fn=ends_with_parent,
            )
        try:
            uri = f"postgresql+psycopg2://tests:{PASSWORD}@127.0.0.1:{port}/postgres"
            _await(uri, server, log)
            yield uri
        finally:
            _stop(server)


def _await(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        with (
            contextlib.suppress(psycopg2.OperationalError),
            contextlib.closing(psycopg2.connect(uri.replace("+psycopg2", ""), connect_timeout=5)),
        ):
            return
        time.sleep(0.1)
    pytest.fail(f"PostgreSQL did not start:\n{log.read_text()[-2000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Its own processes end with it: fast, else at once."""
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        server.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=15)
            return
