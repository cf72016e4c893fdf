"""Reading from an MLflow server by its REST API, without MLflow: importing that takes four seconds, longer than most answers.

``RestClient`` has those methods of MLflow's own client that reading needs, under the same names and with the same fields in what they
give, so the functions of ``versions`` take either. What only MLflow knows (other databases, sign-in by plug-ins, workspaces) stays with it.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from reelscribe.pipeline.tracking.connection import RefusedError, check_reachable, connect

_API = "/api/2.0/mlflow/"
_TIMEOUT_S = 120.0  # MLflow's default
_RETRIES = Retry(total=3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None, raise_on_status=False)
_CONNECTIONS = 8  # as many threads may ask at once
# With any of these, MLflow's own client signs the requests.
_SIGN_IN = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_WORKSPACE")


def connect_to_read(uri: str) -> Any:
    """A client for reading the store at ``uri``: a ``RestClient`` where that is enough, else MLflow's, after a check that it answers.

    Raises ServiceUnavailableError, ConfigError.
    """
    plugins = importlib.metadata.entry_points(group="mlflow.request_header_provider")
    if not uri.startswith(("http://", "https://")) or any(os.environ.get(name) for name in _SIGN_IN) or plugins:
        return connect(uri)
    check_reachable(uri)
    return RestClient(uri)


class Page(list[Any]):
    """Some results, and the token that asks for the next ones (empty: there are none), as MLflow's PagedList."""

    def __init__(self, results: list[Any], token: str) -> None:
        super().__init__(results)
        self.token = token


