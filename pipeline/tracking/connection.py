"""How to reach MLflow: a bounded check first, one quiet client, and its errors in words a person can use."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import queue
import socket
import sqlite3
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from reelscribe.pipeline.errors import ConfigError, ModelError, ServiceUnavailableError
from reelscribe.pipeline.tracking.uri import redact, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

WAIT_S = 10.0
_ATTEMPT_S = 4.0
_PAUSE_S = 1.5
_LOCK_S = 60.0  # making a store takes about 2 s, on a busy machine some more
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# A tool's console is not MLflow's: no links with emoji, no progress bars. And it calls nobody who was not asked for.
_QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def connect(uri: str, *, create: bool = False) -> MlflowClient:
    """A client of the store at ``uri``, after a check of at most about 10 s that it answers.

    ``create`` allows a new SQLite file (about 2 s for its tables); without it a file that is absent is an error, because it
    cannot hold what is looked for. Importing MLflow takes about 5 s, so the check comes first.
    Raises ServiceUnavailableError, ConfigError for an URI that MLflow does not know.
    """
    check_reachable(uri, create=create)
    with quiet():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        quieten_loggers()  # importing MLflow set them up
        try:
            with tracking_errors(uri), _one_at_a_time(uri):
                return MlflowClient(tracking_uri=uri, registry_uri=uri)
        except MlflowException as error:
            raise ConfigError(f"tracking.uri '{redact(uri)}': {error}") from error


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Two processes that open a new SQLite file together would both make its tables (MLflow's own lock does not cover all of it)."""
    if not uri.startswith("sqlite:") or not os.access(sqlite_file(uri).parent, os.W_OK):
        yield
        return
    lock = FileLock(f"{sqlite_file(uri)}.lock", timeout=_LOCK_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise ServiceUnavailableError(
            f"the tracking store {sqlite_file(uri)} is held by another process for {_LOCK_S:g} s (its lock: {lock.lock_file}); "
            "stop the process that is opening it, then try again"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow's warnings about its own code and its messages off the console while it is imported or writes a model."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    quieten_loggers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def quieten_loggers() -> None:
    """Leave only errors of MLflow's loggers (its warnings are about pip and conda), unless ``MLFLOW_LOGGING_LEVEL`` asks for more."""
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.ERROR)


def check_reachable(uri: str, *, create: bool = False, wait_s: float = WAIT_S) -> None:
    """Return if the store answers within ``wait_s`` seconds, whatever MLflow's own retry settings are.

    Any HTTP answer below 500 counts: who may log in is checked by the first real call. Raises ServiceUnavailableError.
    """
    scheme = urllib.parse.urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite":
        _check_sqlite(uri, create=create)
    elif scheme in ("http", "https", *_DATABASE_PORTS):
        _check_network(uri, wait_s)


def _check_network(uri: str, wait_s: float) -> None:
    """Ask in a thread of its own, because name look-up and a server that trickles bytes know no time limit."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_ask_until(uri, time.monotonic() + wait_s - 0.5)), daemon=True).start()
    try:
        problem = answers.get(timeout=wait_s)
    except queue.Empty:
        problem = "no answer"
    if problem:
        raise ServiceUnavailableError(
            f"the tracking server {redact(uri)} does not answer ({problem}; waited up to {wait_s:g} s); start it, or correct "
            "tracking.uri or MLFLOW_TRACKING_URI; with neither set, runs go to SQLite in the output folder"
        )


def _ask_until(uri: str, deadline: float) -> str:
    """Empty once the server answers, else the last problem at the deadline or after three refusals."""
    problem = "no answer"
    for attempt in range(3):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        if attempt:
            time.sleep(min(_PAUSE_S, left))
        problem = _ask(uri, max(0.1, min(_ATTEMPT_S, deadline - time.monotonic())))
        if not problem:
            break
    return problem


def _ask(uri: str, timeout_s: float) -> str:
    """One attempt: empty, or what went wrong."""
    parts = urllib.parse.urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            path = parts.path.rstrip("/") + "/health"
            target = urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))
            request = urllib.request.Request(target, headers={"User-Agent": "reelscribe"})  # noqa: S310 - http and https only
            context = _tls() if parts.scheme == "https" else None
            with urllib.request.urlopen(request, timeout=timeout_s, context=context):  # noqa: S310
                return ""
        port = parts.port or _DATABASE_PORTS[parts.scheme.partition("+")[0]]
        with socket.create_connection((parts.hostname or "localhost", port), timeout=timeout_s):
            return ""
    except urllib.error.HTTPError as error:
        return "" if error.code < 500 else f"it answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return _problem(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _problem(error)


def _tls() -> ssl.SSLContext:
    """TLS as MLflow's documented variables say."""
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client := os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        context.load_cert_chain(client)
    return context


def _problem(reason: object) -> str:
    """A network failure in a few words."""
    match reason:
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused"
        case socket.gaierror():
            return "unknown host name"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {reason.verify_message}; see MLFLOW_TRACKING_SERVER_CERT_PATH"
        case _:
            return str(reason) or type(reason).__name__


def _check_sqlite(uri: str, *, create: bool) -> None:
    """The file is there (or may be made) and is a database; MLflow alone would try for minutes."""
    file = sqlite_file(uri)
    if not file.exists():
        if not create:
            raise ServiceUnavailableError(
                f"there is no tracking store at {file}: nothing was trained or registered there; "
                "set MLFLOW_TRACKING_URI or the output folder to where it was"
            )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceUnavailableError(f"cannot make the folder of the tracking store {file}: {error}") from error
    try:
        with contextlib.closing(sqlite3.connect(file, timeout=5.0)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise ServiceUnavailableError(f"the tracking store {file} cannot be opened: {error}") from error


class RefusedError(Exception):
    """A server's no to a request by ``rest``; ``error_code`` is MLflow's (``RESOURCE_DOES_NOT_EXIST``)."""

    def __init__(self, message: str, *, status: int, error_code: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code


def refusals() -> tuple[type[Exception], ...]:
    """The errors by which a store that works says no: to a name, a value, a user."""
    return RefusedError, *_imported("mlflow.exceptions", "MlflowException")


def _imported(module: str, name: str) -> tuple[type[Exception], ...]:
    """The error of that name; none where its module was not imported, as then nobody can have raised it, and importing takes seconds."""
    return (getattr(sys.modules[module], name),) if module in sys.modules else ()


@contextlib.contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn failures of the store itself into ReelScribe's errors; what it says of names and values (``refusals``) passes through."""
    try:
        yield
    except refusals() as error:
        if is_forbidden(error):
            raise ServiceUnavailableError(
                f"the tracking server {redact(uri)} does not allow this user to do that; ask for the permission, or sign in as another "
                "user by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from error
        if getattr(error, "error_code", "") == "UNAUTHENTICATED" or _status(error) == 401:
            raise ServiceUnavailableError(
                f"the tracking server {redact(uri)} refuses this user; check MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from error
        if _is_outage(error):
            raise ServiceUnavailableError(f"the tracking server {redact(uri)} failed: {first_line(error)}") from error
        raise
    except (*_imported("requests", "RequestException"), *_imported("sqlalchemy.exc", "SQLAlchemyError")) as error:
        raise ServiceUnavailableError(f"the tracking store {redact(uri)} failed: {first_line(error)}") from error


@contextlib.contextmanager
def model_errors(uri: str, what: str) -> Iterator[None]:
    """As ``tracking_errors``, and everything else that the store says becomes a ModelError about ``what``."""
    try:
        with tracking_errors(uri):
            yield
    except refusals() as error:
        raise ModelError(f"{what}: {first_line(error)}") from error


def is_forbidden(error: Exception) -> bool:
    """Whether a store knows this user and says no."""
    return getattr(error, "error_code", "") == "PERMISSION_DENIED" or _status(error) == 403


def _is_outage(error: Exception) -> bool:
    """Whether MLflow gave up on a server (it has no error class of its own for that)."""
    text = str(error)
    return any(sign in text for sign in ("Max retries exceeded", "Read timed out", "failed with exception", "OperationalError")) or (
        _status(error) >= 500 and "RESOURCE" not in text
    )


def _status(error: Exception) -> int:
    """The HTTP status; MLflow puts it into a text (``failed with error code 401 != 200``), or says none (0)."""
    if isinstance(error, RefusedError):
        return error.status
    words = str(error).partition("failed with error code ")[2].split()
    return int(words[0]) if words and words[0].isdigit() else 0


def first_line(error: Exception) -> str:
    """The first line of an error, without passwords."""
    return redact(str(error).strip().partition("\n")[0]) or type(error).__name__
