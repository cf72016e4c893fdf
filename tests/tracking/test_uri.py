"""Which store is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from reelscribe.pipeline.errors import ConfigError
from reelscribe.pipeline.tracking.uri import artifact_location, redact, tracking_uri


def test_configured_goes_before_the_environment_before_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:5000")
    assert tracking_uri("http://configured:5000", str(tmp_path)) == "http://configured:5000"
    assert tracking_uri("", str(tmp_path)) == "http://environment:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert tracking_uri("", str(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri("", "runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_uri("sqlite:///here.db", "runs") == f"sqlite:///{tmp_path}/here.db"
    assert tracking_uri(f"sqlite:///{tmp_path}/a.db", "runs") == f"sqlite:///{tmp_path}/a.db"


@pytest.mark.parametrize(
    ("configured", "says"),
    [
        ("mlruns", "sqlite:///"),
        ("file:///tmp/mlruns", "sqlite:///"),
        ("htpp://host:5000", "did you mean 'http'"),
        ("sqlite:///", "names no file"),
        ("sqlite://host/x.db", "names no file"),
        ("ftp://me:secret@host/x", "\\*\\*\\*@host"),
    ],
)
def test_what_cannot_be_a_store_is_refused(configured: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        tracking_uri(configured, "runs")
    assert "secret" not in str(caught.value)


def test_artifacts_lie_beside_the_database() -> None:
    assert artifact_location("sqlite:////data/my runs/mlflow.db", "a/b c") == "file:///data/my%20runs/artifacts/a_b_c"
    assert artifact_location("http://host:5000", "x") is None


def test_passwords_are_never_shown() -> None:
    assert redact("train x tracking.uri=http://me:pass@host:1/p y") == "train x tracking.uri=http://***@host:1/p y"
