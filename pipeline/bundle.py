"""A trained model as a folder: tensors and readable JSON, nothing that runs when it is opened.

``model.json``           everything needed to use the model: network, labels, sampling, frame size, temperature, origin
``weights.safetensors``  the tensors
``README.md``            the model card
``clips.npz``            frames of some validation clips, where they were kept: runtimes are held against torch on them
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reelscribe.pipeline.captions import CaptionConfig
from reelscribe.pipeline.config import Config, ModelConfig, Task, TransformConfig
from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.sampling import SamplingSpec
from reelscribe.pipeline.video.clip import ClipRequest
from reelscribe.pipeline.video.types import Backend, TimedFrames
from reelscribe.pipeline.vocabulary import vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from reelscribe.models.captioner import Captioner
    from reelscribe.models.recognizer import Recognizer

SPEC_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"
CLIPS_FILE = "clips.npz"
MOST_CLIP_BYTES = 64 * 2**20  # of frames


class BundleSpec(BaseModel):
    """What ``model.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    task: Task = "single_label"
    labels: tuple[str, ...] = Field(description="in the order of the outputs; none for a value, the vocabulary of captions")
    model: ModelConfig
    caption: CaptionConfig = CaptionConfig()
    sampling: SamplingSpec
    transform: TransformConfig
    temperature: float = Field(default=1.0, gt=0, description="logits are divided by it; fitted on the validation split")
    precision: float | None = Field(default=None, gt=0, lt=1, description="wanted of accepted labels; None accepts and refuses nothing")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="confidence from which on a label is accepted; None: no confidence gives the precision"
    )
    value_mean: float = Field(default=0.0, description="of the training clips; the network gives deviations from it")
    value_deviation: float = Field(default=1.0, gt=0, description="of the training clips; the unit in which the network gives them")
    caption_slope: float = Field(default=1.0, gt=0, description="of a caption's confidence; fitted on the validation split")
    caption_offset: float = 0.0
    leaks: int = Field(default=0, ge=0, description="pairs of training and held-out clips known not to be independent")
    metrics: dict[str, float] = {}
    label_measure: str = Field(default="", description="what label_scores are: recall, or average precision")
    label_scores: dict[str, float] = Field(default={}, description="of the labels that some validation clip has")
    config_digest: str = ""
    data_digest: str = ""
    git_commit: str = ""
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="after")
    def _labels_fit_the_task(self) -> Self:
        if bool(self.labels) == (self.task == "value"):
            raise ValueError(f"{len(self.labels)} labels for the task '{self.task}'")
        if self.task == "caption":
            vocabulary(self.labels)  # raises ValueError for a list that is none
        return self

    def caption_confidence(self, log_probability: float) -> float:
        """The probability that a caption is what a person would write, from the mean log-probability of its tokens (Platt 1999)."""
        return 1 / (1 + math.exp(-(self.caption_slope * log_probability + self.caption_offset)))


@dataclass(frozen=True)
class ModelBundle:
    """An opened model folder."""

    folder: Path
    spec: BundleSpec

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the weights file, hex."""
        return file_digest(self.folder / WEIGHTS_FILE)

    @cached_property
    def clips_digest(self) -> str | None:
        """SHA-256 of the file of clips, hex; None where there is none."""
        return file_digest(self.folder / CLIPS_FILE) if (self.folder / CLIPS_FILE).is_file() else None

    def clips(self) -> list[TimedFrames]:
        """Real ones that training kept; none of a captioner, or of a model made without. Raises ModelError for a file of other things."""
        file = self.folder / CLIPS_FILE
        if not file.is_file():
            return []
        try:
            with zipfile.ZipFile(file) as parts:
                if (size := sum(part.file_size for part in parts.infolist())) > 2 * MOST_CLIP_BYTES:
                    raise ValueError(f"{size} bytes are more than clips have")
            with np.load(file, allow_pickle=False) as arrays:
                clips = [(arrays[f"frames{i}"], arrays[f"gaps{i}"]) for i in range(len(arrays.files) // 2)]
            for frames, gaps in clips:
                wanted = (len(gaps), self.spec.transform.height, self.spec.transform.width, 3)
                if frames.shape != wanted or not gaps.size or (frames.dtype, gaps.dtype) != (np.uint8, np.float32):
                    raise ValueError(f"expected frames {wanted} of bytes, got {frames.shape} of {frames.dtype}")
        except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            raise ModelError(f"{file} does not hold clips that this model sees: {error}") from error
        return clips

    def request(
        self,
        uri: str,
        start_s: float | None = None,
        end_s: float | None = None,
        *,
        backend: Backend = "auto",
    ) -> ClipRequest:
        """What to decode of one video for this model: its sampling plan at its frame size."""
        return ClipRequest(
            uri=uri,
            start_s=start_s,
            end_s=end_s,
            sampling=self.spec.sampling,
            size=self.spec.transform.frame_size,
            backend=backend,
        )

    def build(self) -> Recognizer | Captioner:
        """The network with its weights, in eval mode, on the CPU. Raises ModelError if the tensors do not fit."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        model = _network(self.spec, self.spec.labels, weights="none")
        try:
            model.load_state_dict(load_file(self.folder / WEIGHTS_FILE))
        except (SafetensorError, RuntimeError) as error:
            raise ModelError(f"{self.folder / WEIGHTS_FILE}: the tensors do not fit the network in {SPEC_FILE}: {error}") from error
        return model.eval()


