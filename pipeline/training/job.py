"""One training from config to registered model."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from reelscribe.pipeline.bundle import BundleSpec, ModelBundle, new_recognizer, save_bundle
from reelscribe.pipeline.config import Config
from reelscribe.pipeline.console import OpenProgress, note
from reelscribe.pipeline.errors import UsageError
from reelscribe.pipeline.features import FeatureCache
from reelscribe.pipeline.manifest import read_manifest, table_digest
from reelscribe.pipeline.predictor import Predictor, pick_device
from reelscribe.pipeline.report.pictures import confusion_matrix, curves, gradients
from reelscribe.pipeline.tracking.provenance import git_state
from reelscribe.pipeline.tracking.query import query_versions
from reelscribe.pipeline.tracking.registry import ModelVersion, register_model
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.tracking.uri import tracking_uri
from reelscribe.pipeline.training.card import model_card
from reelscribe.pipeline.training.data import Failure, Splits, TrainingData, prepare, split_rows
from reelscribe.pipeline.training.evaluation import Evaluation, evaluate
from reelscribe.pipeline.training.gradients import GradientHealth
from reelscribe.pipeline.training.loop import Trained, Trainer
from reelscribe.pipeline.training.metrics import fit_temperature
from reelscribe.pipeline.training.ray_launch import train_on_ray
from reelscribe.pipeline.video.sandbox import DecodePool

CONFIG_FILE = "config.yaml"  # an artifact of the run: `reelscribe train` takes it again


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training leaves behind."""

    bundle: ModelBundle
    evaluation: Evaluation  # of the saved model on the validation clips
    failures: tuple[Failure, ...]  # clips left out because they could not be decoded
    run_id: str
    tracking_uri: str
    version: ModelVersion | None  # in the registry
    alias_kept: str  # the alias that was not moved, as the version that holds it did better; else empty

    @property
    def model_uri(self) -> str:
        """What other commands call the model."""
        return f"models:/{self.version.name}/{self.version.version}" if self.version else str(self.bundle.folder)


def run_training(config: Config, *, progress: OpenProgress) -> TrainingResult:
    """Train, evaluate, track and register. ``progress(what)`` opens a progress line; see console.progress.

    Raises UsageError before anything starts if the config, the data, the network, the device, the output folder or the tracking server is
    not usable.
    """
    output = Path(config.output).absolute()
    uri = tracking_uri(config.tracking.uri, config.output)
    table = read_manifest(config.data.manifest, require_labels=True)
    splits = split_rows(table, config.data, seed=config.seed)
    data_digest = table_digest(table)
    model = new_recognizer(config.model, config.transform, num_classes=len(splits.labels), seed=config.seed)
    model = model.to(pick_device(config.training.device)).eval()
    _check_writable(output)
    with RunTracker(uri=uri, experiment=config.tracking.experiment, run_name=config.name, seed=config.seed) as run:
        run.log_params(config.model_dump(mode="json"))
        run.log_text(config.to_yaml(), CONFIG_FILE)
        run.log_dataset(name=config.name, source=config.data.manifest, digest=data_digest, context="training", num_rows=table.num_rows)
        folder = output / config.name / run.run_id
        with DecodePool(config.decode.num_workers, config.decode.limits) as pool:
            with progress("decoding and encoding") as advance:
                data = prepare(splits, config, model, pool=pool, cache=FeatureCache(output / "cache"), progress=advance)
            trained = _fit(config, data, folder, run, progress)
            bundle, evaluation = _finish(config, splits, data, trained, folder / "model", data_digest, pool, progress)
        _log_results(run, folder, trained, bundle, evaluation, data)
        version = _register(config, bundle, run.run_id, uri)
    alias_kept = config.tracking.alias if version and config.tracking.alias not in version.aliases else ""
    return TrainingResult(
        bundle=bundle,
        evaluation=evaluation,
        failures=data.failures,
        run_id=run.run_id,
        tracking_uri=uri,
        version=version,
        alias_kept=alias_kept,
    )


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"the output folder {folder} cannot be written: {error.strerror}; choose another by output=FOLDER") from error


