"""Exported graphs against torch: every core, clips as long as the sample and shorter, whole and in chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelscribe.pipeline.bundle import BundleSpec, load_bundle, new_recognizer, save_bundle
from reelscribe.pipeline.config import ModelConfig, Task, TransformConfig
from reelscribe.pipeline.runtimes.engines import open_engine
from reelscribe.pipeline.runtimes.graphs import GRAPH_FILE, Graph, GraphFolder
from reelscribe.pipeline.runtimes.names import GraphRuntime
from reelscribe.pipeline.runtimes.trace import trace
from reelscribe.pipeline.sampling import AnySampling, RateSampling, UniformSampling

WHOLE, CHUNKS = UniformSampling(num_frames=6), RateSampling(frames_per_second=4, max_frames=40)


def exported(folder: Path, sampling: AnySampling, task: Task = "single_label", **keywords: Any) -> GraphFolder:
    """A model with random weights, and its graph."""
    model, transform = ModelConfig(encoder="tiny", weights="none", hidden_size=16, **keywords), TransformConfig(height=32, width=48)
    labels = () if task == "value" else ("a", "b", "c")
    network = new_recognizer(model, transform, num_classes=len(labels) or 1, per_frame=task == "dense")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    spec = BundleSpec(name="m", task=task, labels=labels, model=model, sampling=sampling, transform=transform)
    trace(save_bundle(folder / "model", spec=spec, state=network.state_dict(), card=""), folder / "graph")
    return GraphFolder(folder=folder / "graph", graph=Graph.model_validate_json((folder / "graph" / GRAPH_FILE).read_text()))


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
