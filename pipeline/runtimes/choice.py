"""Which runtime a model is run by: what agrees with torch on the model's sample, and of those the fastest.

What was found is kept beside the graph, for this machine, these versions and the device that was asked for.
``python -m reelscribe.pipeline.runtimes.choice MODEL_FOLDER DEVICE`` finds all of it in a process of its own, as torch is measured too.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from reelscribe.pipeline.answers import probabilities
from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.errors import ModelError, ReelScribeError
from reelscribe.pipeline.runtimes.engines import open_engine
from reelscribe.pipeline.runtimes.graphs import FloatArray, GraphFolder, graph_of, run_apart
from reelscribe.pipeline.runtimes.names import GRAPH_RUNTIMES, Runtime, RuntimeChoice, gpus, machine, refusal, require_usable
from reelscribe.pipeline.video.types import TimedFrames

TOLERANCE = 0.02  # of a probability; of a value, in deviations of its training clips
_ROUNDS = 3


class Verdict(BaseModel):
    """How a runtime did on the sample. Without a difference it was not tried, for ``reason``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    difference: float | None = None  # the largest from torch, of any probability
    same_top: bool | None = None  # the most probable label is torch's; of two that torch gives as much, within the tolerance, either
    clip_ms: float | None = None  # wall clock, of clips that run side by side
    reason: str = ""

    @property
    def agrees(self) -> bool:
        """Whether its labels can stand for torch's."""
        return self.difference is not None and self.difference <= TOLERANCE and bool(self.same_top)

    def say(self) -> str:
        """In words."""
        if self.reason:
            return self.reason
        if not self.agrees:
            return f"differs from torch by {self.difference:.3f}{'' if self.same_top else ', with another label on top'}"
        return f"{self.clip_ms:.0f} ms a clip"


class _Found(BaseModel):
    model_config = ConfigDict(extra="forbid")

    verdicts: dict[Runtime, Verdict] = {}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A runtime, and why."""

    runtime: Runtime
    why: str


def choose(bundle: ModelBundle, wanted: RuntimeChoice, device: str) -> Chosen:
    """The runtime to use. Raises UsageError for one that cannot be used here, ModelError for one whose answers differ from torch's."""
    if wanted == "auto":
        return _fastest(bundle, device)
    require_usable(wanted, device)
    if wanted == "torch-compile":
        from reelscribe.pipeline.predictor import pick_gpu

        pick_gpu(device)
    if wanted != "torch":
        verdict = agreement(bundle, wanted, device)
        if verdict.reason:
            raise ModelError(f"runtime '{wanted}': {verdict.reason}")
        if not verdict.agrees:
            raise ModelError(f"runtime '{wanted}' {verdict.say()} on the model's sample (allowed: {TOLERANCE}); use --runtime torch")
    return Chosen(runtime=wanted, why="as asked")


def _fastest(bundle: ModelBundle, device: str) -> Chosen:
    if bundle.spec.task == "caption":
        return Chosen(runtime="torch", why="the only one for captions")
    if device == "cpu" or not gpus():
        if device not in ("auto", "cpu"):
            return Chosen(runtime="torch", why=f"the others do not run on {device}")
        if all(refusal(runtime) for runtime in GRAPH_RUNTIMES):
            return Chosen(runtime="torch", why=f"alone here: {refusal('openvino')}")
    try:
        graph = graph_of(bundle)
    except ModelError as error:
        return Chosen(runtime="torch", why=str(error))
    if "torch" not in _load(graph, device).verdicts:
        run_apart("reelscribe.pipeline.runtimes.choice", bundle.folder, device)
    verdicts = _load(graph, device).verdicts
    agreeing: dict[Runtime, float] = {name: found.clip_ms or 0.0 for name, found in verdicts.items() if found.agrees or name == "torch"}
    best = min(agreeing, key=lambda name: agreeing[name])
    return Chosen(runtime=best, why="; ".join(f"{name}: {verdicts[name].say()}" for name in sorted(verdicts, key=lambda n: n != best)))


