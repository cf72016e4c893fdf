"""Exported graphs against torch: every core, clips as long as the sample and shorter, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelscribe.pipeline.bundle import BundleSpec, load_bundle, new_recognizer, save_bundle
from reelscribe.pipeline.config import ModelConfig, Task, TransformConfig
from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.runtimes.engines import open_engine
from reelscribe.pipeline.runtimes.graphs import GraphFolder, int8_file
from reelscribe.pipeline.runtimes.names import GraphRuntime
from reelscribe.pipeline.runtimes.trace import draw_clips, trace
from reelscribe.pipeline.sampling import AnySampling, RateSampling, UniformSampling
from reelscribe.pipeline.video.types import TimedFrames

WHOLE, CHUNKS = UniformSampling(num_frames=6), RateSampling(frames_per_second=4, max_frames=40)


def exported(
    folder: Path, sampling: AnySampling, task: Task = "single_label", *, clips: Sequence[TimedFrames] = (), **keywords: Any
) -> GraphFolder:
    """A model with random weights, and its graph."""
    model, transform = ModelConfig(encoder="tiny", weights="none", hidden_size=16, **keywords), TransformConfig(height=32, width=48)
    labels = () if task == "value" else ("a", "b", "c")
    network = new_recognizer(model, transform, num_classes=len(labels) or 1, per_frame=task == "dense")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    spec = BundleSpec(name="m", task=task, labels=labels, model=model, sampling=sampling, transform=transform)
    trace(save_bundle(folder / "model", spec=spec, state=network.state_dict(), card="", clips=clips), folder / "graph")
    return GraphFolder.load(folder / "graph")


@pytest.mark.parametrize(
    ("sampling", "task", "keywords"),
    [
        *((WHOLE, "single_label", {"recurrent": core}) for core in ("lstm", "rnn_tanh", "convgru", "minlstm")),
        *((CHUNKS, "single_label", {"recurrent": core}) for core in ("gru", "mingru", "transformer", "mean")),
        (CHUNKS, "dense", {"encoder_input": "changes", "time_gaps": True}),
        (CHUNKS, "multi_label", {"bidirectional": True, "readout": "max"}),
        (WHOLE, "dense", {"readout": "max", "motion": "shift_difference"}),
        (WHOLE, "value", {"readout": "last", "layers": 2, "layer_norm": True}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_graphs_say_what_torch_says(sampling: AnySampling, task: Task, keywords: dict[str, Any], tmp_path: Path) -> None:
    graph = exported(tmp_path, sampling, task, **keywords)
    network = load_bundle(tmp_path / "model").build()
    sample = graph.sample()
    assert (graph.graph.state is None) == (len(sample[0][0]) == graph.graph.num_frames)
    runtimes: tuple[GraphRuntime, ...] = ("openvino", "onnxruntime")
    for runtime in runtimes:
        engine = open_engine(graph, runtime)
        for count in (len(sample[0][0]), 5):  # frames
            said = engine([(frames[:count], gaps[:count]) for frames, gaps, _ in sample])
            for (frames, gaps, _), ours in zip(sample, said, strict=True):
                clip = torch.from_numpy(frames[:count]).permute(0, 3, 1, 2)[None]
                with torch.inference_mode():
                    gap = torch.from_numpy(gaps[:count])[None] if graph.graph.takes_gaps else None
                    truth = network(clip, torch.tensor([count]), gap)[0].numpy()
                np.testing.assert_allclose(ours, truth, atol=1e-4)


def test_integers_of_8_bits_are_calibrated_on_the_clips_of_the_model(tmp_path: Path) -> None:
    import openvino

    frames = draw_clips(np.random.default_rng(3), (4, 5, 32, 48))
    graph = exported(tmp_path, CHUNKS, clips=[(clip, np.full(5, 0.2, dtype=np.float32)) for clip in frames])
    sample = graph.sample()
    np.testing.assert_array_equal(sample[1][0][:5], frames[1])
    said = open_engine(graph, "openvino-int8")([(clip, gaps) for clip, gaps, _ in sample])
    truth = np.stack([logits for _, _, logits in sample])
    difference = (torch.from_numpy(np.stack(said)).softmax(1) - torch.from_numpy(truth).softmax(1)).abs().max().item()
    assert 0 < difference < 0.05
    for file in graph.files:
        kinds = [op.get_type_name() for op in openvino.Core().read_model(graph.folder / int8_file(file)).get_ops()]
        assert "FakeQuantize" in kinds


def test_without_real_clips_there_are_no_integers(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="came without two clips to calibrate"):
        open_engine(exported(tmp_path, WHOLE), "openvino-int8")
