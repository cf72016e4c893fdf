"""Every runtime says what torch says, and is refused where it cannot run or does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from labeling_model import Identity

from optional import lacking
from reelscribe.pipeline import predictor
from reelscribe.pipeline.answers import ClassPrediction
from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.errors import ModelError, OutputConflictError, UsageError
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.launch import label_videos
from reelscribe.pipeline.labeling.store import read_job, read_labels
from reelscribe.pipeline.listing import list_input
from reelscribe.pipeline.runtimes import names
from reelscribe.pipeline.runtimes.choice import agreement, choose
from reelscribe.pipeline.runtimes.graphs import SAMPLE_FILE, graph_of
from reelscribe.pipeline.runtimes.names import Runtime, refusal
from reelscribe.pipeline.training.job import TrainingResult


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own: each model is exported once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("REELSCRIBE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def model(trained: TrainingResult) -> ModelBundle:
    return trained.bundle


@pytest.mark.parametrize("runtime", ["torch", "openvino", "openvino-bf16", "openvino-int8", "onnxruntime"])
def test_labels_are_those_of_evaluation(runtime: Runtime, trained: TrainingResult, drawn: Path, tmp_path: Path) -> None:
    if runtime == "openvino-bf16" and (reason := refusal(runtime)):
        pytest.skip(reason)
    label_videos(
        str(trained.bundle.folder),
        str(drawn / "manifest.csv"),
        out=str(tmp_path / "out"),
        options=JobOptions(runtime=runtime, scores=True, decode=DecodeConfig(workers=1)),
        tracking=trained.tracking_uri,
        progress=progress,
    )
    rows = {row["video_id"]: row for row in read_labels(tmp_path / "out").to_pylist()}
    truth = trained.evaluation.predictions
    assert truth
    for video_id, said in truth.items():
        assert isinstance(said, ClassPrediction)
        exact = runtime not in ("openvino-bf16", "openvino-int8")
        np.testing.assert_allclose(rows[video_id]["scores"], said.scores, atol=1e-5 if exact else 0.02)
        if exact or said.top_k[0][1] - said.top_k[1][1] > 0.04:
            assert rows[video_id]["label"] == said.label
    job = read_job(tmp_path / "out")
    assert job is not None
    assert (job.fingerprint["runtime"], job.sessions[0].runtime) == (runtime, runtime)


def test_openvino_imports_neither_torch_nor_mlflow(model: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    graph_of(model)
    code = (
        "import sys; from reelscribe.pipeline.cli import main; sys.argv = ['reelscribe', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "assert 'openvino' in sys.modules\n"
        "found = {'torch', 'torchvision', 'mlflow', 'ray', 'onnxruntime'} & set(sys.modules)\nassert not found, found"
    )
    video = min((drawn / "new").iterdir())
    command = [sys.executable, "-c", code, "label", str(model.folder), str(video), "--out", str(tmp_path / "out"), "--runtime", "openvino"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_auto_takes_one_that_agrees_and_a_job_keeps_its_own(model: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    chosen = choose(model, "auto", "cpu")
    assert all(name in chosen.why for name in ("torch", "openvino", "onnxruntime"))
    assert choose(model, "auto", "cpu") == chosen  # as it was kept
    videos, out, decode = list_input(str(drawn / "manifest.csv")), tmp_path / "out", DecodeConfig(workers=1)
    other: Runtime = "onnxruntime" if chosen.runtime != "onnxruntime" else "openvino"
    for runtime, count in ((other, 2), ("auto", 3)):
        options = JobOptions(runtime=runtime, decode=decode)
        run_job(bundle=model, identity=Identity(), videos=videos.slice(0, count), out=out, options=options)
    job = read_job(tmp_path / "out")
    assert job is not None
    assert [session.runtime for session in job.sessions] == [other, other]
    with pytest.raises(OutputConflictError, match=f"runtime: '{other}' there, 'torch' now"):
        run_job(bundle=model, identity=Identity(), videos=videos, out=out, options=JobOptions(decode=decode))


def test_one_that_disagrees_is_refused_and_not_chosen(
    model: ModelBundle, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(graph_of(model).folder, tmp_path / "graphs" / graph_of(model).folder.name, ignore=shutil.ignore_patterns("runtimes-*"))
    monkeypatch.setenv("REELSCRIBE_CACHE", str(tmp_path))
    sample = graph_of(model).folder / SAMPLE_FILE
    with np.load(sample) as arrays:
        np.savez(
            sample, frames=arrays["frames"], gaps=arrays["gaps"], logits=arrays["logits"][:, ::-1] + np.arange(arrays["logits"].shape[1])
        )
    with pytest.raises(ModelError, match=r"runtime 'openvino' differs from torch by 0\.\d+.* use --runtime torch"):
        choose(model, "openvino", "cpu")
    assert choose(model, "auto", "cpu").runtime == "torch"


@pytest.mark.slow
def test_compiled_in_bf16_it_is_held_to_the_sample_too(model: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this CPU in place of a GPU: the same network, compiled the same way."""
    if shutil.which("g++") is None:
        lacking("torch.compile needs a compiler of C++ on a CPU (g++)")
    monkeypatch.setattr(predictor, "pick_gpu", predictor.pick_device)
    verdict = agreement(model, "torch-compile", "cpu")
    assert verdict.agrees, verdict.say()
    assert verdict.difference  # bf16 rounds
    captioner = ModelBundle(model.folder, model.spec.model_copy(update={"task": "caption"}))
    with pytest.raises(ModelError, match="only the runtime torch does"):
        choose(captioner, "torch-compile", "cpu")


def test_what_cannot_run_here_is_said(model: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'openvino' runs on the CPU, not on 'cuda'"):
        choose(model, "openvino", "cuda")
    with pytest.raises(UsageError, match="'torch-compile' needs a GPU"):
        choose(model, "torch-compile", "cpu")
    captioner = ModelBundle(model.folder, model.spec.model_copy(update={"task": "caption"}))
    assert choose(captioner, "auto", "cpu").runtime == "torch"
    with pytest.raises(ModelError, match="only the runtime torch does"):
        choose(captioner, "onnxruntime", "cpu")
    monkeypatch.setitem(names._EXTRA, "no_such_package", "int8")
    monkeypatch.setitem(names._PACKAGES, "openvino-int8", ("openvino", "no_such_package"))
    with pytest.raises(UsageError, match=r"no_such_package is not installed; pip install 'reelscribe\[int8\]'"):
        choose(model, "openvino-int8", "auto")
