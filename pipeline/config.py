"""The schema of a run: every key with its type, its default and what it does, checked before anything starts.

``reelscribe.pipeline.config_files`` reads it from YAML.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from reelscribe.pipeline.captions import CaptionConfig
from reelscribe.pipeline.config_keys import COMPARED_SECTIONS, keys_of, types_of
from reelscribe.pipeline.errors import nearest
from reelscribe.pipeline.sampling import DenseSampling, SamplingSpec, UniformSampling
from reelscribe.pipeline.video.types import Backend, DecodeLimits, FrameSize

Task = Literal["single_label", "multi_label", "value", "dense", "caption"]
MONITORS: dict[Task, tuple[str, ...]] = {
    "single_label": ("val_loss", "val_top1", "val_macro_f1"),
    "multi_label": ("val_loss", "val_exact_match", "val_map"),
    "value": ("val_loss", "val_mae"),
    "dense": ("val_loss", "val_frame_accuracy"),
    "caption": ("val_loss", "val_cider", "val_exact_match"),
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    """Where the labelled clips are and how they are split."""

    manifest: str = Field(description="CSV, TSV, JSONL or Parquet label file, or a folder of class folders")
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = Field(default="test", description="never trained on nor chosen by; looked at only to see that it does not leak")
    val_fraction: float = Field(default=0.2, gt=0, lt=1, description="share held out, by whole groups, where there is no split column")
    split_seed: int = Field(default=0, ge=0, lt=2**32, description="of what is held out at random; the seed of the run does not change it")
    folds: int = Field(default=0, ge=0, description="train and validate so many times, by whole groups; 0 takes the split")
    fold: str = Field(default="", description="hold out this fold alone: a value of the fold column, else a number from 0")
    leak_check: Literal["frames", "files"] = Field(
        default="frames", description="look for clips that are, or look, the same in training and held-out data; files compares only bytes"
    )
    allow_leaks: bool = Field(default=False, description="train in spite of leaks, and mark the result")

    @field_validator("folds")
    @classmethod
    def _at_least_two(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one fold holds everything out; expected 0, or 2 or more")
        return value


class TransformConfig(_Section):
    """How a frame becomes the encoder's input."""

    height: int = Field(default=112, ge=8)
    width: int = Field(default=112, ge=8)
    fit: Literal["stretch", "crop"] = Field(default="stretch", description="scale to the size, or scale the short side and crop the middle")

    @property
    def frame_size(self) -> FrameSize:
        """The size as decoding takes it."""
        return FrameSize(height=self.height, width=self.width, fit=self.fit)


