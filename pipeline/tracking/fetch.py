"""From the name of a model to its folder on this machine."""

from __future__ import annotations

import hashlib
import tempfile
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.config import user_cache
from reelscribe.pipeline.errors import ModelError, nearest
from reelscribe.pipeline.tracking.connection import connect, model_errors, tracking_errors
from reelscribe.pipeline.tracking.contents import find_bundle, verify
from reelscribe.pipeline.tracking.references import FolderReference, RunReference, VersionReference, parse_reference
from reelscribe.pipeline.tracking.versions import resolve_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST_TAG = "reelscribe.bundle_digest"


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model on this machine, and which one it is."""

    folder: Path  # holds model.json and weights.safetensors; read only
    name: str | None = None  # of the registered model
    version: str | None = None
    alias: str | None = None  # the alias it was asked by
    run_id: str | None = None


def fetch_model(model: str, *, uri: str) -> ResolvedModel:
    """Find a model and bring its files here.

    ``model`` is ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``runs:/RUN_ID[/PATH]`` or a folder. Files that lie on this
    machine are used where they are; others are downloaded once into a cache (``REELSCRIBE_CACHE``, else the user's cache
    folder), checked against the digest they were registered under, and moved there only when complete.
    Raises ModelError (with the nearest valid name), ServiceUnavailableError.
    """
    match parse_reference(model):
        case FolderReference(folder=folder):
            return ResolvedModel(folder=find_bundle(folder, f"the folder {folder}"))
        case VersionReference() as reference:
            return _fetch_version(connect(uri), uri, reference)
        case RunReference() as reference:
            return _fetch_run_model(connect(uri), uri, reference)


def _fetch_version(client: MlflowClient, uri: str, reference: VersionReference) -> ResolvedModel:
    version = resolve_version(client, uri, reference)
    what = f"{version.name} version {version.version}"
    if version.status != "READY":
        raise ModelError(f"{what} is not ready (MLflow says {version.status}); register it again")
    with model_errors(uri, what):
        location = client.get_model_version_download_uri(version.name, str(version.version))
    return ResolvedModel(
        folder=_obtain(uri, location, version.tags.get(DIGEST_TAG), what),
        name=version.name,
        version=str(version.version),
        alias=reference.alias,
        run_id=version.run_id,
    )


def _fetch_run_model(client: MlflowClient, uri: str, reference: RunReference) -> ResolvedModel:
    from mlflow.exceptions import MlflowException

    try:
        with tracking_errors(uri):
            run = client.get_run(reference.run_id)
    except MlflowException as error:
        raise ModelError(f"no run '{reference.run_id}' in this tracking store") from error
    models = _logged_models(client, uri, run)
    names = [logged.name for logged in models]
    chosen = [logged for logged in models if reference.path in ("", logged.name)]
    if chosen:
        location, digest = chosen[-1].artifact_location, chosen[-1].tags.get(DIGEST_TAG)
    elif reference.path:
        with model_errors(uri, str(reference)):
            there = client.list_artifacts(reference.run_id, reference.path)
        if not there:
            raise ModelError(f"run {reference.run_id} has no model '{reference.path}'{nearest(reference.path, names)}{_listed(names)}")
        location, digest = f"{run.info.artifact_uri.rstrip('/')}/{reference.path}", None
    else:
        raise ModelError(f"run {reference.run_id} ({run.info.run_name}, {run.info.status}) holds no model")
    return ResolvedModel(folder=_obtain(uri, location, digest, str(reference)), run_id=reference.run_id)


def _logged_models(client: MlflowClient, uri: str, run: Any) -> list[Any]:
    """MLflow's models of a run that are complete, the newest last."""
    outputs = run.outputs.model_outputs if run.outputs else []
    with model_errors(uri, f"the models of run {run.info.run_id}"):
        models = [client.get_logged_model(output.model_id) for output in outputs]
    return sorted((model for model in models if str(model.status) == "READY"), key=lambda model: model.creation_timestamp)


def _listed(names: list[str]) -> str:
    return f" (it has: {', '.join(sorted(set(names)))})" if names else " (it has none)"


def _obtain(uri: str, location: str, digest: str | None, what: str) -> Path:
    """The verified model folder for an artifact location: in place where it is local, else from the cache."""
    local = _local_path(location)
    if local is not None:
        if not local.is_dir():
            raise ModelError(f"the files of {what} are not at {local}; were they moved, or made on another machine?")
        bundle = find_bundle(local, what)
        verify(bundle, digest, what)
        return bundle
    key = hashlib.sha256(f"{uri}\n{location}\n{digest}".encode()).hexdigest()[:32]
    cached = cache_folder() / key
    if cached.is_dir():
        bundle = find_bundle(cached, what)
        verify(bundle, digest, what)
        return bundle
    return _download(uri, location, digest, what, cached)


def _download(uri: str, location: str, digest: str | None, what: str, cached: Path) -> Path:
    """Download beside the cache entry, verify, then rename: a partial download is never seen."""
    from mlflow.artifacts import download_artifacts

    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".download-") as temporary:
        with model_errors(uri, f"downloading {what}"):
            fetched = Path(download_artifacts(artifact_uri=location, dst_path=temporary, tracking_uri=uri))
        verify(find_bundle(fetched, what), digest, what)
        try:
            fetched.rename(cached)
        except OSError:
            if not cached.is_dir():  # another process may have been first; its copy is as good
                raise
    return find_bundle(cached, what)


def cache_folder() -> Path:
    """Where downloaded models are kept."""
    return user_cache() / "models"


def _local_path(location: str) -> Path | None:
    """The path of an artifact location on this machine, None for a remote one."""
    parts = urllib.parse.urlsplit(location)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    return Path(location) if not parts.scheme else None
