"""The model registry: list, show, compare, promote, roll back; and the names that the rest of ReelScribe uses."""

from __future__ import annotations

import time
from dataclasses import dataclass

from reelscribe.pipeline.bundle import CARD_FILE
from reelscribe.pipeline.errors import ModelError, ReelScribeError
from reelscribe.pipeline.tracking.aliases import AliasMove, Promotion, last_standing_move, move_alias, move_alias_from, moves_of
from reelscribe.pipeline.tracking.comparison import LabelChange, VersionComparison, compare_versions, label_changes
from reelscribe.pipeline.tracking.connection import connect, model_errors
from reelscribe.pipeline.tracking.fetch import ResolvedModel, fetch_model
from reelscribe.pipeline.tracking.lineage import Lineage, lineage_of
from reelscribe.pipeline.tracking.references import VersionReference, parse_name
from reelscribe.pipeline.tracking.register import register_model
from reelscribe.pipeline.tracking.rest import connect_to_read
from reelscribe.pipeline.tracking.versions import (
    ModelVersion,
    RegisteredModel,
    all_models,
    registered_model,
    resolve_version,
)

GATE_TAG = "reelscribe.gate."

__all__ = [
    "AliasMove",
    "ModelDetails",
    "ModelVersion",
    "Promotion",
    "RegisteredModel",
    "ResolvedModel",
    "VersionComparison",
    "alias_history",
    "compare",
    "fetch_model",
    "label_differences",
    "list_models",
    "promote",
    "promotion_parties",
    "record_evidence",
    "register_model",
    "rollback",
    "show_model",
    "take_over",
]


@dataclass(frozen=True, kw_only=True)
class ModelDetails:
    """A version with its surroundings."""

    model: RegisteredModel
    version: ModelVersion
    lineage: Lineage
    card: str  # Markdown; empty where the files cannot be reached, then `problem` says why
    problem: str


def list_models(*, uri: str) -> list[RegisteredModel]:
    """Every registered model, by name."""
    return list(all_models(connect_to_read(uri), uri))


def show_model(model: str, *, uri: str) -> ModelDetails:
    """A version in full; a bare name shows its ``@champion``, or the newest version where it has none.

    Raises ModelError, ServiceUnavailableError.
    """
    client = connect_to_read(uri)
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
    return ModelDetails(model=found, version=version, lineage=lineage_of(client, uri, version), card=card, problem=problem)


def promote(model: str, *, to: str, uri: str, why: str = "") -> Promotion:
    """Move an alias to a version (``models:/NAME/VERSION`` or ``models:/NAME@OTHER``); who, when and ``why`` go into the history.

    Raises ModelError for an unknown version, one that is not ready, or an alias that MLflow does not allow.
    """
    version, _ = promotion_parties(model, to, uri=uri)
    return move_alias(connect(uri), uri, name=version.name, alias=to, to=version.version, why=why)


def promotion_parties(model: str, alias: str, *, uri: str) -> tuple[ModelVersion, int | None]:
    """The version that is to have an alias, and the number of the one that has it now. Raises ModelError."""
    client = connect_to_read(uri)
    version = resolve_version(client, uri, parse_name(model))
    if version.status != "READY":
        raise ModelError(f"{version.name} version {version.version} is not ready (MLflow says {version.status})")
    return version, registered_model(client, uri, version.name).aliases.get(alias)


def take_over(version: ModelVersion, alias: str, *, expected: int | None, why: str, uri: str) -> Promotion:
    """Move an alias that is still where it was expected. Raises PromotionError where somebody else moved it."""
    return move_alias_from(connect(uri), uri, name=version.name, alias=alias, expected=expected, to=version.version, why=why)


def record_evidence(version: ModelVersion, evidence: str, *, uri: str) -> str:
    """Keep what a gate found (JSON) as a tag of the version, one for each gate; returns its key."""
    key = f"{GATE_TAG}{time.time_ns() // 1000:017d}"
    with model_errors(uri, f"the evidence for {version.name} version {version.version}"):
        connect(uri).set_model_version_tag(version.name, str(version.version), key, evidence)
    return key


def alias_history(model: str, *, uri: str) -> list[AliasMove]:
    """The moves of a model's aliases, newest first; those that other tools made are not among them. Raises ModelError."""
    return moves_of(registered_model(connect_to_read(uri), uri, parse_name(model).name))[::-1]


def rollback(model: str, *, alias: str, uri: str, why: str = "") -> Promotion:
    """Take the last move of an alias back; again takes back the one before.

    Raises ModelError where no move is left, or where another tool has moved the alias since.
    """
    client = connect(uri)
    found = registered_model(client, uri, parse_name(model).name)
    move = last_standing_move(found, alias)
    return move_alias(client, uri, name=found.name, alias=alias, to=move.before, why=why, undoes=move.key)


def compare(first: str, second: str, *, uri: str) -> VersionComparison:
    """Two versions side by side: metrics, parameters that differ, labels lost and gained. Raises ModelError."""
    client = connect_to_read(uri)
    return compare_versions(resolve_version(client, uri, parse_name(first)), resolve_version(client, uri, parse_name(second)))


def label_differences(first: str, second: str, *, uri: str) -> list[LabelChange]:
    """Where the label maps of two versions differ; empty where they are the same. Raises ModelError."""
    client = connect_to_read(uri)
    return label_changes(resolve_version(client, uri, parse_name(first)), resolve_version(client, uri, parse_name(second)))
