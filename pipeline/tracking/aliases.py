"""Moves of aliases, and their history.

MLflow knows where an alias points and not where it pointed before, so each move leaves a tag on its registered model:
``reelscribe.move.<time>-<random>`` with who, when, from, to and why as JSON. The alias is moved first: a process killed in between loses
a line of history, and never invents one.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.errors import ModelError, PromotionError
from reelscribe.pipeline.tracking.connection import model_errors, refusals
from reelscribe.pipeline.tracking.provenance import user_name
from reelscribe.pipeline.tracking.versions import RegisteredModel, registered_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOVE_TAG = "reelscribe.move."
_WHY_CHARACTERS = 2000  # a tag of a registered model holds 5000, or less where a letter is several bytes


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A move of an alias."""

    name: str
    alias: str
    before: int | None  # version; None where the alias is new
    after: int | None  # None where the alias was taken away


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """A line of the history of a model's aliases."""

    key: str  # sorts by time
    alias: str
    before: int | None
    after: int | None
    when: datetime  # UTC
    who: str
    why: str
    undoes: str | None  # the key of the move that this one took back


def move_alias(
    client: MlflowClient, uri: str, *, name: str, alias: str, to: int | None, why: str = "", undoes: str | None = None
) -> Promotion:
    """Point an alias to a version, or take it away (None), and write it down; nothing happens where it is there already."""
    return _move(client, uri, registered_model(client, uri, name), alias, to, why, undoes)[0]


def move_alias_from(client: MlflowClient, uri: str, *, name: str, alias: str, expected: int | None, to: int, why: str) -> Promotion:
    """As ``move_alias``, if the alias is still at ``expected`` (None: nobody holds it).

    MLflow knows no compare-and-set, so somebody may move it between our look and our move. Whoever of the two writes into the history later
    finds the other there, and where the alias is somewhere else now, both find that. Raises PromotionError for each.
    """
    model = registered_model(client, uri, name)
    current = model.aliases.get(alias)
    if current != expected:
        raise PromotionError(
            f"models:/{name}@{alias} was held by {_holder(expected)} when this began and is held by {_holder(current)} now: "
            "it stays there, as nothing was compared with that; try again"
        )
    promotion, key = _move(client, uri, model, alias, to, why, None)
    after = registered_model(client, uri, name)
    others = [move for move in moves_of(after) if move.alias == alias and move.key != key and move.key not in model.tags]
    if others or after.aliases.get(alias) != to:
        who = (
            "; ".join(f"{move.who} moved it from {_holder(move.before)} to {_holder(move.after)}" for move in others)
            or "another tool moved it"
        )
        raise PromotionError(
            f"models:/{name}@{alias} was moved to version {to}, and by somebody else at the same moment ({who}); it is "
            f"held by {_holder(after.aliases.get(alias))} now: look at `reelscribe registry history {name}` and decide together"
        )
    return promotion


def _move(
    client: MlflowClient, uri: str, model: RegisteredModel, alias: str, to: int | None, why: str, undoes: str | None
) -> tuple[Promotion, str]:
    """Move and write down; returns the key in the history, too (empty where nothing moved)."""
    before = model.aliases.get(alias)
    if before == to:
        return Promotion(name=model.name, alias=alias, before=before, after=to), ""
    now = datetime.now(UTC)
    record = {
        "alias": alias,
        "before": before,
        "after": to,
        "when": now.isoformat(),
        "who": user_name(),
        "why": _shortened(why),
        "undoes": undoes,
    }
    key = f"{_MOVE_TAG}{int(now.timestamp() * 1e6):017d}-{uuid.uuid4().hex[:8]}"
    with model_errors(uri, f"alias '{alias}'"):
        if to is None:
            client.delete_registered_model_alias(model.name, alias)
        else:
            _set(client, model.name, alias, to)
        client.set_registered_model_tag(model.name, key, json.dumps(record, ensure_ascii=False))
    return Promotion(name=model.name, alias=alias, before=before, after=to), key


def _set(client: MlflowClient, name: str, alias: str, to: int) -> None:
    """MLflow looks and inserts in two steps, so of two that make an alias at once one is refused; then it is there, and can be moved."""
    try:
        client.set_registered_model_alias(name, alias, str(to))
    except refusals() as error:
        if getattr(error, "error_code", "") != "BAD_REQUEST":  # as MLflow calls what a database refuses
            raise
        client.set_registered_model_alias(name, alias, str(to))


def _shortened(why: str) -> str:
    return why if len(why) <= _WHY_CHARACTERS else why[: _WHY_CHARACTERS - 3] + "..."


def _holder(version: int | None) -> str:
    return "nobody" if version is None else f"version {version}"


def moves_of(model: RegisteredModel) -> list[AliasMove]:
    """The recorded moves of a model's aliases, oldest first."""
    return [_read(key, json.loads(value)) for key, value in sorted(model.tags.items()) if key.startswith(_MOVE_TAG)]


def last_standing_move(model: RegisteredModel, alias: str) -> AliasMove:
    """The move that brought an alias where it is and was not taken back. Raises ModelError where there is none to take back."""
    standing: list[AliasMove] = []
    for move in moves_of(model):
        if move.alias == alias:
            standing = [one for one in standing if one.key != move.undoes] if move.undoes else [*standing, move]
    if not standing:
        raise ModelError(f"no recorded move of '{alias}' of model '{model.name}' is left to take back")
    current = model.aliases.get(alias)
    if standing[-1].after != current:
        raise ModelError(
            f"'{alias}' of model '{model.name}' is at version {current}, and the last recorded move took it to {standing[-1].after}: "
            "another tool has moved it since; move it with promote"
        )
    return standing[-1]


def _read(key: str, record: dict[str, Any]) -> AliasMove:
    return AliasMove(**{**record, "key": key, "when": datetime.fromisoformat(record["when"])})