def _fit(config: Config, data: TrainingData, folder: Path, run: RunTracker, progress: OpenProgress) -> Trained:
    """Run the loop, in this process or on Ray; every epoch is tracked and leaves a checkpoint that can be used as a model."""
    told: set[str] = set()  # a warning comes once, however often it is true
    with progress("training") as advance:

        def on_epoch(trained: Trained) -> None:
            metrics = trained.history[-1]
            epoch = int(metrics["epoch"])
            run.log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step=epoch)
            save_bundle(
                folder / "checkpoint", spec=_spec(config, data), state=trained.state, card=f"Epoch {trained.epoch} of {config.name}.\n"
            )
            if trained.health:
                _log_gradients(trained.health, epoch, folder, run, told)
            advance(epoch, config.training.epochs, f"loss {metrics['train_loss']:.3f}, validation top-1 {metrics['val_top1']:.3f}")

        if config.training.workers > 1 or config.cluster.address:
            return train_on_ray(config, data, folder=folder, on_epoch=on_epoch)
        model = new_recognizer(config.model, config.transform, num_classes=len(data.labels), seed=config.seed)
        device = pick_device(config.training.device)
        return Trainer(model, config.training, data, seed=config.seed, device=device, augmentation=config.augmentation, folder=folder).fit(
            on_epoch
        )


def _log_gradients(health: GradientHealth, epoch: int, folder: Path, run: RunTracker, told: set[str]) -> None:
    """Track a picture of the gradients, and say what is wrong with them."""
    picture = folder / f"gradients_{epoch:04}.png"
    gradients(health.by_frame, health.of_last, health.by_layer, picture)
    run.log_artifact(picture, "pictures")
    kind, _, _ = health.warning.partition(":")
    if kind and kind not in told:
        told.add(kind)
        note(f"epoch {epoch}: {health.warning}")


def _spec(config: Config, data: TrainingData, **extra: Any) -> BundleSpec:
    return BundleSpec(
        name=config.name, labels=data.labels, model=config.model, sampling=config.sampling, transform=config.transform, **extra
    )


def _finish(
    config: Config,
    splits: Splits,
    data: TrainingData,
    trained: Trained,
    folder: Path,
    data_digest: str,
    pool: DecodePool,
    progress: OpenProgress,
) -> tuple[ModelBundle, Evaluation]:
    """Calibrate and save the model, then evaluate what was saved, from the video files on."""
    git = git_state(Path.cwd())
    spec = _spec(
        config,
        data,
        temperature=fit_temperature(trained.val_logits, torch.tensor(data.val.targets)),
        config_digest=hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        data_digest=data_digest,
        git_commit=git.commit if git else "",
    )
    draft = save_bundle(folder, spec=spec, state=trained.state, card="")
    with progress("evaluating") as advance:
        predictor = Predictor(draft, config.training.device)
        evaluation = evaluate(predictor, splits.val, pool=pool, decode=config.decode, progress=advance)
    spec = spec.model_copy(update={"metrics": evaluation.scores.metrics})
    card = model_card(spec, config, data, evaluation)
    return save_bundle(folder, spec=spec, state=trained.state, card=card), evaluation


def _log_results(run: RunTracker, folder: Path, trained: Trained, bundle: ModelBundle, evaluation: Evaluation, data: TrainingData) -> None:
    """Final metrics, pictures, recall by class and the list of failures go to the run; the pictures stay in the folder too."""
    run.log_metrics(evaluation.scores.metrics | {"epoch": trained.epoch, "failures": len(data.failures)})
    curves(trained.history, folder / "curves.png")
    confusion_matrix(evaluation.scores.confusion, bundle.spec.labels, folder / "confusion_matrix.png")
    for name in ("curves.png", "confusion_matrix.png"):
        run.log_artifact(folder / name, "pictures")
    failures = [asdict(failure) for failure in data.failures]
    # a label may hold signs that the name of a metric may not
    for name, content in (("failures.json", failures), ("recall.json", evaluation.scores.recall)):
        run.log_text(json.dumps(content, indent=2, ensure_ascii=False), name)


def _register(config: Config, bundle: ModelBundle, run_id: str, uri: str) -> ModelVersion | None:
    """A new version; it takes the alias over unless the version that holds it did better on the same data."""
    if not config.tracking.register_model:
        return None
    name, alias = config.tracking.register_as or config.name, config.tracking.alias
    if alias:
        held = f"name = '{name}' and alias = '{alias}' and tags.`reelscribe.data_digest` = '{bundle.spec.data_digest}'"
        top1 = bundle.spec.metrics["top1"]
        if any(version.metrics.get("top1", 0.0) > top1 for version in query_versions(held, uri=uri)):
            alias = ""
    return register_model(bundle.folder, run_id=run_id, name=name, alias=alias, uri=uri)
