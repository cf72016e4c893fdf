"""One training from config to registered model."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reelscribe.pipeline.bundle import MOST_CLIP_BYTES, BundleSpec, ModelBundle, load_bundle, save_bundle, untrained
from reelscribe.pipeline.config import Config
from reelscribe.pipeline.console import OpenProgress, note
from reelscribe.pipeline.errors import ManifestError, ServiceUnavailableError, StoppedError, TrackingLostError, UsageError
from reelscribe.pipeline.features import FeatureCache
from reelscribe.pipeline.manifest import read_manifest, table_digest
from reelscribe.pipeline.predictor import Predictor, pick_device
from reelscribe.pipeline.report.pictures import calibration, confusion_matrix, curves
from reelscribe.pipeline.tracking.provenance import git_state
from reelscribe.pipeline.tracking.query import query_versions
from reelscribe.pipeline.tracking.registry import ModelVersion, register_model
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.tracking.uri import tracking_uri
from reelscribe.pipeline.training.card import model_card
from reelscribe.pipeline.training.chatter import LOG_FILE, chatter_in
from reelscribe.pipeline.training.checkpoints import Checkpoints
from reelscribe.pipeline.training.data import Failure, TrainingData, prepare
from reelscribe.pipeline.training.following import Follower
from reelscribe.pipeline.training.loop import Trainer
from reelscribe.pipeline.training.progress import EpochMetrics, Trained
from reelscribe.pipeline.training.ray_launch import on_ray, ready, train_on_ray
from reelscribe.pipeline.training.recipes.leaks import Leak, find_leaks
from reelscribe.pipeline.training.recipes.splits import Splits, split_rows
from reelscribe.pipeline.training.resumption import CONFIG_FILE, Launch, checkpoint_to_go_on_with, checkpoints_of, ended, held
from reelscribe.pipeline.training.scores.calibration import fit_confidence, fit_temperature, precision_threshold, reliability
from reelscribe.pipeline.training.scores.evaluation import Evaluation, evaluate, read_anew
from reelscribe.pipeline.training.scores.metrics import ClassificationScores, by_label
from reelscribe.pipeline.training.spent import TimeSpent, time_spent
from reelscribe.pipeline.training.stopping import stoppable
from reelscribe.pipeline.training.tasks import TASKS
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import TimedFrames, seconds_between

_MOST_KEPT = 64  # frames of each clip that stays with the model


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training leaves behind."""

    bundle: ModelBundle
    evaluation: Evaluation  # of the saved model on the validation clips
    failures: tuple[Failure, ...]  # clips left out because they could not be decoded
    leaks: tuple[Leak, ...]  # between training and held-out clips, where they were allowed
    epoch_s: float  # the median time of an epoch, validation included
    spent: TimeSpent
    run_id: str
    tracking_uri: str
    version: ModelVersion | None  # in the registry
    alias_kept: str  # the alias that was not given: the version that holds it did better, or there are leaks; else empty

    @property
    def log_file(self) -> Path:
        """What libraries had to say."""
        return self.bundle.folder.parent / LOG_FILE

    @property
    def model_uri(self) -> str:
        """What other commands call the model."""
        return f"models:/{self.version.name}/{self.version.version}" if self.version else str(self.bundle.folder)


