"""The files of a model and their digests: what makes a download complete."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from reelscribe.pipeline.bundle import SPEC_FILE, WEIGHTS_FILE, file_digest
from reelscribe.pipeline.errors import ModelError

# where register_model puts the model folder inside MLflow's model folder
FOLDER_IN_MLFLOW_MODEL = "data/bundle"


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file under ``folder``, by its path there with ``/``."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def combined_digest(digests: Mapping[str, str]) -> str:
    """One SHA-256 over names and digests, in the format of sha256sum, sorted by name."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def find_bundle(folder: Path, what: str) -> Path:
    """The model folder in ``folder``: itself, or inside a model that MLflow saved. Raises ModelError."""
    for candidate in (folder, folder / FOLDER_IN_MLFLOW_MODEL):
        if (candidate / SPEC_FILE).is_file() and (candidate / WEIGHTS_FILE).is_file():
            return candidate
    if (folder / "MLmodel").is_file():
        raise ModelError(f"{what} is a model of another tool: it has no {SPEC_FILE} and {WEIGHTS_FILE} under {FOLDER_IN_MLFLOW_MODEL}")
    raise ModelError(f"{what} holds no model: expected {SPEC_FILE} and {WEIGHTS_FILE} in {folder}")


def verify(bundle: Path, expected: str | None, what: str) -> None:
    """Compare a model folder with the digest it was registered under. Raises ModelError when they differ."""
    if expected is not None and combined_digest(file_digests(bundle)) != expected:
        raise ModelError(
            f"the files of {what} in {bundle} are not those that were registered (SHA-256 differs); "
            "they were changed or only partly copied: restore them, or register the model again"
        )
