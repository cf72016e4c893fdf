"""Which runtime a model is run by: what agrees with torch on the model's sample, and of those the fastest.

What was found is kept beside the graph, for this machine and these versions. ``python -m reelscribe.pipeline.runtimes.choice MODEL_FOLDER``
finds all of it in a process of its own, as torch is measured too.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from reelscribe.pipeline.answers import probabilities
from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.runtimes.engines import open_engine
from reelscribe.pipeline.runtimes.graphs import FloatArray, GraphFolder, graph_of, run_apart
from reelscribe.pipeline.runtimes.names import GRAPH_RUNTIMES, GraphRuntime, Runtime, RuntimeChoice, machine, refusal, require_usable

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
    if wanted in GRAPH_RUNTIMES:
        verdict = agreement(bundle, wanted)
        if verdict.reason:
            raise ModelError(f"runtime '{wanted}': {verdict.reason}")
        if not verdict.agrees:
            raise ModelError(f"runtime '{wanted}' {verdict.say()} on the model's sample (allowed: {TOLERANCE}); use --runtime torch")
    return Chosen(runtime=wanted, why="as asked")


def _fastest(bundle: ModelBundle, device: str) -> Chosen:
    if bundle.spec.task == "caption":
        return Chosen(runtime="torch", why="the only one for captions")
    if device not in ("auto", "cpu"):
        return Chosen(runtime="torch", why=f"the others do not run on {device}")
    if all(refusal(runtime) for runtime in GRAPH_RUNTIMES):
        return Chosen(runtime="torch", why=f"alone here: {refusal('openvino')}")
    try:
        graph = graph_of(bundle)
    except ModelError as error:
        return Chosen(runtime="torch", why=str(error))
    if "torch" not in _load(graph).verdicts:
        run_apart("reelscribe.pipeline.runtimes.choice", bundle.folder)
    verdicts = _load(graph).verdicts
    agreeing: dict[Runtime, float] = {name: found.clip_ms or 0.0 for name, found in verdicts.items() if found.agrees}
    best = min(agreeing, key=lambda name: agreeing[name])
    return Chosen(runtime=best, why="; ".join(f"{name}: {verdicts[name].say()}" for name in sorted(verdicts, key=lambda n: n != best)))


def agreement(bundle: ModelBundle, runtime: GraphRuntime) -> Verdict:
    """How a runtime agrees with torch, from what was kept or found now."""
    graph = graph_of(bundle)
    found = _load(graph)
    if runtime not in found.verdicts or found.verdicts[runtime].reason:
        found.verdicts[runtime] = _try(bundle, graph, runtime)
        _save(graph, found)
    return found.verdicts[runtime]


def _try(bundle: ModelBundle, graph: GraphFolder, runtime: GraphRuntime) -> Verdict:
    if reason := refusal(runtime):
        return Verdict(reason=reason)
    try:
        engine = open_engine(graph, runtime)
    except ModelError as error:
        return Verdict(reason=str(error))
    sample = graph.sample()
    clips = [(frames, gaps) for frames, gaps, _ in sample]
    judged = slice(1, None, 2) if runtime == "openvino-int8" else slice(None)  # not those that it was calibrated on
    found = [probabilities(logits, bundle.spec) for logits in engine(clips)[judged]]
    truth = [probabilities(logits, bundle.spec) for _, _, logits in sample[judged]]
    return Verdict(
        difference=max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(found, truth, strict=True)),
        same_top=all(_same_top(ours, theirs) for ours, theirs in zip(found, truth, strict=True)),
        clip_ms=_clip_ms(lambda: engine(clips), len(clips)),
    )


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


def _measure_all(bundle: ModelBundle) -> None:
    """Every runtime of this machine, and torch."""
    graph = graph_of(bundle)
    for runtime in GRAPH_RUNTIMES:
        agreement(bundle, runtime)
    import torch

    network = bundle.build()
    sample = [(torch.from_numpy(frames).permute(0, 3, 1, 2)[None], torch.from_numpy(gaps)[None]) for frames, gaps, _ in graph.sample()]
    length = torch.tensor([sample[0][0].shape[1]])

    def run() -> None:
        for frames, gaps in sample:
            network(frames, length, gaps if graph.graph.takes_gaps else None)

    with torch.inference_mode():
        run()
        clip_ms = _clip_ms(run, len(sample))
    found = _load(graph)
    found.verdicts["torch"] = Verdict(difference=0.0, same_top=True, clip_ms=clip_ms)
    _save(graph, found)


def _file(graph: GraphFolder) -> Path:
    return graph.folder / f"runtimes-{hashlib.sha256(machine().encode()).hexdigest()[:16]}.json"


def _load(graph: GraphFolder) -> _Found:
    """What is known here; a file that another version wrote is as none."""
    try:
        return _Found.model_validate_json(_file(graph).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _Found()


def _save(graph: GraphFolder, found: _Found) -> None:
    """Seen by others whole or not at all."""
    temporary = _file(graph).with_suffix(f".{os.getpid()}")
    temporary.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    temporary.rename(_file(graph))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _measure_all(load_bundle(Path(sys.argv[1])))