def file_digest(file: Path) -> str:
    """SHA-256 of a file, hex."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def num_outputs(labels: Sequence[str]) -> int:
    """Numbers that the network gives: one for each label, or the value."""
    return len(labels) or 1


def untrained(config: Config, labels: Sequence[str]) -> Recognizer | Captioner:
    """The network that a training starts from."""
    return _network(config, labels, seed=config.seed)


def _network(of: Config | BundleSpec, labels: Sequence[str], *, seed: int = 0, weights: str | None = None) -> Recognizer | Captioner:
    if of.task == "caption":
        return new_captioner(of.model, of.transform, of.caption, num_tokens=len(labels), seed=seed, weights=weights)
    return new_recognizer(of.model, of.transform, num_classes=num_outputs(labels), per_frame=of.task == "dense", seed=seed, weights=weights)


def new_recognizer(
    model: ModelConfig, transform: TransformConfig, *, num_classes: int, per_frame: bool = False, seed: int = 0, weights: str | None = None
) -> Recognizer:
    """The network that a config describes; the seed fixes its first weights, ``weights`` overrides where the encoder's come from."""
    import torch

    from reelscribe.models.recognizer import Recognizer

    keywords: dict[str, Any] = model.model_dump() | ({"weights": weights} if weights else {})
    torch.manual_seed(seed)
    try:
        return Recognizer(num_classes=num_classes, per_frame=per_frame, frame_size=(transform.height, transform.width), **keywords)
    except (ValueError, OSError) as error:
        raise ModelError(str(error)) from error


def new_captioner(
    model: ModelConfig, transform: TransformConfig, caption: CaptionConfig, *, num_tokens: int, seed: int = 0, weights: str | None = None
) -> Captioner:
    """As new_recognizer, for a captioner."""
    import torch

    from reelscribe.models.captioner import Captioner

    keywords: dict[str, Any] = model.model_dump() | caption.network | ({"weights": weights} if weights else {})
    torch.manual_seed(seed)
    try:
        return Captioner(num_tokens=num_tokens, frame_size=(transform.height, transform.width), **keywords)
    except (ValueError, OSError) as error:
        raise ModelError(str(error)) from error


def save_bundle(folder: Path, *, spec: BundleSpec, state: dict[str, Tensor], card: str, clips: Sequence[TimedFrames] = ()) -> ModelBundle:
    """Write a model folder whole or not at all; a folder already there is replaced.

    ``state`` maps names to tensors (``Recognizer.state_dict()``), ``card`` is Markdown, ``clips`` are real ones, for runtimes to be held
    against torch on, and calibrated.
    """
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, new / WEIGHTS_FILE)
        if clips:
            arrays = {f"{name}{i}": array for i, clip in enumerate(clips) for name, array in zip(("frames", "gaps"), clip, strict=True)}
            np.savez_compressed(new / CLIPS_FILE, **arrays)  # type: ignore[arg-type]
        (new / CARD_FILE).write_text(card, encoding="utf-8")
        (new / SPEC_FILE).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
        old = Path(temporary) / "old"
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    return ModelBundle(folder, spec)


def load_bundle(folder: Path) -> ModelBundle:
    """Open a model folder. Raises ModelError if it is not one."""
    file = folder / SPEC_FILE
    if not file.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise ModelError(f"{folder} holds no model: expected {SPEC_FILE} and {WEIGHTS_FILE} in it")
    try:
        return ModelBundle(folder, BundleSpec.model_validate_json(file.read_text(encoding="utf-8")))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not a model description that this version reads: {error}") from error
