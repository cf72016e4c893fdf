"""A graph in integers of 8 bits: ``python -m reelscribe.pipeline.runtimes.quantize GRAPH_FOLDER``, a process that may import torch.

Post-training calibration by NNCF: the ranges of the numbers between layers are those that real clips give, which training kept with the
model. What NNCF does not quantize stays fp32.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["NNCF_CI"] = "1"  # read as it is imported: else it reports its use to its makers

import nncf
import openvino

from reelscribe.pipeline.runtimes.engines import Arrays, Engine, OpenVinoEngine
from reelscribe.pipeline.runtimes.graphs import GraphFolder, int8_file


class _Recorder(Engine):
    """Keeps what each of the files is given."""

    def __init__(self, graph: GraphFolder) -> None:
        super().__init__(graph)
        self.inputs: dict[str, list[Arrays]] = {file: [] for file in graph.files}
        self.engine = OpenVinoEngine(graph, "f32")

    def run(self, file: str, inputs: Arrays) -> Arrays:
        self.inputs[file].append(inputs)
        return self.engine.run(file, inputs)


def quantize(graph: GraphFolder) -> None:
    """Write each of the graph's files once more; seen by others whole or not at all."""
    recorder = _Recorder(graph)
    recorder([(frames, gaps) for frames, gaps, _ in graph.sample()[::2]])  # on the others it is held against torch
    for file, inputs in recorder.inputs.items():
        model = openvino.Core().read_model(graph.folder / file)
        names = [port.get_any_name() for port in model.inputs]
        data = nncf.Dataset([{name: given[name] for name in names} for given in inputs])
        quantized = nncf.quantize(model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(inputs))
        with tempfile.TemporaryDirectory(dir=graph.folder) as temporary:
            new = Path(temporary) / int8_file(file)
            openvino.save_model(quantized, new, compress_to_fp16=False)
            new.with_suffix(".bin").replace((graph.folder / new.name).with_suffix(".bin"))
            new.replace(graph.folder / new.name)  # last: where this file is, both are


if __name__ == "__main__":
    quantize(GraphFolder.load(Path(sys.argv[1])))
