"""From a trained network to its graph: ``python -m reelscribe.pipeline.runtimes.trace MODEL_FOLDER NEW_FOLDER``. See graphs.py.

The network is traced on frames of the shapes that it will get, all of which are fixed: what depends on a length is computed from ``length``
in the graph. (``torch.export`` gives the same graphs and takes fifteen times as long for them.)
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reelscribe.models.backbone import RecognizerState
from reelscribe.models.recognizer import Recognizer
from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.runtimes.graphs import (
    FIRST_FILE,
    GRAPH_FILE,
    NEXT_FILE,
    SAMPLE_FILE,
    Graph,
    in_chunks,
    num_frames_at_once,
    require_exportable,
)
from reelscribe.pipeline.sampling import RateSampling

_OPSET = 20
_SAMPLE_CLIPS = 4


class _Whole(nn.Module):
    """All frames of a clip at once."""

    def __init__(self, network: Recognizer) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor, length: Tensor, *gaps: Tensor) -> Tensor:
        """(K, H, W, 3), (1,) and, where they are taken, (K,) -> logits (C,) or (K, C)."""
        logits: Tensor = self.network(_clip(frames), length, *(gap[None] for gap in gaps))[0]
        return logits


class _Chunk(nn.Module):
    """The next frames of a clip, and what is carried on."""

    def __init__(self, network: Recognizer, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = names  # of what is carried; none: a clip begins

    def forward(self, frames: Tensor, length: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """As _Whole, and the state before -> logits, and the state after."""
        gaps = others[0][None] if self.network.takes_gaps else None
        before = others[1:] if self.network.takes_gaps else others
        state = RecognizerState.from_tensors(dict(zip(self.names, before, strict=True))) if self.names else None
        if self.network.per_frame:
            logits, after = self.network.frame_logits(_clip(frames), state, gaps)
        else:
            logits, after = self.network.extend(_clip(frames), state, gaps, length)
        return logits[0], *after.to_tensors().values()


def _clip(frames: Tensor) -> Tensor:
    return frames.permute(0, 3, 1, 2)[None]  # (K, H, W, 3) -> (1, K, 3, H, W)


def trace(bundle: ModelBundle, folder: Path, *, torchscript: bool = False) -> None:
    """Write the graph of a model into a new folder, and as ``.pt`` for torch if asked for. Raises ModelError for a captioner."""
    spec = bundle.spec
    require_exportable(spec)
    network = bundle.build()
    assert isinstance(network, Recognizer)
    folder.mkdir(parents=True)
    count = num_frames_at_once(spec)
    frames, gaps = _sample(bundle)
    inputs = {"frames": torch.from_numpy(frames[0, :count]), "length": torch.tensor([count])}
    if network.takes_gaps:
        inputs["gaps"] = torch.from_numpy(gaps[0, :count])
    state: tuple[str, ...] | None = None
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that are constants in the graph, which is what they are meant to be
        if in_chunks(spec):
            chunk = _Chunk(network, ())
            _, *carried = chunk(*inputs.values())
            state = tuple(_names(network, inputs["frames"], inputs.get("gaps")))
            outputs = ["logits", *(f"after.{name}" for name in state)]
            _export(chunk, inputs, outputs, folder / FIRST_FILE, torchscript=torchscript)
            before = {f"before.{name}": tensor for name, tensor in zip(state, carried, strict=True)}
            _export(_Chunk(network, state), inputs | before, outputs, folder / NEXT_FILE, torchscript=torchscript)
        else:
            _export(_Whole(network), inputs, ["logits"], folder / FIRST_FILE, torchscript=torchscript)
        np.savez(folder / SAMPLE_FILE, frames=frames, gaps=gaps, logits=_truth(network, frames, gaps))
    graph = Graph(
        num_frames=count,
        height=spec.transform.height,
        width=spec.transform.width,
        takes_gaps=network.takes_gaps,
        per_frame=network.per_frame,
        state=state,
        real_sample=bundle.clips_digest is not None,
        torch_version=torch.__version__,
    )
    (folder / GRAPH_FILE).write_text(graph.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _sample(bundle: ModelBundle) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """The clips that came with the model, else drawn ones: frames (clips, T, H, W, 3) and seconds between them (clips, T)."""
    spec = bundle.spec
    count = num_frames_at_once(spec)
    if in_chunks(spec):
        assert isinstance(spec.sampling, RateSampling)
        count = min(spec.sampling.max_frames, 2 * count + 3)  # a chunk that is not full, too
    if clips := bundle.clips():
        order = [np.arange(count) % len(frames) for frames, _ in clips]  # shorter ones begin anew
        cut = [(frames[at], gaps[at]) for (frames, gaps), at in zip(clips, order, strict=True)]
        return np.stack([frames for frames, _ in cut]), np.stack([gaps for _, gaps in cut])
    draw = np.random.default_rng(0)
    gaps = draw.uniform(0.05, 0.5, (_SAMPLE_CLIPS, count)).astype(np.float32)
    gaps[:, 0] = 0
    return draw_clips(draw, (_SAMPLE_CLIPS, count, spec.transform.height, spec.transform.width)), gaps


def draw_clips(draw: np.random.Generator, shape: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """Clips (clips, T, H, W, 3) whose light and patches move."""
    _, count, height, width = shape
    y, x, t = np.mgrid[0:height, 0:width, 0:count]
    clips = np.empty((*shape, 3), dtype=np.uint8)
    for clip in clips:
        waves = [
            np.sin(2 * np.pi * (draw.uniform(-3, 3) * y / height + draw.uniform(-3, 3) * x / width + draw.uniform(-2, 2) * t / count))
            for _ in range(3)
        ]
        rows, columns = ((y - draw.uniform(0, height)) / height), ((x - draw.uniform(0, width)) / width - t / count + 0.5)
        patch = (np.abs(rows) < 0.15) & (np.abs(columns) < 0.15)
        for channel, wave in enumerate(waves):  # (H, W, T) -> (T, H, W)
            light = np.where(patch, draw.uniform(0, 255), 128 + 90 * wave)
            clip[..., channel] = np.clip(light, 0, 255).transpose(2, 0, 1)
    return clips


def _truth(network: Recognizer, frames: npt.NDArray[np.uint8], gaps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits of each clip, whole, as the runtime torch gives them."""
    length = torch.tensor([frames.shape[1]])
    said = [
        network(_clip(torch.from_numpy(clip)), length, torch.from_numpy(gap)[None] if network.takes_gaps else None)[0]
        for clip, gap in zip(frames, gaps, strict=True)
    ]
    return torch.stack(said).float().numpy()


def _names(network: Recognizer, frames: Tensor, gaps: Tensor | None) -> list[str]:
    """Of what is carried, in the order of _Chunk."""
    walk = network.frame_logits if network.per_frame else network.extend
    return list(walk(_clip(frames), None, None if gaps is None else gaps[None])[1].to_tensors())


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], file: Path, *, torchscript: bool) -> None:
    if torchscript:
        traced = torch.jit.trace(module.eval(), tuple(inputs.values()), check_trace=False)
        torch.jit.save(traced, file.with_suffix(".pt"))
    torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        file,
        input_names=list(inputs),
        output_names=outputs,
        opset_version=_OPSET,
        dynamo=False,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    trace(load_bundle(Path(sys.argv[1])), Path(sys.argv[2]), torchscript="torchscript" in sys.argv[3:])