def _measure_all(bundle: ModelBundle, device: str) -> None:
    """Every runtime of this machine and device, torch as the last."""
    from reelscribe.pipeline.predictor import pick_device

    on_gpu: tuple[Runtime, ...] = ("torch-compile",) if pick_device(device).type == "cuda" else ()
    for runtime in (*(GRAPH_RUNTIMES if device in ("auto", "cpu") else ()), *on_gpu, "torch"):
        agreement(bundle, runtime, device)


def agreement(bundle: ModelBundle, runtime: Runtime, device: str) -> Verdict:
    """How a runtime agrees with what torch said on a CPU, from what was kept or found now."""
    graph = graph_of(bundle)
    found = _load(graph, device)
    if runtime not in found.verdicts or found.verdicts[runtime].reason:
        found.verdicts[runtime] = _try(bundle, graph, runtime, device)
        _save(graph, device, found)
    return found.verdicts[runtime]


def _try(bundle: ModelBundle, graph: GraphFolder, runtime: Runtime, device: str) -> Verdict:
    sample = graph.sample()
    clips = [(frames, gaps) for frames, gaps, _ in sample]
    try:
        run = _runner(bundle, graph, runtime, device)
        said = run(clips)
    except (ReelScribeError, RuntimeError) as error:  # the latter of torch.compile, which needs a compiler of C++
        return Verdict(reason=str(error).strip().partition("\n")[0])
    judged = slice(1, None, 2) if runtime == "openvino-int8" else slice(None)  # not those that it was calibrated on
    found = [probabilities(logits, bundle.spec) for logits in said[judged]]
    truth = [probabilities(logits, bundle.spec) for _, _, logits in sample[judged]]
    return Verdict(
        difference=max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(found, truth, strict=True)),
        same_top=all(_same_top(ours, theirs) for ours, theirs in zip(found, truth, strict=True)),
        clip_ms=_clip_ms(lambda: run(clips), len(clips)),
    )


def _runner(bundle: ModelBundle, graph: GraphFolder, runtime: Runtime, device: str) -> Callable[[Sequence[TimedFrames]], list[FloatArray]]:
    """Frames and gaps of clips -> the logits of each. Raises ReelScribeError for a runtime that cannot be used here."""
    if runtime == "torch" or runtime == "torch-compile":
        from reelscribe.pipeline.predictor import Predictor

        predictor = Predictor(bundle, device, compiled=runtime == "torch-compile")
        return lambda clips: [predictor.logits([clip])[0] for clip in clips]
    if reason := refusal(runtime):
        raise ModelError(reason)
    return open_engine(graph, runtime)


def _same_top(ours: FloatArray, truth: FloatArray) -> bool:
    """(..., C) both; of each, the label that we put on top has torch's largest probability, or one that its tolerance cannot tell apart."""
    at_ours = np.take_along_axis(truth, ours.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    return bool((truth.max(axis=-1) - at_ours <= TOLERANCE).all())


def _clip_ms(run: Callable[[], object], num_clips: int) -> float:
    """The shortest of a few rounds, by wall clock: what else the machine does only makes one longer."""
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times) * 1000 / num_clips


def _file(graph: GraphFolder, device: str) -> Path:
    return graph.folder / f"runtimes-{hashlib.sha256(f'{machine()} {device}'.encode()).hexdigest()[:16]}.json"


def _load(graph: GraphFolder, device: str) -> _Found:
    """What is known here; a file that another version wrote is as none."""
    try:
        return _Found.model_validate_json(_file(graph, device).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _Found()


def _save(graph: GraphFolder, device: str, found: _Found) -> None:
    """Seen by others whole or not at all."""
    file = _file(graph, device)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    temporary.rename(file)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _measure_all(load_bundle(Path(sys.argv[1])), sys.argv[2])