class RestClient:
    """What MLflow's client can read; may be used by several threads.

    Every method raises RefusedError for what the server says no to, and requests' errors where there is no answer.
    """

    parallel = True  # a server answers several requests at a time

    def __init__(self, uri: str) -> None:
        self._base = uri.rstrip("/") + _API
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=_RETRIES, pool_maxsize=_CONNECTIONS))
        self._session.headers["User-Agent"] = "reelscribe"
        self._session.verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not _flag("MLFLOW_TRACKING_INSECURE_TLS")
        self._session.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None
        user, password = _credentials()
        if user and password:
            self._session.auth = (user, password)
        elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            self._session.headers["Authorization"] = f"Bearer {token}"

    def search_registered_models(self, filter_string: str | None = None, *, max_results: int, page_token: str | None = None) -> Page:
        """A page of registered models, by name."""
        answer = self._get("registered-models/search", filter=filter_string, max_results=max_results, page_token=page_token)
        return Page([_model(one) for one in answer.get("registered_models", [])], answer.get("next_page_token", ""))

    def get_registered_model(self, name: str) -> SimpleNamespace:
        """One registered model."""
        return _model(self._get("registered-models/get", name=name)["registered_model"])

    def search_model_versions(
        self, filter_string: str | None = None, *, max_results: int, order_by: list[str] | None = None, page_token: str | None = None
    ) -> Page:
        """A page of versions, without their aliases."""
        asked = {"filter": filter_string, "max_results": max_results, "order_by": order_by, "page_token": page_token}
        answer = self._get("model-versions/search", **asked)
        return Page([_version(one) for one in answer.get("model_versions", [])], answer.get("next_page_token", ""))

    def get_model_version(self, name: str, version: str) -> SimpleNamespace:
        """One version."""
        return _version(self._get("model-versions/get", name=name, version=version)["model_version"])

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str = "",
        run_view_type: int = 1,
        max_results: int = 1000,
        page_token: str | None = None,
    ) -> Page:
        """A page of runs of some experiments."""
        view = {1: "ACTIVE_ONLY", 2: "DELETED_ONLY", 3: "ALL"}[run_view_type]
        asked = {"experiment_ids": experiment_ids, "filter": filter_string, "run_view_type": view, "max_results": max_results}
        answer = self._ask("POST", "runs/search", json=asked | ({"page_token": page_token} if page_token else {}))
        return Page([_run(one) for one in answer.get("runs", [])], answer.get("next_page_token", ""))

    def get_run(self, run_id: str) -> SimpleNamespace:
        """One run."""
        return _run(self._get("runs/get", run_id=run_id)["run"])

    def search_experiments(
        self, view_type: int, *, max_results: int, filter_string: str | None = None, page_token: str | None = None
    ) -> Page:
        """A page of experiments."""
        asked = {"view_type": view_type, "max_results": max_results, "filter": filter_string, "page_token": page_token}
        answer = self._get("experiments/search", **asked)
        return Page([SimpleNamespace(**one) for one in answer.get("experiments", [])], answer.get("next_page_token", ""))

    def _get(self, path: str, **asked: Any) -> dict[str, Any]:
        return self._ask("GET", path, params={key: value for key, value in asked.items() if value not in (None, "")})

    def _ask(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        response = self._session.request(method, self._base + path, timeout=_TIMEOUT_S, **content)
        try:
            answer = response.json()
        except requests.JSONDecodeError:
            answer = None
        if response.ok and isinstance(answer, dict):
            return answer
        said = answer if isinstance(answer, dict) else {}
        words = said.get("message") or f"it answers {response.status_code} {response.reason} to {path}"
        raise RefusedError(words, status=response.status_code if not response.ok else 502, error_code=said.get("error_code", ""))


def _credentials() -> tuple[str, str]:
    """User and password as MLflow finds them: its variables go before its file."""
    file = configparser.ConfigParser()
    file.read(Path("~/.mlflow/credentials").expanduser())
    kept = file["mlflow"] if file.has_section("mlflow") else {}
    names = ("mlflow_tracking_username", "mlflow_tracking_password")
    user, password = (os.environ.get(name.upper()) or kept.get(name, "") for name in names)
    return user, password


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1")


def _pairs(rows: list[dict[str, Any]] | None) -> dict[str, str]:
    return {row["key"]: row.get("value", "") for row in rows or []}


def _model(found: Mapping[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(
        name=found["name"],
        creation_timestamp=found["creation_timestamp"],
        last_updated_timestamp=found.get("last_updated_timestamp"),
        description=found.get("description"),
        latest_versions=[SimpleNamespace(version=one["version"]) for one in found.get("latest_versions", [])],
        aliases={one["alias"]: one["version"] for one in found.get("aliases", [])},
        tags=_pairs(found.get("tags")),
    )


def _version(found: Mapping[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(
        name=found["name"],
        version=found["version"],
        creation_timestamp=found["creation_timestamp"],
        status=found.get("status", "READY"),
        run_id=found.get("run_id"),
        source=found.get("source"),
        description=found.get("description"),
        tags=_pairs(found.get("tags")),
    )


def _run(found: Mapping[str, Any]) -> SimpleNamespace:
    data, info = found.get("data", {}), found["info"]
    # JSON has no NaN: the server writes it, and the infinities, as text
    metrics = {row["key"]: float(row.get("value", 0.0)) for row in data.get("metrics", [])}
    inputs = [
        SimpleNamespace(dataset=SimpleNamespace(**one["dataset"]), tags=[SimpleNamespace(**tag) for tag in one.get("tags", [])])
        for one in found.get("inputs", {}).get("dataset_inputs", [])
    ]
    return SimpleNamespace(
        info=SimpleNamespace(run_id=info["run_id"], run_name=info.get("run_name", ""), status=info.get("status", ""), **_times(info)),
        data=SimpleNamespace(metrics=metrics, params=_pairs(data.get("params")), tags=_pairs(data.get("tags"))),
        inputs=SimpleNamespace(dataset_inputs=inputs),
    )


def _times(info: Mapping[str, Any]) -> dict[str, Any]:
    return {"experiment_id": info["experiment_id"], "start_time": info.get("start_time"), "end_time": info.get("end_time")}
