"""Which tracking store: a server by URI, or SQLite in a folder of the user's. Nothing here imports MLflow."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path

from reelscribe.pipeline.errors import ConfigError, nearest

DATABASE_FILE = "mlflow.db"
ARTIFACT_FOLDER = "artifacts"
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def tracking_uri(configured: str, folder: str) -> str:
    """The tracking store's URI: the configured one, else ``MLFLOW_TRACKING_URI``, else SQLite in ``folder``, always absolute.

    Raises ConfigError for a folder of files (MLflow no longer keeps runs so) and for an unknown kind of store.
    """
    chosen = configured.strip() or os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not chosen:
        return f"sqlite:///{Path(folder).resolve() / DATABASE_FILE}"
    if chosen.startswith("sqlite:"):
        return f"sqlite:///{sqlite_file(chosen)}"
    kind = urllib.parse.urlsplit(chosen).scheme.partition("+")[0]
    if kind in _SCHEMES or chosen == "databricks":
        return chosen
    if kind in ("", "file"):
        raise ConfigError(
            f"tracking.uri '{redact(chosen)}' is a path, and MLflow no longer keeps runs in plain files; "
            f"for a file try sqlite:///{Path(chosen.removeprefix('file://')).absolute() / DATABASE_FILE}, for a server http://host:port"
        )
    raise ConfigError(f"tracking.uri '{redact(chosen)}': unknown kind '{kind}'{nearest(kind, _SCHEMES)} (known: {', '.join(_SCHEMES)})")


def sqlite_file(uri: str) -> Path:
    """The absolute path of the database in a ``sqlite:`` URI. Raises ConfigError where it names none."""
    if not uri.startswith("sqlite:///") or uri in ("sqlite:///", "sqlite:///:memory:"):
        raise ConfigError(f"tracking.uri '{uri}' names no file; try sqlite:///{Path(DATABASE_FILE).absolute()}")
    return Path(uri.removeprefix("sqlite:///")).absolute()


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where a new experiment keeps its files: a folder beside the SQLite database; a server decides for itself (None)."""
    if not uri.startswith("sqlite:"):
        return None
    # MLflow's own default would be ./mlruns in whatever folder the command was started from
    return (sqlite_file(uri).parent / ARTIFACT_FOLDER / re.sub(r"[^\w.-]", "_", experiment)).as_uri()


def redact(text: str) -> str:
    """The text without the passwords inside its URLs."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)
