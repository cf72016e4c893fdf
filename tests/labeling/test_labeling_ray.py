"""The Ray engine gives the rows of the local one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labeling_model import LABELS, Identity

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.console import progress
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.ray_launch import _in_short, place
from reelscribe.pipeline.labeling.store import read_failures, read_job, read_labels
from reelscribe.pipeline.manifest import list_videos


@given(cpus=st.integers(1, 512), gpus=st.integers(0, 16))
def test_one_actor_of_each_kind_always_fits_and_all_cpus_have_work(cpus: int, gpus: int) -> None:
    placement = place(float(cpus), float(gpus))
    assert placement.decode_cpus + placement.predict_cpus <= cpus
    assert placement.predict_gpus <= gpus
    assert placement.max_decoders >= 1
    assert placement.max_predictors >= 1
    assert placement.max_decoders * placement.decode_cpus + placement.predict_cpus == pytest.approx(cpus)


@pytest.mark.parametrize(
    ("trace", "short"),
    [
        ("ActorDiedError: it died\n  File x\nreelscribe.pipeline.errors.ModelError: no such tensor\n  more\n", "no such tensor"),
        ("RayError: first\n\n  File x\nlast\n", "RayError: first ... last"),
        ("alone", "alone"),
        ("", "without a word"),
    ],
)
def test_a_worker_s_error_is_told_in_short(trace: str, short: str) -> None:
    assert _in_short(trace) == short


def rows_by_id(table: pa.Table) -> list[dict[str, Any]]:
    """Rows in the order of their ids, without what differs from job to job."""
    changing = {"job_id", "labelled_at", "failed_at"}
    return table.drop_columns([name for name in table.column_names if name in changing]).sort_by("video_id").to_pylist()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")  # Ray Data sets its own old options
def test_ray_gives_the_rows_of_the_local_engine(bundle: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    import ray

    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    videos, local, on_ray = list_videos(str(drawn)), tmp_path / "local", tmp_path / "ray"
    run_job(bundle=bundle, identity=Identity(), videos=videos, out=local, options=JobOptions(shard_size=16))
    run_job(bundle=bundle, identity=Identity(), videos=videos.slice(3, 4), out=on_ray)
    summary = run_job(
        bundle=bundle, identity=Identity(), videos=videos, out=on_ray, options=JobOptions(engine="ray")
    )  # it goes on with what the other began
    assert (summary.engine, summary.total, summary.resumed) == ("ray", videos.num_rows, 4)
    for a, b in zip(rows_by_id(read_labels(local)), rows_by_id(read_labels(on_ray)), strict=True):
        assert a.pop("confidence") == pytest.approx(b.pop("confidence"), abs=1e-6)
        assert [one["confidence"] for one in a["top_k"]] == pytest.approx([one["confidence"] for one in b["top_k"]], abs=1e-6)
        assert [one["label"] for one in a.pop("top_k")] == [one["label"] for one in b.pop("top_k")]
        assert a == b
    assert rows_by_id(read_failures(local)) == rows_by_id(read_failures(on_ray))
    job = read_job(on_ray)
    assert job is not None
    assert [session.engine for session in job.sessions] == ["local", "ray"]
    assert all(session.bound_by and session.predict_s and session.videos_per_s for session in job.sessions)
    for out in (local, on_ray):
        assert_what_evaluation_predicts(bundle, out, tmp_path / "labels.csv")


def assert_what_evaluation_predicts(bundle: ModelBundle, out: Path, manifest: Path) -> None:
    """The rows of a job are what ``reelscribe evaluate`` says of the same videos."""
    from reelscribe.pipeline.training.scores.evaluation import evaluate_model

    rows = read_labels(out).to_pylist()
    lines = [f"{row['uri']},{row['video_id']},{LABELS[i % 2]}" for i, row in enumerate(rows)]
    manifest.write_text("\n".join(["path,video_id,label", *lines]), encoding="utf-8")
    settings = DecodeConfig(workers=1)
    found = evaluate_model(
        str(bundle.folder), str(manifest), split="", tracking="", device="cpu", decode=settings, shuffle_seed=None, progress=progress
    ).labelled()
    assert [row["video_id"] for row in rows] == list(found)
    for row in rows:
        prediction = found[row["video_id"]]
        assert (row["label"], row["confidence"]) == (prediction.label, pytest.approx(prediction.confidence, abs=1e-6))