class AugmentationConfig(_Section):
    """Random changes of training clips, the same for every frame of a clip.

    Those of the picture are made once for each view, before the encoder. Those of time and of features are made anew in each epoch, on
    what is stored, and so cost no decoding and no encoding.
    """

    views: int = Field(default=1, ge=1, description="different augmented copies of each clip; with a frozen encoder each is encoded once")
    time_jitter: bool = True
    # of the picture
    horizontal_flip: bool = Field(default=False, description="leave off where a label has a left or a right")
    crop_scale: float = Field(default=1.0, gt=0, le=1, description="smallest share of the frame's sides that a random crop keeps")
    brightness: float = Field(default=0.0, ge=0, lt=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    saturation: float = Field(default=0.0, ge=0, lt=1)
    hue: float = Field(default=0.0, ge=0, le=0.5, description="largest turn of the colour circle, as a share of it")
    erasing: float = Field(default=0.0, ge=0, le=1, description="share of the views with one grey box, at one place in all frames")
    # of time, and of features
    speed: float = Field(default=0.0, ge=0, lt=4, description="up to 1 + speed times faster or slower, by leaving out or repeating frames")
    time_warp: float = Field(default=0.0, ge=0, lt=1, description="how far the clip's middle moves, as a share of its half: 0 not at all")
    time_crop: float = Field(default=1.0, gt=0, le=1, description="smallest share of the clip's frames that a random window keeps")
    frame_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of the frames that are left out")
    feature_noise: float = Field(
        default=0.0, ge=0, description="normal noise on stored features, in standard deviations of each channel; only with a frozen encoder"
    )

    @property
    def changes_time(self) -> bool:
        """Whether an epoch sees other frames of a stored view than all of them in their order."""
        return self.time_crop < 1 or bool(self.speed or self.time_warp or self.frame_dropout)

    @property
    def of_pixels(self) -> dict[str, Any]:
        """The settings that a stored view depends on, beside its number and its seed."""
        return self.model_dump(include={"horizontal_flip", "crop_scale", "brightness", "contrast", "saturation", "hue", "erasing"})


class ModelConfig(_Section):
    """The recognizer: plain keyword parameters of reelscribe.models.recognizer.Recognizer."""

    encoder: str = Field(default="tf_efficientnet_lite0", description="a name from `reelscribe.models.encoders.ENCODERS`, or timm/NAME")
    weights: str = Field(default="package", description="package, hub, none, or a file of tensors")
    encoder_input: Literal["frames", "changes"] = Field(
        default="frames", description="what the encoder sees: pictures, or what changed in them since the frame before"
    )
    stride: int = Field(default=16, description="pixels of input per cell of the grid the encoder gives")
    trainable_stages: int = Field(default=0, ge=0, description="last stages of the encoder that learn; 0 freezes it")
    temporal_shift: bool = Field(
        default=False,
        description="each residual block of the encoder sees an eighth of its channels as they were in the frame before (TSM)",
    )
    motion: Literal["none", "difference", "running_mean", "shift", "shift_difference"] = Field(
        default="running_mean",
        description="how motion shows: the change since the frame before, or against the mean so far; channels taken from the frame before",
    )
    projection: int = Field(default=32, ge=1, description="channels that a 1x1 convolution keeps of each grid cell")
    pooling: Literal["none", "mean_max"] = Field(
        default="none", description="keep every cell in its place, or only mean and maximum over them, where it does not matter where"
    )
    recurrent: Literal["rnn_tanh", "lstm", "gru", "convgru", "mingru", "minlstm", "transformer", "mean"] = "gru"
    hidden_size: int = Field(default=256, ge=1)
    layers: int = Field(default=1, ge=1)
    layer_norm: bool = Field(default=False, description="normalise what each recurrent layer gives")
    residual: bool = Field(default=False, description="add each recurrent layer but the first to what it reads")
    bidirectional: bool = Field(default=False, description="half of the core reads the clip from its end; such a model cannot be stepped")
    groups: int = Field(default=1, ge=1, description="independent parts of rnn_tanh, lstm or gru, mixed after each layer")
    context: int | None = Field(default=None, ge=1, description="frames that the transformer sees; null is 64")
    state_channels: int | None = Field(default=None, ge=1, description="channels of each cell in convgru's state; null is as projection")
    time_gaps: bool = Field(default=False, description="tell the core how many seconds lie between frames, where they are sampled unevenly")
    readout: Literal["last", "mean", "max", "attention"] = "attention"
    dropout: float = Field(default=0.3, ge=0, lt=1)


class CheckpointConfig(_Section):
    """What a training that was stopped goes on from."""

    every_epochs: int = Field(default=1, ge=0, description="epochs between two checkpoints; 0 leaves none at the end of epochs")
    every_steps: int = Field(default=0, ge=0, description="optimizer steps between two, inside epochs too; 0 leaves none inside")
    keep: int = Field(default=2, ge=1, description="newest ones that are kept; the one of the best epoch is kept beside them")
    folder: str = Field(default="", description="a folder, or s3://bucket/prefix; empty is the run's own folder in the output folder")


class TrainingConfig(_Section):
    """The loop and where it runs."""

    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=16, ge=1, description="clips per optimizer step, over all workers")
    accumulate: int = Field(default=1, ge=1, description="parts of a worker's batch that go through the network one after the other")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the forward pass; weights and validation stay in fp32")
    tbptt_frames: int = Field(default=0, ge=0, description="frames that gradients flow back through, with the state carried on; 0 is all")
    learning_rate: float = Field(default=1e-3, gt=0)
    encoder_learning_rate: float = Field(default=1e-4, gt=0, description="of the encoder's stages that learn")
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="factor on the encoder's rate for each stage further from its end")
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=3, ge=0)
    schedule: Literal["cosine", "plateau"] = Field(
        default="cosine", description="after the warm-up: a cosine to zero, or a cut each time the monitored figure stands still"
    )
    plateau_factor: float = Field(default=0.3, gt=0, lt=1, description="what a cut multiplies the learning rate by")
    plateau_patience: int = Field(default=5, ge=0, description="epochs that the monitored figure may stand still before a cut")
    clip_norm: float = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = Field(default="none", description="balanced: rare classes weigh more in the loss")
    balanced_sampling: bool = Field(default=False, description="draw every class equally often, with repeats")
    scheduled_sampling: float = Field(
        default=0.0, ge=0, le=1, description="share of words that a captioner hears from itself in the last epoch; it grows from 0"
    )
    self_critical_epochs: int = Field(
        default=0, ge=0, description="last epochs, in which a captioner learns from CIDEr-D of sentences that it draws at random"
    )
    mixup: float = Field(default=0.0, ge=0, description="alpha of the Beta distribution that blends two clips; 0 is off")
    ema_decay: float = Field(default=0.0, ge=0, lt=1, description="average of the weights that is evaluated and kept; 0 is off")
    monitor: Literal["val_loss", "val_top1", "val_macro_f1", "val_exact_match", "val_map", "val_mae", "val_frame_accuracy", "val_cider"] = (
        Field(default="val_loss", description="what patience and plateau look at; each task has its own")
    )
    patience: int = Field(default=0, ge=0, description="epochs without a better monitored figure before stopping; 0 never stops early")
    gradient_health_every: int = Field(default=0, ge=0, description="epochs between two looks at the gradients; 0 never looks")
    checkpoint: CheckpointConfig = CheckpointConfig()
    workers: int = Field(default=1, ge=1, description="more than one trains on Ray")
    min_workers: int = Field(
        default=0,
        ge=0,
        description="the fewest that Ray begins with, or goes on with where a node is gone; 0 waits for all; numbers agree to rounding",
    )
    gpus_per_worker: float = Field(default=0.0, ge=0, description="on Ray")
    max_restarts: int = Field(
        default=10, ge=0, description="times that Ray starts all workers again, from the newest checkpoint, as one died"
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="of one worker without Ray: auto, cpu, cuda or cuda:N"
    )

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> Self:
        """Settings that would undo each other, or do nothing."""
        if self.min_workers > self.workers:
            raise ValueError(f"min_workers={self.min_workers} is more than workers={self.workers}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate={self.accumulate} is more parts than batch_size={self.batch_size} has clips")
        if self.self_critical_epochs >= self.epochs:
            raise ValueError(f"self_critical_epochs={self.self_critical_epochs}: epochs={self.epochs} leave none to learn to speak in")
        if self.balanced_sampling and self.class_weights == "balanced":
            raise ValueError("balanced_sampling and class_weights=balanced would correct the same thing twice; choose one")
        if self.monitor != "val_loss" and not self.patience and self.schedule != "plateau":
            raise ValueError(f"monitor={self.monitor} is looked at only with patience or schedule=plateau; set one of them")
        return self


