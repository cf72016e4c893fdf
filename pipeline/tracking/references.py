"""How a person names a model: ``models:/gestures@champion``, ``models:/gestures/3``, ``runs:/ID``, or a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reelscribe.pipeline.errors import ModelError

FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID or a model folder"


@dataclass(frozen=True, kw_only=True)
class VersionReference:
    """A registered model; at most one of version and alias is given, neither means no version was chosen."""

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        chosen = f"/{self.version}" if self.version is not None else f"@{self.alias}" if self.alias is not None else ""
        return f"models:/{self.name}{chosen}"


@dataclass(frozen=True, kw_only=True)
class RunReference:
    """A model among the files of a run; an empty path means the only one there."""

    run_id: str
    path: str = ""

    def __str__(self) -> str:
        return f"runs:/{self.run_id}" + (f"/{self.path}" if self.path else "")


@dataclass(frozen=True, kw_only=True)
class FolderReference:
    """A model folder on this machine."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)


def parse_reference(model: str) -> VersionReference | RunReference | FolderReference:
    """Read the name of a model. Raises ModelError for a form that is not known; looks nothing up but local folders."""
    text = model.strip()
    if text.startswith("models:"):
        return _parse_version(text)
    if text.startswith("runs:"):
        run_id, _, path = text.removeprefix("runs:").lstrip("/").partition("/")
        if not run_id:
            raise ModelError(f"'{model}' names no run; expected runs:/RUN_ID or runs:/RUN_ID/PATH")
        return RunReference(run_id=run_id, path=path.strip("/"))
    folder = Path(text.removeprefix("file://")).expanduser()
    if text and folder.exists():
        return FolderReference(folder=folder.resolve())
    hint = f"; did you mean 'models:/{text}'?" if text and ("@" in text or "/" not in text) else ""
    raise ModelError(f"no model folder '{model}'{hint} (allowed: {FORMS})")


def parse_name(model: str) -> VersionReference:
    """As ``parse_reference`` for what can only be a registered model; ``models:/`` may be left out. Raises ModelError."""
    text = model.strip()
    return _parse_version(text if text.startswith("models:") else f"models:/{text}")


def _parse_version(text: str) -> VersionReference:
    rest = text.removeprefix("models:").lstrip("/")
    name, slash, version = rest.partition("/")
    if slash:
        if name and version.isascii() and version.isdigit():
            return VersionReference(name=name, version=int(version))
        hint = f"; did you mean 'models:/{name}@{version}'?" if name and version and "/" not in version else ""
        raise ModelError(f"'{text}': after the name comes a version number{hint} (allowed: {FORMS})")
    name, at, alias = rest.rpartition("@") if "@" in rest else (rest, "", "")
    if not name or (at and not alias):
        raise ModelError(f"'{text}' names no {'model' if not name else 'alias'} (allowed: {FORMS})")
    return VersionReference(name=name, alias=alias or None)
