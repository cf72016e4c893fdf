"""Which keys a schema has, told from its types."""

from __future__ import annotations

from pydantic import BaseModel

COMPARED_SECTIONS = ("sampling", "transform", "augmentation", "model", "caption", "training")  # trainings on the same data may differ there


def keys_of(model: type[BaseModel], path: list[str]) -> set[str]:
    """Names allowed in the section at ``path``."""
    if not path:
        return set(model.model_fields)
    sections = (a for a in types_of(model, path) if isinstance(a, type) and issubclass(a, BaseModel))
    return {key for section in sections for key in section.model_fields}


def types_of(model: type[BaseModel], path: list[str]) -> set[object]:
    """The types that the key at ``path`` may have; none for an unknown key."""
    field = model.model_fields.get(path[0])
    if field is None:
        return set()
    options = set(getattr(field.annotation, "__args__", (field.annotation,)))
    if len(path) == 1:
        return options
    sections = (o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return {found for section in sections for found in types_of(section, path[1:])}