class EvaluationConfig(_Section):
    """What is asked of the finished model."""

    precision: float = Field(
        default=0.95, gt=0, lt=1, description="share of right labels wanted among the accepted ones; sets the confidence that accepts one"
    )
    keep_clips: int = Field(
        default=8, ge=0, description="validation clips whose frames are stored with the model, to hold runtimes against torch"
    )


class DecodeConfig(_Section):
    """Readers and their limits."""

    backend: Backend = "auto"
    workers: int = Field(default=0, ge=0, description="decode processes; 0 is one per core")
    timeout_s: float = Field(default=60.0, gt=0, le=86400, description="wall clock per clip")
    memory_mb: int = Field(default=2048, ge=64, description="memory a decode process may add while it reads one clip")
    truncated: Literal["fail", "use"] = Field(default="fail", description="a cut or damaged video fails, or what decodes of it is used")

    @property
    def limits(self) -> DecodeLimits:
        """The limits as decoding takes them."""
        return DecodeLimits(timeout_s=self.timeout_s, memory_mb=self.memory_mb, truncated=self.truncated)

    @property
    def num_workers(self) -> int:
        """Decode processes to start."""
        return self.workers or usable_cores()


class TrackingConfig(_Section):
    """MLflow."""

    uri: str = Field(default="", description="tracking server; empty takes MLFLOW_TRACKING_URI, else SQLite in the folder runs/")
    experiment: str = "reelscribe"
    register_model: bool = Field(default=True, description="make the result a new version of a registered model")
    register_as: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$", description="its name; empty takes the config's name")
    alias: str = Field(
        default="champion",
        pattern=r"^[A-Za-z0-9_-]*$",
        description="alias for the new version, unless a better one of the same data holds it; empty gives none",
    )

    @field_validator("alias")
    @classmethod
    def _allowed_by_mlflow(cls, value: str) -> str:
        """MLflow keeps these for itself, and would say so only after the training."""
        if re.fullmatch(r"latest|v\d+", value, re.IGNORECASE):
            raise ValueError("MLflow reserves 'latest' and 'v' with a number; choose another word")
        return value


