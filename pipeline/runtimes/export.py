"""A model as a folder that runs without us: ``reelscribe export``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.errors import ModelError, OutputConflictError, UsageError
from reelscribe.pipeline.runtimes.graphs import FIRST_FILE, GRAPH_FILE, NEXT_FILE, Graph, require_exportable, run_apart
from reelscribe.pipeline.sampling import AnySampling, DenseSampling, KeyframeSampling, RateSampling, UniformSampling
from reelscribe.pipeline.video.clip import Clip, read_clip
from reelscribe.pipeline.video.types import seconds_between

Format = Literal["onnx", "openvino", "torch"]
_SUFFIX: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt"}
_NEEDS: dict[Format, str] = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
_RATE = 12.0  # frames per second of the example
_WORDS = {
    "frames": "RGB bytes (frames, height, width, 3), as scaled; the model itself brings them to the range that its network was trained on",
    "length": "how many of the frames count; the rest is zeros",
    "gaps": "seconds from the frame before, 0 at the first; of models that take them",
    "before.*, after.*": "what is carried from one chunk of frames to the next: give after.X back as before.X",
    "logits": "one number a label, or for each frame one a label",
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    format: Format
    files: tuple[str, ...]


def export(bundle: ModelBundle, out: Path, format: Format) -> Exported:  # noqa: A002
    """Write the folder, whole or not at all, and run its example before it is there.

    Raises UsageError for a package that is missing, ModelError for a captioner or an example that does not give the model's numbers,
    OutputConflictError where ``out`` exists and is not empty.
    """
    require_exportable(bundle.spec)
    if util.find_spec(_NEEDS[format]) is None:
        raise UsageError(f"--format {format}: the package {_NEEDS[format]} is not installed; pip install 'reelscribe[runtimes]'")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputConflictError(f"{out} is there already; give a new or empty folder as --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".export-") as temporary:
        graph, new = Path(temporary) / "graph", Path(temporary) / "new"
        run_apart("reelscribe.pipeline.runtimes.trace", bundle.folder, graph, *(["torchscript"] if format == "torch" else []))
        new.mkdir()
        files = _copy_model(graph, new, format)
        _write_example(bundle, new)
        facts = Graph.model_validate_json((graph / GRAPH_FILE).read_text(encoding="utf-8"))
        text = json.dumps(_description(bundle, facts, files, format), indent=2, ensure_ascii=False)
        (new / "description.json").write_text(text + "\n", encoding="utf-8")
        (new / "README.md").write_text(_readme(bundle, format), encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("standalone.py"), new / "example.py")
        _run_example(new)
        if out.is_dir():
            out.rmdir()
        new.rename(out)
    return Exported(folder=out, format=format, files=tuple(sorted(file.name for file in out.iterdir())))


def _copy_model(graph: Path, new: Path, format: Format) -> dict[str, dict[str, list[str]]]:  # noqa: A002
    """The model's files in a format, with the names of what goes in and comes out."""
    facts = Graph.model_validate_json((graph / GRAPH_FILE).read_text(encoding="utf-8"))
    inputs = ["frames", "length", *(["gaps"] if facts.takes_gaps else [])]
    outputs = ["logits", *(f"after.{name}" for name in facts.state or ())]
    before = [f"before.{name}" for name in facts.state or ()]
    found = {}
    for file, more in ((FIRST_FILE, []), (NEXT_FILE, before)):
        if not (graph / file).is_file():
            continue
        name = Path(file).with_suffix(_SUFFIX[format]).name
        if format == "openvino":
            import openvino

            openvino.save_model(openvino.Core().read_model(graph / file), new / name, compress_to_fp16=False)
        else:
            shutil.copyfile(graph / name, new / name)
        found[name] = {"inputs": [*inputs, *more], "outputs": outputs}
    return found


def _write_example(bundle: ModelBundle, new: Path) -> None:
    """``example.mp4``, drawn, and ``example.npz``: its frames as this model sees them, and the logits that torch gives."""
    from reelscribe.pipeline.predictor import Predictor
    from reelscribe.pipeline.runtimes.trace import draw_clips
    from reelscribe.pipeline.video.writer import write_video

    size = bundle.spec.transform
    shape = (1, round(_RATE * _seconds(bundle.spec.sampling)), 2 * size.height, 2 * size.width)
    write_video(new / "example.mp4", draw_clips(np.random.default_rng(1), shape)[0], frame_rate=_RATE)
    clip: Clip = read_clip(bundle.request(str(new / "example.mp4"), backend="pyav"))
    logits = Predictor(bundle, "cpu").logits([(view.pixels, seconds_between(view.pts_seconds)) for view in clip.views])
    np.savez_compressed(new / "example.npz", logits=logits, **{f"frames{i}": view.pixels for i, view in enumerate(clip.views)})  # type: ignore[arg-type]


def _seconds(sampling: AnySampling) -> float:
    """Long enough for the plan, and for a second chunk."""
    match sampling:
        case DenseSampling(num_frames=count, stride_s=stride):
            return count * stride + 1
        case RateSampling(frames_per_second=rate, max_frames=count):
            return max(2.0, min(count, 20) / rate)
        case UniformSampling() | KeyframeSampling():
            return 2.0


def _description(bundle: ModelBundle, graph: Graph, files: dict[str, Any], format: Format) -> dict[str, Any]:  # noqa: A002
    spec = bundle.spec.model_dump(mode="json")
    names = ("name", "task", "labels", "sampling", "temperature", "precision", "threshold", "value_mean", "value_deviation")
    return {
        **{name: spec[name] for name in names},
        "format": format,
        "files": files,
        "num_frames": graph.num_frames,
        "per_frame": graph.per_frame,
        "frame_size": {"height": graph.height, "width": graph.width, "fit": bundle.spec.transform.frame_size.fit},
        "weights_digest": bundle.weights_digest,
        "in_words": _WORDS,
    }


def _readme(bundle: ModelBundle, format: Format) -> str:  # noqa: A002
    spec = bundle.spec
    scale = "stretched" if spec.transform.frame_size.fit == "stretch" else "scaled to cover it, and the middle cut out"
    after = {
        "single_label": "softmax(logits / temperature), the mean over the views; the largest is the label and its confidence",
        "multi_label": "sigmoid(logits / temperature) of each label, the mean over the views; labels from 0.5 on",
        "dense": "softmax(logits) of each frame; the largest is the frame's label",
        "value": "the mean over the views, times value_deviation, plus value_mean",
        "caption": "",
    }[spec.task]
    accepted = "" if spec.precision is None else f"\nAccepted from a confidence of `threshold` on, for a precision of {spec.precision:g}."
    return f"""# {spec.name}

A model of the task `{spec.task}`, exported for {_NEEDS[format]}.
`python example.py VIDEO` labels a video with {_NEEDS[format]}, PyAV and NumPy; `python example.py` checks it on `example.mp4`, as was
done when it was made. `description.json` has every number and name.

1. Sampling: {spec.sampling.model_dump_json()}; `plan` in `example.py` makes times of it, in seconds;
   of each time the frame on screen counts.
2. Frames: RGB bytes of {spec.transform.height} x {spec.transform.width} (height x width), {scale};
   area average. Nothing else: the model brings them to its range itself.
3. The model: at most `num_frames` frames at once, with zeros after them where there are fewer, and `length`, how many count.
4. Labels: {after}.{accepted}
"""


def _run_example(folder: Path) -> None:
    """Raises ModelError where the example does not give the model's numbers."""
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ModelError(f"the exported model does not say what the model says: {lines[-1]}; nothing was written")
