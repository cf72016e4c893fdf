"""An exported folder runs where ReelScribe cannot be imported, and says what the model says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reelscribe.pipeline.answers import AnyPrediction, FramesPrediction, Prediction
from reelscribe.pipeline.bundle import BundleSpec, ModelBundle, new_recognizer, save_bundle
from reelscribe.pipeline.config import ModelConfig, Task, TransformConfig
from reelscribe.pipeline.errors import ModelError, OutputConflictError
from reelscribe.pipeline.predictor import Predictor
from reelscribe.pipeline.runtimes.export import Format, export
from reelscribe.pipeline.sampling import AnySampling, DenseSampling, RateSampling, UniformSampling
from reelscribe.pipeline.video.clip import read_clip

WITHOUT_US = "import runpy, sys; sys.modules['reelscribe'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"


def make(folder: Path, task: Task, sampling: AnySampling, transform: TransformConfig) -> ModelBundle:
    model = ModelConfig(encoder="tiny", weights="none", hidden_size=16)
    network = new_recognizer(model, transform, num_classes=3, per_frame=task == "dense")
    spec = BundleSpec(name="m", task=task, labels=("a", "b", "c"), model=model, sampling=sampling, transform=transform, temperature=0.5)
    return save_bundle(folder, spec=spec, state=network.state_dict(), card="")


def run(folder: Path, *videos: Path) -> list[str]:
    """What ``example.py`` prints, with paths of its arguments, from another folder."""
    code = WITHOUT_US.replace("runpy.run", "script = sys.argv[1]; sys.argv = sys.argv[1:]; runpy.run").replace("(sys.argv[1],", "(script,")
    command = [sys.executable, "-c", code, str(folder / "example.py"), *map(str, videos)]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("format_", "task", "sampling", "transform"),
    [
        ("onnx", "single_label", DenseSampling(num_frames=4, stride_s=0.1, num_views=2), TransformConfig(height=32, width=48)),
        ("openvino", "dense", RateSampling(frames_per_second=10, max_frames=40), TransformConfig(height=32, width=32, fit="crop")),
        ("torch", "single_label", UniformSampling(num_frames=4), TransformConfig(height=32, width=32)),
    ],
)
def test_a_folder_runs_without_us(format_: Format, task: Task, sampling: AnySampling, transform: TransformConfig, tmp_path: Path) -> None:
    bundle = make(tmp_path / "model", task, sampling, transform)
    export(bundle, tmp_path / "out", format_)
    video = tmp_path / "out" / "example.mp4"
    (line,) = run(tmp_path / "out", video)
    said = json.loads(line)
    ours: AnyPrediction = Predictor(bundle, "cpu")([read_clip(bundle.request(str(video)))])[0]
    if isinstance(ours, FramesPrediction):
        assert said["labels_of_frames"] == [bundle.spec.labels[i] for i in ours.classes]
    else:
        assert isinstance(ours, Prediction)
        assert (said["label"], said["confidence"]) == (ours.label, pytest.approx(ours.confidence, abs=1e-4))


def test_refused_before_anything_is_written(tmp_path: Path) -> None:
    bundle = make(tmp_path / "model", "single_label", UniformSampling(num_frames=4), TransformConfig(height=32, width=32))
    with pytest.raises(OutputConflictError, match="is there already"):
        export(bundle, tmp_path / "model", "onnx")
    with pytest.raises(ModelError, match="only the runtime torch does"):
        export(ModelBundle(bundle.folder, bundle.spec.model_copy(update={"task": "caption"})), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()