def run_training(
    config: Config,
    *,
    progress: OpenProgress,
    parent_run_id: str | None = None,
    cache: FeatureCache | None = None,
    leaks: tuple[Leak, ...] | None = None,
    resume: str = "",
    fresh: bool = False,
    report: Callable[[EpochMetrics], None] | None = None,
) -> TrainingResult:
    """Train, evaluate, track and register. ``progress(what)`` opens a progress line; see console.progress.

    A series of trainings gives each the id of its own run, one cache, and the leaks that it found among the same clips. The run ``resume``
    is gone on with; without it the newest that was stopped of the same recipe on the same data, unless ``fresh`` or in a series.
    ``report`` is given the figures of each epoch.

    Raises UsageError before training starts if the config, the data, the network, the device, the output folder or the tracking server
    is not usable, if held-out clips leak into training, and if the checkpoint is of another training.
    """
    output = Path(config.output).absolute()
    uri = tracking_uri(config.tracking.uri, config.output)
    table = read_manifest(config.data.manifest, require_labels=True, task=config.task)
    splits = _with_tokens(split_rows(table, config.data, config.task), config)
    model = untrained(config, splits.labels)
    model = model.to(pick_device(config.training.device)).eval()
    check_writable(output)
    cache = cache or FeatureCache(output / "cache")
    data_digest = table_digest(table)
    launch = Launch.of(config, data_digest, uri)
    run_id = resume or ("" if fresh or parent_run_id else launch.interrupted(output / config.name, config))
    found = checkpoint_to_go_on_with(config, output / config.name / run_id) if run_id else None
    if run_id:
        where = f"in epoch {found.epoch}, after step {found.step}" if found else "from its beginning"
        note(f"going on with run {run_id} {where}" + ("" if resume else " (--fresh starts anew)"))
    tracking, lock = config.tracking, ExitStack()

    def begin(run_id: str) -> None:
        lock.enter_context(held(output / config.name / run_id))
        if not parent_run_id:
            launch.begin(output / config.name / run_id)

    run = RunTracker(
        uri=uri,
        experiment=tracking.experiment,
        run_name=config.name,
        seed=config.seed,
        parent_run_id=parent_run_id,
        run_id=run_id,
        on_begin=begin,
    )
    with lock, ready(config) as spread, run, chatter_in((folder := output / config.name / run.run_id) / LOG_FILE):
        if not found:
            log_recipe(run, config, data_digest, table.num_rows)
        with DecodePool(config.decode.num_workers, config.decode.limits) as pool:
            if leaks is None:
                with progress("looking for leaks") as advance:
                    leaks = find_leaks(splits, config, pool=spread or pool, cache=cache, progress=advance)
            if leaks:
                run.set_tags({"reelscribe.leaks": f"{len(leaks)}: " + "; ".join(str(leak) for leak in leaks)})
            began = time.perf_counter()
            with progress("decoding and encoding") as advance:
                encoding = model.cpu() if spread else model  # other nodes need not have a GPU; those that have one train on it
                data = prepare(splits, config, encoding, pool=spread or pool, cache=cache, progress=advance)
            decoding_s = time.perf_counter() - began
            checkpoints = None if parent_run_id else _ready_to_keep(config, folder, data)
            if checkpoints:
                run.set_tags({"reelscribe.checkpoints": checkpoints.root})
            with progress("training") as advance, stoppable(folder):
                follower = Follower(config, _spec(config, data), folder, run, clips=len(data.train), advance=advance, report=report)
                trained = _fit_or_stop(config, data, folder, follower, checkpoints)
            raw = _evaluate(config, splits, data, trained, folder / "model", pool, progress)
            clips = _clips_to_keep(config, load_bundle(folder / "model"), list(raw.truth.values()), pool)
        bundle, evaluation = _finish(config, data, trained, raw, leaks, folder / "model", data_digest, clips)
        spent = time_spent(decoding_s, follower.speeds, follower.storing_s)
        run.log_metrics(spent.metrics)
        _log_results(run, folder, trained, bundle, raw, evaluation, data)
        if checkpoints and (last := checkpoints.newest()) and "://" not in checkpoints.root:
            run.log_artifact(Path(checkpoints.root) / last.name, "checkpoints")
        version = _register_or_say(config, bundle, run.run_id, uri)
        ended(folder)
    return TrainingResult(
        bundle=bundle,
        evaluation=evaluation,
        failures=data.failures,
        leaks=leaks,
        epoch_s=follower.epoch_s,
        spent=spent,
        run_id=run.run_id,
        tracking_uri=uri,
        version=version,
        alias_kept=config.tracking.alias if version and config.tracking.alias not in version.aliases else "",
    )


def _with_tokens(splits: Splits, config: Config) -> Splits:
    """Of captions, what the network gives are the tokens of the training captions."""
    if config.task != "caption":
        return splits
    try:
        return replace(splits, labels=config.caption.learn_tokens(caption for row in splits.train for caption in row["captions"]))
    except ValueError as error:
        raise ManifestError(f"{config.data.manifest}: {error}") from error


def log_recipe(run: RunTracker, config: Config, data_digest: str, num_rows: int) -> None:
    """What it takes to repeat a run: its config, and which data it saw."""
    run.log_params(config.model_dump(mode="json"))
    run.log_text(config.to_yaml(), CONFIG_FILE)
    run.log_dataset(name=config.name, source=config.data.manifest, digest=data_digest, context="training", num_rows=num_rows)


