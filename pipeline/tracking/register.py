"""A model folder becomes a version of a registered model, in an order that a crash cannot spoil.

The files go up first, then the version is made of them, then its alias moves. A process killed in between leaves a model
without a version, or a version without an alias: never an alias on something half there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelscribe.pipeline.bundle import BundleSpec, load_bundle
from reelscribe.pipeline.tracking.aliases import move_alias
from reelscribe.pipeline.tracking.comparison import LABEL_SCORES_TAG
from reelscribe.pipeline.tracking.connection import connect, model_errors, quiet
from reelscribe.pipeline.tracking.contents import FOLDER_IN_MLFLOW_MODEL, combined_digest, file_digests
from reelscribe.pipeline.tracking.fetch import DIGEST_TAG
from reelscribe.pipeline.tracking.versions import METRIC_TAG, ModelVersion, get_version, registered_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOADER_MODULE = "reelscribe.pipeline.tracking.pyfunc"
LOGGED_MODEL_NAME = "model"
_TAG_CHARACTERS = 100_000  # MLflow's limit for a version
# what a server needs to answer: this package brings the rest, these decide the numbers
_PINNED = ("reelscribe", "torch", "torchvision", "timm", "numpy")


def register_model(folder: Path, *, run_id: str, name: str, alias: str, uri: str) -> ModelVersion:
    """Log a model folder to its run as an MLflow model and register it as the next version of ``name``.

    ``alias`` is set last (empty sets none). Nothing is pickled: MLflow's model is the folder and the name of a loader module.
    Raises ModelError, ServiceUnavailableError.
    """
    bundle = load_bundle(folder)
    digest = combined_digest(file_digests(folder))
    client = connect(uri)
    what = f"registering {folder} as '{name}'"
    with tempfile.TemporaryDirectory(prefix="reelscribe-") as temporary, model_errors(uri, what):
        run = client.get_run(run_id)
        tags = _tags(bundle.spec, bundle.weights_digest, digest)
        logged = client.create_logged_model(run.info.experiment_id, LOGGED_MODEL_NAME, run_id, tags, {}, "classifier")
        local = save_mlflow_model(folder, Path(temporary), run_id=run_id, model_id=logged.model_id, location=logged.artifact_location)
        client.log_model_artifacts(logged.model_id, str(local))
        _publish(client, run_id, logged.model_id)
        _ensure_registered(client, name)
        made = client.create_model_version(
            name, logged.artifact_location, run_id=run_id, tags=tags, description=_description(bundle.spec), model_id=logged.model_id
        )
        if alias:
            move_alias(client, uri, name=name, alias=alias, to=int(made.version), why=f"registered by run {run_id}")
    return get_version(client, uri, registered_model(client, uri, name), int(made.version))


def save_mlflow_model(folder: Path, into: Path, *, run_id: str, model_id: str, location: str) -> Path:
    """Write MLflow's model folder around a model folder; returns it. ``into`` is an empty folder."""
    with quiet():
        from mlflow.models import Model
        from mlflow.pyfunc import save_model

        from reelscribe.pipeline.tracking.pyfunc import input_example, signature

        bundle = into / Path(FOLDER_IN_MLFLOW_MODEL).name
        shutil.copytree(folder, bundle)
        (into / "empty").mkdir()
        save_model(
            path=into / "model",
            loader_module=LOADER_MODULE,
            data_path=str(bundle),
            mlflow_model=Model(artifact_path=location, run_id=run_id, model_id=model_id),
            signature=signature(load_bundle(bundle).spec.task),
            input_example=input_example(),
            pip_requirements=requirements(),
            metadata={"reelscribe": {"files": file_digests(folder)}},
            uv_project_path=into / "empty",  # or MLflow copies the pyproject.toml of whatever folder the user is in
        )
    return into / "model"


def requirements() -> list[str]:
    """The few packages, at the versions installed here, that answer as this process does; local build tags are left out."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in (*_PINNED, "mlflow")]


def _publish(client: MlflowClient, run_id: str, model_id: str) -> None:
    """Mark the uploaded model as complete and link it to its run."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def _ensure_registered(client: MlflowClient, name: str) -> None:
    """Make the registered model where it is not there; two processes may do so at once."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tags(spec: BundleSpec, weights_digest: str, digest: str) -> dict[str, str]:
    facts: dict[str, Any] = {
        DIGEST_TAG: digest,
        "reelscribe.weights_digest": weights_digest,
        "reelscribe.config_digest": spec.config_digest,
        "reelscribe.data_digest": spec.data_digest,
        "reelscribe.git_commit": spec.git_commit,
        "reelscribe.task": spec.task,
        "reelscribe.labels": "" if spec.task == "caption" else json.dumps(spec.labels, ensure_ascii=False),  # a tag holds no vocabulary
    }
    if spec.label_scores:
        scores = {"measure": spec.label_measure, "scores": {label: round(value, 6) for label, value in spec.label_scores.items()}}
        written = json.dumps(scores, ensure_ascii=False)
        facts |= {LABEL_SCORES_TAG: written} if len(written) <= _TAG_CHARACTERS else {}
    measured = {f"{METRIC_TAG}{name}": repr(float(value)) for name, value in spec.metrics.items()}
    return {key: str(value) for key, value in facts.items() if value} | measured


def _description(spec: BundleSpec) -> str:
    outputs = "tokens" if spec.task == "caption" else "labels"
    return f"{spec.name}: {len(spec.labels)} {outputs}, {spec.model.encoder} + {spec.model.recurrent} + {spec.model.readout}"
