"""A store that cannot be reached is one clear line after a bounded wait."""

from __future__ import annotations

import http.server
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow_server import free_port

from reelscribe.pipeline.errors import ConfigError, ServiceUnavailableError
from reelscribe.pipeline.tracking import connection
from reelscribe.pipeline.tracking.connection import check_reachable, connect
from reelscribe.pipeline.tracking.registry import list_models
from reelscribe.pipeline.tracking.rest import RestClient, connect_to_read
from reelscribe.pipeline.tracking.versions import ALL_STAGES


class _Answers(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (_Answers,), {"status": request.param})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://user:geheim@127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg2"])
def test_a_closed_port_is_refused_with_advice(scheme: str) -> None:
    uri = f"{scheme}://me:geheim@127.0.0.1:{free_port()}/x"
    with pytest.raises(ServiceUnavailableError, match=r"connection refused.*MLFLOW_TRACKING_URI") as caught:
        check_reachable(uri, wait_s=3)
    assert "127.0.0.1" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_port_that_accepts_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServiceUnavailableError, match="no answer"):
        list_models(uri=f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_server_that_trickles_bytes_is_bounded_too() -> None:
    stop = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not stop.wait(0.2):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,), daemon=True)
        thread.start()
        with pytest.raises(ServiceUnavailableError, match="no answer"):
            check_reachable(f"http://127.0.0.1:{server.getsockname()[1]}", wait_s=1.5)
        stop.set()
        thread.join()


@pytest.mark.parametrize("answering", [200, 401, 404], indirect=True)
def test_any_answer_of_a_live_server_counts(answering: str) -> None:
    check_reachable(answering, wait_s=5)


@pytest.mark.parametrize(
    ("answering", "says"), [(401, "refuses this user"), (403, "does not allow this user to do that")], indirect=["answering"]
)
def test_a_wrong_password_is_one_clear_line(answering: str, says: str) -> None:
    with pytest.raises(ServiceUnavailableError, match=rf"{says}.*MLFLOW_TRACKING_PASSWORD") as caught:
        list_models(uri=answering)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("answering", [503], indirect=True)
def test_a_proxy_without_its_server_does_not_count(answering: str) -> None:
    with pytest.raises(ServiceUnavailableError, match="503"):
        check_reachable(answering, wait_s=5)  # on a busy machine an answer takes its time


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"no-such-host\.invalid"):
        check_reachable("http://no-such-host.invalid:5000", wait_s=2)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_text("not a database, but long enough to look like one " * 20)
    with pytest.raises(ServiceUnavailableError, match="cannot be opened"):
        connect(f"sqlite:///{file}", create=True)


def test_reading_never_makes_a_store(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailableError, match="nothing was trained"):
        list_models(uri=f"sqlite:///{tmp_path}/runs/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceUnavailableError, match="cannot make the folder"):
        connect(f"sqlite:///{tmp_path}/file/mlflow.db", create=True)


def test_a_store_of_another_version_of_mlflow_is_said_in_one_line(tmp_path: Path, sqlite_uri: str) -> None:
    connect(sqlite_uri, create=True)
    old = tmp_path / "old.db"
    old.write_bytes(Path(sqlite_uri.removeprefix("sqlite:///")).read_bytes())
    with sqlite3.connect(old) as database:
        database.execute("UPDATE alembic_version SET version_num = '0000'")
    database.close()
    with pytest.raises(ConfigError, match="mlflow db upgrade"):
        connect(f"sqlite:///{old}")


def test_a_store_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LOCK_S", 0.2)
    with FileLock(tmp_path / "mlflow.db.lock"), pytest.raises(ServiceUnavailableError, match="held by another process"):
        connect(f"sqlite:///{tmp_path}/mlflow.db", create=True)


def test_what_is_read_without_mlflow_is_named_as_mlflow_names_it() -> None:
    assert ALL_STAGES == ViewType.ALL


def test_reading_from_a_server_leaves_mlflow_alone(server_uri: str) -> None:
    code = (
        "import sys; from reelscribe.pipeline.tracking.registry import list_models; from reelscribe.pipeline.tracking.query import *; "
        f"list_models(uri={server_uri!r}); query_versions('metrics.x > 1', uri={server_uri!r}); print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_sign_in_by_a_plug_in_stays_with_mlflow(server_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(connect_to_read(server_uri), RestClient)
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    assert isinstance(connect_to_read(server_uri), MlflowClient)
