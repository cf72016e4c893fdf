"""Label videos with the exported model in this folder: ``python example.py VIDEO ...``; without a video, check it on ``example.mp4``.

It needs NumPy, PyAV and what runs the model (onnxruntime, openvino or torch), and nothing of the program that exported it. What it does to
frames and numbers is what ``description.json`` says in words.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

FOLDER = Path(__file__).resolve().parent
EXACT = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
AREA = Interpolation.AREA | EXACT
Array = np.ndarray[Any, Any]
Run = Callable[[str, dict[str, Array]], dict[str, Array]]


def plan(sampling: dict[str, Any], start: float, end: float, keyframes: list[float]) -> list[list[float]]:
    """Times in seconds, a list for each view; of each time, the frame on screen is taken."""
    length, kind = end - start, sampling["kind"]
    if kind == "rate":
        rate = sampling["frames_per_second"]
        views = [[start + i / rate for i in range(min(sampling["max_frames"], max(1, int(length * rate + 1e-9))))]]
    elif kind == "dense":
        count, stride, num_views = sampling["num_frames"], sampling["stride_s"], sampling["num_views"]
        slack = length - (count - 1) * stride
        if slack <= 0:
            raise SystemExit(f"the video has {length:g} s, the model needs more than {(count - 1) * stride:g} s")
        views = [[start + slack * (v + 0.5) / num_views + i * stride for i in range(count)] for v in range(num_views)]
    else:
        count = sampling["num_frames"]
        views = [[start + (i + 0.5) * length / count for i in range(count)]]
        if kind == "keyframes":
            views = [[min(keyframes, key=lambda k: abs(k - t)) for t in views[0]]]
    last = end - 1e-6 * max(1.0, length)
    return [[min(max(t, start), last) for t in view] for view in views]


def read(path: Path, description: dict[str, Any]) -> Iterator[tuple[Array, Array]]:
    """Of each view the frames (T, H, W, 3), RGB bytes at the model's size, and the seconds between them (T,)."""
    with av.open(str(path)) as container:
        frames = [frame for frame in container.decode(video=0) if frame.pts is not None]
    times = [float((frame.pts or 0) * (frame.time_base or 0)) for frame in frames]
    end = times[-1] + (times[-1] - times[0]) / max(1, len(times) - 1)
    keyframes = [t for t, frame in zip(times, frames, strict=True) if frame.key_frame]
    for view in plan(description["sampling"], times[0], end, keyframes):
        places = [int(np.searchsorted(times, t, side="right")) - 1 for t in view]
        pixels = np.stack([scaled(frames[place], **description["frame_size"]) for place in places])
        shown = [times[place] for place in places]
        yield pixels, np.abs(np.diff(shown, prepend=shown[0])).astype(np.float32)


def scaled(frame: Any, height: int, width: int, fit: str) -> Array:
    """One frame as RGB bytes: stretched, or scaled to cover and cut to its middle."""
    turns = round(frame.rotation / 90)
    size = np.array((frame.height, frame.width)[:: -1 if turns % 2 else 1])  # as it is shown
    to = np.array((height, width))
    if fit != "stretch":
        to = np.maximum(to, np.round(size * (to / size).max()).astype(int))
    as_stored = to[:: -1 if turns % 2 else 1].tolist()
    method = Interpolation.BICUBIC if as_stored == [frame.height, frame.width] else AREA
    picture = VideoReformatter().reformat(
        frame, height=as_stored[0], width=as_stored[1], format="rgb24", interpolation=method, dst_color_range=ColorRange.JPEG
    )
    top, left = (to - (height, width)) // 2
    return np.rot90(picture.to_ndarray(), turns)[top : top + height, left : left + width]


