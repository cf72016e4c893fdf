"""The model registry: list, show, promote; and the names that the rest of ReelScribe uses."""

from __future__ import annotations

from dataclasses import dataclass

from reelscribe.pipeline.bundle import CARD_FILE
from reelscribe.pipeline.errors import ModelError, ReelScribeError
from reelscribe.pipeline.tracking.connection import connect, model_errors
from reelscribe.pipeline.tracking.fetch import ResolvedModel, fetch_model
from reelscribe.pipeline.tracking.references import VersionReference, parse_name
from reelscribe.pipeline.tracking.register import register_model
from reelscribe.pipeline.tracking.versions import (
    ModelVersion,
    RegisteredModel,
    all_models,
    registered_model,
    resolve_version,
)

__all__ = [
    "ModelDetails",
    "ModelVersion",
    "Promotion",
    "RegisteredModel",
    "ResolvedModel",
    "fetch_model",
    "list_models",
    "promote",
    "register_model",
    "show_model",
]


@dataclass(frozen=True, kw_only=True)
class ModelDetails:
    """A version with its surroundings."""

    model: RegisteredModel
    version: ModelVersion
    card: str  # Markdown; empty where the files cannot be reached, then `problem` says why
    problem: str


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A move of an alias."""

    name: str
    alias: str
    before: int | None  # version; None where the alias is new
    after: int


def list_models(*, uri: str) -> list[RegisteredModel]:
    """Every registered model, by name."""
    return list(all_models(connect(uri), uri))


def show_model(model: str, *, uri: str) -> ModelDetails:
    """A version in full; a bare name shows its ``@champion``, or the newest version where it has none.

    Raises ModelError, ServiceUnavailableError.
    """
    client = connect(uri)
    reference = parse_name(model)
    found = registered_model(client, uri, reference.name)
    if reference.alias is None and reference.version is None:
        reference = VersionReference(name=found.name, version=found.aliases.get("champion", found.latest_version))
    version = resolve_version(client, uri, reference)
    card, problem = "", ""
    try:
        file = fetch_model(f"models:/{version.name}/{version.version}", uri=uri).folder / CARD_FILE
        card = file.read_text(encoding="utf-8") if file.is_file() else ""
    except ReelScribeError as error:  # what the registry knows is worth showing without the files
        problem = str(error)
    return ModelDetails(model=found, version=version, card=card, problem=problem)


def promote(model: str, *, to: str, uri: str) -> Promotion:
    """Move an alias to a version (``models:/NAME/VERSION`` or ``models:/NAME@OTHER``).

    Raises ModelError for an unknown version, one that is not ready, or an alias that MLflow does not allow.
    """
    client = connect(uri)
    version = resolve_version(client, uri, parse_name(model))
    if version.status != "READY":
        raise ModelError(f"{version.name} version {version.version} is not ready (MLflow says {version.status})")
    before = registered_model(client, uri, version.name).aliases.get(to)
    if before != version.version:
        with model_errors(uri, f"alias '{to}'"):
            client.set_registered_model_alias(version.name, to, str(version.version))
    return Promotion(name=version.name, alias=to, before=before, after=version.version)
