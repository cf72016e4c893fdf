"""The exported graph of a model: made once for its weights and kept in the cache, read without torch.

A graph takes the frames of one view as they were decoded. Where every clip has as many frames (all sampling but ``rate``) it takes all at
once; else it takes chunks, and carries the state of the network from one to the next, so that one graph serves clips of any length.

``first.onnx``  frames (K, H, W, 3) of bytes, of which the first ``length`` (1,) count, and ``gaps`` (K,) for a model that takes them
                -> ``logits``, (C,) or, frame by frame, (K, C); and in chunks the state after them, ``after.NAME``
``next.onnx``   in chunks, the same with the state before them, ``before.NAME``
``sample.npz``  clips that training kept with the model, else drawn ones, and what torch says of them
``graph.json``  see Graph; written last, by the process that imports torch
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from reelscribe.pipeline.bundle import BundleSpec, ModelBundle
from reelscribe.pipeline.config import user_cache
from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.sampling import RateSampling

FIRST_FILE, NEXT_FILE, SAMPLE_FILE, GRAPH_FILE = "first.onnx", "next.onnx", "sample.npz", "graph.json"
CHUNK_FRAMES = 16
_FORMAT = 2  # to be raised when the same model gives another graph

FloatArray = npt.NDArray[np.float32]


class Graph(BaseModel):
    """What ``graph.json`` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    num_frames: int = Field(ge=1, description="K, frames that the graph takes at once")
    height: int
    width: int
    takes_gaps: bool
    per_frame: bool
    state: tuple[str, ...] | None = Field(description="names of what is carried between chunks; null where a clip is one")
    real_sample: bool = Field(description="whether the sample is of real clips")
    torch_version: str


@dataclass(frozen=True, kw_only=True)
class GraphFolder:
    """A graph on this machine."""

    folder: Path
    graph: Graph

    @classmethod
    def load(cls, folder: Path) -> Self:
        """One that is there."""
        return cls(folder=folder, graph=Graph.model_validate_json((folder / GRAPH_FILE).read_text(encoding="utf-8")))

    @property
    def files(self) -> list[str]:
        """The graph's own, of those above."""
        return [file for file in (FIRST_FILE, NEXT_FILE) if (self.folder / file).is_file()]

    def sample(self) -> list[tuple[npt.NDArray[np.uint8], FloatArray, FloatArray]]:
        """Of each clip frames (T, H, W, 3), gaps (T,), and the logits that torch gives."""
        with np.load(self.folder / SAMPLE_FILE, allow_pickle=False) as arrays:
            return list(zip(arrays["frames"], arrays["gaps"], arrays["logits"], strict=True))


def int8_file(file: str) -> str:
    """A file of the graph in integers of 8 bits, see quantize.py."""
    return Path(file).with_suffix(".int8.xml").name


def num_frames_at_once(spec: BundleSpec) -> int:
    """Frames that the graph of a model takes in one call: all of a clip, or a chunk of a clip of any length."""
    if isinstance(spec.sampling, RateSampling):
        return spec.sampling.max_frames if spec.model.bidirectional else min(CHUNK_FRAMES, spec.sampling.max_frames)
    return spec.sampling.num_frames


def in_chunks(spec: BundleSpec) -> bool:
    """Whether a clip may have more frames than the graph takes at once."""
    return isinstance(spec.sampling, RateSampling) and num_frames_at_once(spec) < spec.sampling.max_frames


def require_exportable(spec: BundleSpec) -> None:
    """Raises ModelError for a captioner, whose words are searched for step by step."""
    if spec.task == "caption":
        raise ModelError(f"'{spec.name}' says captions, which only the runtime torch does; other tasks can be exported")


def graph_of(bundle: ModelBundle) -> GraphFolder:
    """The graph of a model, from the cache, or made now by a process of its own, which imports torch. Raises ModelError."""
    require_exportable(bundle.spec)
    folder = user_cache() / "graphs" / _key(bundle)
    if not (folder / GRAPH_FILE).is_file():
        _make(bundle, folder)
    return GraphFolder.load(folder)


def require_int8(graph: GraphFolder) -> None:
    """Have the graph in integers of 8 bits, which takes a while once. Raises ModelError where the model came without real clips."""
    if all((graph.folder / int8_file(file)).is_file() for file in graph.files):
        return
    if not graph.graph.real_sample or len(graph.sample()) < 2:
        raise ModelError(
            "the model came without two clips to calibrate 8-bit integers and to judge them (evaluation.keep_clips); use --runtime openvino"
        )
    run_apart("reelscribe.pipeline.runtimes.quantize", graph.folder)


def _key(bundle: ModelBundle) -> str:
    """Everything that a graph depends on."""
    spec = bundle.spec.model_dump(mode="json")
    content = {
        "format": _FORMAT,
        "weights": bundle.weights_digest,
        "clips": bundle.clips_digest,
        "frames": [num_frames_at_once(bundle.spec), in_chunks(bundle.spec)],
        "outputs": len(bundle.spec.labels),
        **{name: spec[name] for name in ("task", "model", "transform")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _make(bundle: ModelBundle, folder: Path) -> None:
    """Whole or not at all; where two processes make it at once, the first one's stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary:
        new = Path(temporary) / "new"
        run_apart("reelscribe.pipeline.runtimes.trace", bundle.folder, new)
        try:
            new.rename(folder)
        except OSError:
            if not (folder / GRAPH_FILE).is_file():
                raise


def run_apart(module: str, *arguments: object) -> None:
    """A module of ours as a process that imports what this one must not. Raises ModelError with the last line it complained with."""
    command: list[Any] = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=dict(os.environ), check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ModelError(f"the model cannot be exported: {lines[-1]}; use --runtime torch")