def load(description: dict[str, Any]) -> Run:
    """What runs one of the model's files on named arrays."""
    if description["format"] == "onnx":
        import onnxruntime

        sessions = {file: onnxruntime.InferenceSession(FOLDER / file, providers=["CPUExecutionProvider"]) for file in description["files"]}

        def run(file: str, inputs: dict[str, Array]) -> dict[str, Array]:
            session = sessions[file]
            results = session.run(None, {port.name: inputs[port.name] for port in session.get_inputs()})
            return dict(zip([port.name for port in session.get_outputs()], results, strict=True))
    elif description["format"] == "openvino":
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        models = {file: openvino.Core().compile_model(FOLDER / file, "CPU", settings) for file in description["files"]}

        def run(file: str, inputs: dict[str, Array]) -> dict[str, Array]:
            model = models[file]
            results = model({name: inputs[name] for port in model.inputs for name in port.get_names() if name in inputs})
            return {port.get_any_name(): array for port, array in results.items()}
    else:
        import torch

        networks = {file: torch.jit.load(str(FOLDER / file)) for file in description["files"]}

        def run(file: str, inputs: dict[str, Array]) -> dict[str, Array]:
            with torch.inference_mode():
                results = networks[file](*(torch.from_numpy(inputs[name]) for name in description["files"][file]["inputs"]))
            arrays = [result.numpy() for result in (results if isinstance(results, tuple) else (results,))]
            return dict(zip(description["files"][file]["outputs"], arrays, strict=True))

    return run


def logits_of(run: Run, description: dict[str, Any], frames: Array, gaps: Array) -> Array:
    """Frames (T, H, W, 3) -> logits (C,), or (T, C) of a model that speaks of each frame."""
    count, (first, *following) = description["num_frames"], description["files"]
    said: list[Array] = []
    carried: dict[str, Array] = {}
    for start in range(0, len(frames), count):
        part = slice(start, start + count)
        missing = count - len(frames[part])
        inputs = {
            "frames": np.pad(frames[part], [(0, missing), (0, 0), (0, 0), (0, 0)]),
            "gaps": np.pad(gaps[part], (0, missing)),
            "length": np.array([count - missing], dtype=np.int64),
            **carried,
        }
        outputs = run(following[0] if carried else first, inputs)
        carried = {f"before.{name.removeprefix('after.')}": array for name, array in outputs.items() if name.startswith("after.")}
        said.append(outputs["logits"][: count - missing] if description["per_frame"] else outputs["logits"])
    return np.concatenate(said) if description["per_frame"] else said[-1]


def answer(logits: list[Array], description: dict[str, Any]) -> dict[str, Any]:
    """Logits of each view -> what the model says."""
    numbers, labels = np.stack(logits) / description["temperature"], description["labels"]
    if description["task"] == "value":
        return {"value": float(np.mean(logits)) * description["value_deviation"] + description["value_mean"]}
    if description["task"] == "multi_label":
        scores = (1 / (1 + np.exp(-numbers))).mean(0)
        found = [labels[i] for i in np.argsort(-scores) if scores[i] >= 0.5]
        return {"labels": found, "scores": dict(zip(labels, scores.tolist(), strict=True))}
    powers = np.exp(numbers - numbers.max(-1, keepdims=True))
    scores = (powers / powers.sum(-1, keepdims=True)).mean(0)
    if description["task"] == "dense":
        return {"labels_of_frames": [labels[i] for i in scores.argmax(-1)]}
    best = int(scores.argmax())
    accepted = None if description["precision"] is None else bool(scores[best] >= (description["threshold"] or 2))
    return {"label": labels[best], "confidence": float(scores[best]), "accepted": accepted}


def check(run: Run, description: dict[str, Any]) -> None:
    """The example: its frames as they were stored, and its numbers from the video and from these frames."""
    with np.load(FOLDER / "example.npz", allow_pickle=False) as example:
        wanted = example["logits"]  # (views, ...)
        for i, (frames, gaps) in enumerate(read(FOLDER / "example.mp4", description)):
            assert np.array_equal(frames, example[f"frames{i}"]), "the frames of example.mp4 are other ones"
            difference = float(np.abs(logits_of(run, description, frames, gaps) - wanted[i]).max())
            assert difference < 1e-3, f"the logits differ by {difference:.2g}"


def main() -> None:
    """The command."""
    description = json.loads((FOLDER / "description.json").read_text(encoding="utf-8"))
    run = load(description)
    if not sys.argv[1:]:
        check(run, description)
        print("example.mp4: equal")  # noqa: T201
    for path in sys.argv[1:]:
        said = answer([logits_of(run, description, *view) for view in read(Path(path), description)], description)
        print(json.dumps({"video": path, **said}, ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    main()