class ClusterConfig(_Section):
    """Ray."""

    address: str = Field(
        default="", description="local, auto or HOST:PORT; empty needs no Ray for one worker; from elsewhere, reelscribe submit"
    )

    @field_validator("address")
    @classmethod
    def _no_client(cls, value: str) -> str:
        """Ray Train does not run through Ray's client; its Jobs API serves the same end, and lives on when the connection is lost."""
        if value.startswith("ray://"):
            host = value.removeprefix("ray://").rpartition(":")[0] or value.removeprefix("ray://")
            raise ValueError(
                "Ray Train does not work through ray://; hand the same command to the cluster, with its paths and without cluster.address: "
                f"reelscribe submit --address http://{host}:8265 -- train ..."
            )
        return value


class SearchRange(_Section):
    """What one key may be: one of these."""

    choice: list[Any] | None = Field(default=None, min_length=1)
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = Field(default=None, description="each order of magnitude is as likely as the next")
    integer: tuple[int, int] | None = Field(default=None, description="both ends included")

    @model_validator(mode="after")
    def _one_and_sound(self) -> Self:
        given = {name: value for name, value in self if value is not None}
        if len(given) != 1:
            raise ValueError(f"expected one of choice, uniform, log_uniform and integer, got {', '.join(given) or 'none'}")
        for name, ends in given.items():
            if name != "choice" and (ends[0] >= ends[1] or (name == "log_uniform" and ends[0] <= 0)):
                raise ValueError(f"{name}={list(ends)}: expected the lower end first" + (", above 0" if name == "log_uniform" else ""))
        return self


class SearchConfig(_Section):
    """What `reelscribe tune` tries; the figure that trials are compared by is training.monitor."""

    trials: int = Field(default=20, ge=1)
    sampler: Literal["random", "optuna"] = Field(default="random", description="optuna learns from the trials before: reelscribe[optuna]")
    scheduler: Literal["asha", "none"] = Field(default="asha", description="asha ends trials early that fall behind (arXiv 1810.05934)")
    grace_epochs: int = Field(default=5, ge=1, description="epochs that asha gives every trial")
    space: dict[str, SearchRange] = Field(default={}, description="keys of the config, and what each may be")

    @field_validator("space")
    @classmethod
    def _keys_there_are(cls, value: dict[str, SearchRange]) -> dict[str, SearchRange]:
        for key in value:
            section = key.partition(".")[0]
            if section not in COMPARED_SECTIONS or not types_of(Config, key.split(".")):
                known = [f"{name}.{one}" for name in COMPARED_SECTIONS for one in keys_of(Config, [name])]
                raise ValueError(f"unknown key '{key}'" + (nearest(key, known) or f" (keys of {', '.join(COMPARED_SECTIONS)})"))
        return value


