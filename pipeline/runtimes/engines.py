"""What runs graphs: OpenVINO and ONNX Runtime, each behind the same call. Torch is not imported."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from reelscribe.pipeline.config import usable_cores
from reelscribe.pipeline.runtimes.graphs import FIRST_FILE, NEXT_FILE, FloatArray, GraphFolder, int8_file, require_int8
from reelscribe.pipeline.runtimes.names import GraphRuntime
from reelscribe.pipeline.video.types import TimedFrames

_CLIPS_AT_ONCE = 8  # as many as a batch of labelling has
Arrays = Mapping[str, npt.NDArray[Any]]


class Engine(ABC):
    """Runs clips side by side, each by itself, on all usable cores: what it says of one never depends on another."""

    def __init__(self, graph: GraphFolder) -> None:
        self.graph = graph.graph
        self.lanes = min(usable_cores(), _CLIPS_AT_ONCE)
        self.threads = max(1, usable_cores() // self.lanes)  # of each lane
        self._pool = ThreadPoolExecutor(self.lanes, thread_name_prefix="inference")

    def __call__(self, clips: Sequence[TimedFrames]) -> list[FloatArray]:
        """Frames (T, H, W, 3) and gaps (T,) -> logits (C,), or (T, C) frame by frame, of each."""
        return list(self._pool.map(lambda clip: self._clip(*clip), clips))

    def _clip(self, frames: npt.NDArray[np.uint8], gaps: FloatArray) -> FloatArray:
        said: list[FloatArray] = []
        carried: dict[str, npt.NDArray[Any]] = {}
        for start in range(0, len(frames), self.graph.num_frames):
            part = frames[start : start + self.graph.num_frames]
            inputs = {"frames": self._padded(part), "length": np.array([len(part)], dtype=np.int64), **carried}
            if self.graph.takes_gaps:
                inputs["gaps"] = self._padded(gaps[start : start + self.graph.num_frames])
            outputs = self.run(NEXT_FILE if carried or start else FIRST_FILE, inputs)
            carried = {f"before.{name}": outputs[f"after.{name}"] for name in self.graph.state or ()}
            logits = np.asarray(outputs["logits"], dtype=np.float32)
            said.append(logits[: len(part)] if self.graph.per_frame else logits)
        return np.concatenate(said) if self.graph.per_frame else said[-1]

    def _padded(self, part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(T, ...) -> (K, ...) with zeros at the end."""
        missing = self.graph.num_frames - len(part)
        return np.ascontiguousarray(np.pad(part, [(0, missing), *[(0, 0)] * (part.ndim - 1)]) if missing else part)

    @abstractmethod
    def run(self, file: str, inputs: Arrays) -> Arrays:
        """One of the graph's files on named inputs; many threads call it at once."""


class OpenVinoEngine(Engine):
    """OpenVINO on the CPU; what it compiles is kept beside the graph, so that later processes start sooner."""

    def __init__(self, graph: GraphFolder, precision: Literal["f32", "bf16", "int8"]) -> None:
        super().__init__(graph)
        import openvino

        if precision == "int8":
            require_int8(graph)
        files = {file: graph.folder / (int8_file(file) if precision == "int8" else file) for file in graph.files}

        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",  # of what is not in integers
            "NUM_STREAMS": str(self.lanes),
            "INFERENCE_NUM_THREADS": str(self.lanes * self.threads),
            "CACHE_DIR": str(graph.folder / "openvino"),
        }
        self._models = {name: core.compile_model(file, "CPU", settings) for name, file in files.items()}
        self._own = threading.local()

    def run(self, file: str, inputs: Arrays) -> Arrays:
        """See Engine."""
        requests = self._own.__dict__
        if file not in requests:
            requests[file] = self._models[file].create_infer_request()
        wanted = {name: inputs[name] for port in self._models[file].inputs for name in port.get_names() if name in inputs}
        results = requests[file].infer(wanted)
        return {output.get_any_name(): array for output, array in results.items()}


class OnnxEngine(Engine):
    """ONNX Runtime on the CPU; its threads wait asleep, as decoding needs the cores too."""

    def __init__(self, graph: GraphFolder) -> None:
        super().__init__(graph)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        self._sessions = {
            file: onnxruntime.InferenceSession(graph.folder / file, options, providers=["CPUExecutionProvider"]) for file in graph.files
        }

    def run(self, file: str, inputs: Arrays) -> Arrays:
        """See Engine."""
        session = self._sessions[file]
        wanted = {port.name: inputs[port.name] for port in session.get_inputs()}  # what does not decide anything is no input
        return dict(zip([output.name for output in session.get_outputs()], session.run(None, wanted), strict=True))


def open_engine(graph: GraphFolder, runtime: GraphRuntime) -> Engine:
    """A graph ready to run."""
    match runtime:
        case "openvino":
            return OpenVinoEngine(graph, "f32")
        case "openvino-bf16":
            return OpenVinoEngine(graph, "bf16")
        case "openvino-int8":
            return OpenVinoEngine(graph, "int8")
        case "onnxruntime":
            return OnnxEngine(graph)
