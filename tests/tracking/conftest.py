"""A real MLflow server, a real SQLite store, a real (tiny) model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import DATABASE, free_port, running_server

from reelscribe.pipeline.bundle import BundleSpec, ModelBundle, new_recognizer, save_bundle
from reelscribe.pipeline.config import ModelConfig, TransformConfig
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.tracking.connection import quiet


@pytest.fixture(scope="session", autouse=True)
def mlflow_imported() -> None:
    """MLflow warns about its own code when these are imported; the tests use its client as a user would."""
    with quiet():
        import mlflow.pyfunc
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store in a folder with a blank and an umlaut in its name; the file is made by the first who writes."""
    return f"sqlite:///{tmp_path_factory.mktemp('Läufe mit Leerzeichen')}/mlflow.db"


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server_uri(server_folder: Path) -> Iterator[str]:
    with running_server(server_folder, free_port()) as uri:
        yield uri


@pytest.fixture(scope="session")
def server_database(server_folder: Path, server_uri: str) -> Path:
    return server_folder / DATABASE


@pytest.fixture(params=["sqlite", "server"])
def uri(request: pytest.FixtureRequest) -> str:
    """Each kind of store in turn."""
    return str(request.getfixturevalue(f"{request.param}_uri"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Downloads land in a folder of the test's, and nobody's environment names a server."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("REELSCRIBE_CACHE", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder / "models"


def tiny_spec(**changes: object) -> BundleSpec:
    """A model small enough to build in milliseconds."""
    fields: dict[str, object] = {
        "name": "tiny",
        "labels": ("left", "right", "winken üben"),
        "model": ModelConfig(encoder="tiny", weights="none", stride=4, projection=8, hidden_size=16, recurrent="gru", dropout=0.0),
        "sampling": UniformSampling(num_frames=4),
        "transform": TransformConfig(height=16, width=16),
        "metrics": {"top1": 0.93},
        "label_measure": "recall",
        "label_scores": {"left": 0.25, "right": 1.0, "winken üben": 0.5},
        "data_digest": "d" * 64,
        "config_digest": "c" * 64,
        "git_commit": "a" * 40,
    }
    return BundleSpec.model_validate(fields | changes)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """A complete model folder with random weights."""
    spec = tiny_spec()
    state = new_recognizer(spec.model, spec.transform, num_classes=len(spec.labels), seed=5).state_dict()
    return save_bundle(tmp_path_factory.mktemp("model") / "tiny", spec=spec, state=state, card="# Tiny\n\nFor tests.\n")