class Config(_Section):
    """One training run, complete."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    task: Task = Field(
        default="single_label",
        description="what a clip is given: one label, any number of labels, a number, a label for each frame, or a sentence",
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    output: str = Field(default="runs", description="folder for models, checkpoints, the feature cache and the SQLite store")
    data: DataConfig
    sampling: SamplingSpec = UniformSampling()
    transform: TransformConfig = TransformConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    caption: CaptionConfig = CaptionConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    decode: DecodeConfig = DecodeConfig()
    tracking: TrackingConfig = TrackingConfig()
    cluster: ClusterConfig = ClusterConfig()
    search: SearchConfig = SearchConfig()

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the numbers of a training and the name of the result, not where it runs and what it keeps."""
        placement = {"workers", "min_workers", "gpus_per_worker", "max_restarts", "device", "checkpoint"}
        whole = dict.fromkeys(("output", "tracking", "cluster", "decode", "search"), True)
        return self.model_dump(mode="json", exclude={**whole, "training": placement, "evaluation": {"keep_clips"}})

    def to_yaml(self) -> str:
        """The whole config, as ``load_config`` reads it again."""
        from omegaconf import OmegaConf

        return OmegaConf.to_yaml(OmegaConf.create(self.model_dump(mode="json")))

    @model_validator(mode="after")
    def _noise_on_features(self) -> Self:
        """Frames of bytes are stored where the encoder learns, and noise of its features has no meaning there."""
        if self.augmentation.feature_noise and self.model.trainable_stages:
            raise ValueError("augmentation.feature_noise needs stored features, that is model.trainable_stages=0")
        return self

    @model_validator(mode="after")
    def _stepped_only_forward(self) -> Self:
        """Both run the clip piece by piece, which a core that reads from the end cannot."""
        for key in ("tbptt_frames", "gradient_health_every"):
            if self.model.bidirectional and getattr(self.training, key):
                raise ValueError(f"training.{key} needs a model that can be stepped, that is model.bidirectional=false")
        return self

    @model_validator(mode="after")
    def _fits_the_task(self) -> Self:
        """Settings that mean nothing for the task are refused, as they would do nothing."""
        if self.training.monitor not in MONITORS[self.task]:
            raise ValueError(f"training.monitor={self.training.monitor}: task={self.task} has {', '.join(MONITORS[self.task])}")
        for setting, value, tasks in (
            ("training.class_weights", "none", ("single_label",)),
            ("training.balanced_sampling", False, ("single_label",)),
            ("training.label_smoothing", 0.0, ("single_label", "multi_label", "dense", "caption")),
            ("training.scheduled_sampling", 0.0, ("caption",)),
            ("training.self_critical_epochs", 0, ("caption",)),
            ("training.mixup", 0.0, ("single_label", "multi_label", "value")),
            ("training.tbptt_frames", 0, ("single_label", "multi_label", "value", "dense")),
            ("training.gradient_health_every", 0, ("single_label", "multi_label", "value", "dense")),
            ("evaluation.precision", EvaluationConfig().precision, ("single_label",)),
        ):
            section, _, key = setting.partition(".")
            found = getattr(getattr(self, section), key)
            if self.task not in tasks and found != value:
                raise ValueError(f"{setting}={found} is for {' or '.join(tasks)}; with task={self.task} set it to {json.dumps(value)}")
        if self.task != "caption" and self.caption != CaptionConfig():
            raise ValueError(f"caption: these settings are for task=caption; with task={self.task} leave them as they are")
        if self.task in ("dense", "caption") and isinstance(self.sampling, DenseSampling) and self.sampling.num_views > 1:
            raise ValueError(f"sampling.num_views: task={self.task} looks at one view of a clip; set it to 1")
        return self

    @field_validator("sampling", mode="before")
    @classmethod
    def _uniform_unless_said(cls, value: Any) -> Any:
        """``sampling.num_frames=8`` is enough: no kind means the default kind."""
        return {"kind": "uniform", **value} if isinstance(value, dict) else value


def usable_cores() -> int:
    """Cores that this process may use: in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def user_cache() -> Path:
    """What may be made again: ``REELSCRIBE_CACHE``, else a folder in the user's cache."""
    if own := os.environ.get("REELSCRIBE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "reelscribe"