def check_writable(folder: Path) -> None:
    """Raises UsageError for a folder that cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"the output folder {folder} cannot be written: {error.strerror}; choose another by output=FOLDER") from error


def _ready_to_keep(config: Config, folder: Path, data: TrainingData) -> Checkpoints:
    """Before a training that may take hours: checkpoints can be written, and one that is there was made with these clips."""
    checkpoints = checkpoints_of(config, folder, data.digest)
    checkpoints.check_writable()
    found = checkpoints.newest()
    if found:
        checkpoints.require_same(found)
    return checkpoints


def _fit_or_stop(config: Config, data: TrainingData, folder: Path, follower: Follower, checkpoints: Checkpoints | None) -> Trained:
    try:
        return _fit(config, data, folder, follower, checkpoints)
    except StoppedError as error:
        if not checkpoints:
            raise
        raise StoppedError(f"{error}; to go on: the same command, or reelscribe train --resume {folder.name}") from None


def _fit(config: Config, data: TrainingData, folder: Path, follower: Follower, checkpoints: Checkpoints | None) -> Trained:
    """Run the loop, in this process or on Ray."""
    if on_ray(config):
        return train_on_ray(config, data, folder=folder, on_epoch=follower.on_epoch, on_step=follower.on_step, checkpoints=checkpoints)
    trainer = Trainer(
        untrained(config, data.labels),
        config.training,
        data,
        seed=config.seed,
        device=pick_device(config.training.device),
        augmentation=config.augmentation,
        caption=config.caption,
        folder=folder,
        checkpoints=checkpoints,
        on_step=follower.on_step,
    )
    return trainer.fit(follower.on_epoch)


def _spec(config: Config, data: TrainingData, **extra: Any) -> BundleSpec:
    return BundleSpec(
        name=config.name,
        task=config.task,
        labels=data.labels,
        model=config.model,
        sampling=config.sampling,
        transform=config.transform,
        caption=config.caption,
        **extra | TASKS[config.task].facts(data.train.targets),
    )


def _evaluate(
    config: Config, splits: Splits, data: TrainingData, trained: Trained, folder: Path, pool: DecodePool, progress: OpenProgress
) -> Evaluation:
    """What the saved weights say of the validation clips, from the video files on, before any calibration."""
    draft = save_bundle(folder, spec=_spec(config, data), state=trained.state, card="")
    with progress("evaluating") as advance:
        predictor = Predictor(draft, config.training.device)
        return evaluate(predictor, splits.val, pool=pool, decode=config.decode, progress=advance)


def _clips_to_keep(config: Config, bundle: ModelBundle, rows: list[dict[str, Any]], pool: DecodePool) -> list[TimedFrames]:
    """Validation clips from all over the table, their first frames; a captioner has no other runtime to hold against torch."""
    count = 0 if config.task == "caption" else min(config.evaluation.keep_clips, len(rows))
    chosen = [rows[i * len(rows) // count] for i in range(count)]
    requests = (
        (i, bundle.request(row["uri"], row["start_s"], row["end_s"], backend=config.decode.backend)) for i, row in enumerate(chosen)
    )
    views = [clip.views[0] for _, clip in sorted(pool.map(requests), key=lambda found: found[0]) if isinstance(clip, Clip)]
    clips = [(view.pixels[:_MOST_KEPT], seconds_between(view.pts_seconds)[:_MOST_KEPT]) for view in views]
    sizes = np.cumsum([frames.nbytes for frames, _ in clips])
    return [clip for clip, size in zip(clips, sizes, strict=True) if size <= MOST_CLIP_BYTES]


def _finish(
    config: Config,
    data: TrainingData,
    trained: Trained,
    raw: Evaluation,
    leaks: tuple[Leak, ...],
    folder: Path,
    data_digest: str,
    clips: Sequence[TimedFrames],
) -> tuple[ModelBundle, Evaluation]:
    """Save the model whole: where it gives labels of clips, calibrated on the validation clips."""
    git = git_state(Path.cwd())
    spec = _spec(
        config,
        data,
        leaks=len(leaks),
        config_digest=hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        data_digest=data_digest,
        git_commit=git.commit if git else "",
    )
    evaluation = raw
    if raw.logits():
        spec, evaluation = _calibrated(spec, raw, config.evaluation.precision)
    if config.task == "caption":
        spec, evaluation = _calibrated_captions(spec, raw)
    measure, scores = by_label(evaluation.scores)
    spec = spec.model_copy(update={"metrics": evaluation.scores.metrics | spec.metrics, "label_measure": measure, "label_scores": scores})
    card = model_card(spec, config, data, evaluation, leaks, num_clips=len(clips))
    return save_bundle(folder, spec=spec, state=trained.state, card=card, clips=clips), evaluation


def _calibrated(spec: BundleSpec, raw: Evaluation, precision: float) -> tuple[BundleSpec, Evaluation]:
    """With a temperature, and the calibration error before; of a single label also with a threshold. All from the validation clips."""
    logits = torch.from_numpy(np.stack(list(raw.logits().values())))
    targets = torch.tensor([TASKS[spec.task].target(row, spec.labels) for row in raw.truth.values()])
    before = {"ece_before": raw.scores.metrics["ece"]}
    spec = spec.model_copy(update={"temperature": fit_temperature(logits, targets), "metrics": before})
    if spec.task == "single_label":
        threshold = precision_threshold(*read_anew(raw, spec).confidences(), precision)
        spec = spec.model_copy(update={"precision": precision, "threshold": threshold})
    return spec, read_anew(raw, spec)


def _calibrated_captions(spec: BundleSpec, raw: Evaluation) -> tuple[BundleSpec, Evaluation]:
    """With confidences that are the probability of what a person would write, from the validation clips."""
    log_probabilities = np.array([found.log_probabilities[0] for found in raw.captions().values()])
    slope, offset = fit_confidence(log_probabilities, raw.confidences()[1])
    spec = spec.model_copy(update={"caption_slope": slope, "caption_offset": offset})
    return spec, read_anew(raw, spec)


def _log_results(
    run: RunTracker, folder: Path, trained: Trained, bundle: ModelBundle, raw: Evaluation, evaluation: Evaluation, data: TrainingData
) -> None:
    """Final metrics, pictures, recall by class and the list of failures go to the run; the pictures stay in the folder too."""
    run.log_metrics(bundle.spec.metrics | {"epoch": trained.epoch, "failures": len(data.failures)})
    figure = TASKS[evaluation.task].figure
    curves(trained.history, folder / "curves.png", figure=figure)
    pictures = ["curves.png"]
    if isinstance(evaluation.scores, ClassificationScores):
        confusion_matrix(evaluation.scores.confusion, bundle.spec.labels, folder / "confusion_matrix.png")
        calibration(
            reliability(*raw.confidences()),
            reliability(*evaluation.confidences()),
            folder / "reliability.png",
            errors=(raw.scores.metrics["ece"], evaluation.scores.metrics["ece"]),
            threshold=bundle.spec.threshold,
        )
        pictures += ["confusion_matrix.png", "reliability.png"]
    for name in pictures:
        run.log_artifact(folder / name, "pictures")
    failures = [asdict(failure) for failure in data.failures]
    measure, values = by_label(evaluation.scores)
    # a label may hold signs that the name of a metric may not
    run.log_text(json.dumps(failures, indent=2, ensure_ascii=False), "failures.json")
    if values:
        run.log_text(json.dumps(values, indent=2, ensure_ascii=False), f"{measure.replace(' ', '_')}.json")


def _register_or_say(config: Config, bundle: ModelBundle, run_id: str, uri: str) -> ModelVersion | None:
    """As ``_register``; hours of training are not lost because the server is away just now."""
    try:
        return _register(config, bundle, run_id, uri)
    except ServiceUnavailableError as error:
        raise TrackingLostError(
            f"the training is done and its model is kept in {bundle.folder}, but it could not be registered: {error}; "
            "the same command registers it, without training again"
        ) from error


def _register(config: Config, bundle: ModelBundle, run_id: str, uri: str) -> ModelVersion | None:
    """A new version; it takes the alias over unless the version that holds it did better on the same data, or its own figures are leaky."""
    if not config.tracking.register_model:
        return None
    name, alias = config.tracking.register_as or config.name, config.tracking.alias
    if bundle.spec.leaks:
        alias = ""
    if alias:
        held = f"name = '{name}' and alias = '{alias}' and tags.`reelscribe.data_digest` = '{bundle.spec.data_digest}'"
        headline = TASKS[config.task].headline
        before = [version.metrics[headline.metric] for version in query_versions(held, uri=uri) if headline.metric in version.metrics]
        if any(headline.better(value, bundle.spec.metrics[headline.metric]) for value in before):
            alias = ""
    return register_model(bundle.folder, run_id=run_id, name=name, alias=alias, uri=uri)
