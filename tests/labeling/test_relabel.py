"""Another model for some rows of a finished job."""

from __future__ import annotations

from pathlib import Path

import pytest
from labeling_model import Identity, make_bundle

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.errors import QueryError, UsageError
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.relabel import relabel
from reelscribe.pipeline.labeling.store import read_failures, read_job, read_labels
from reelscribe.pipeline.manifest import list_videos

OPTIONS = JobOptions(shard_size=3, scores=True)


def test_rows_that_meet_the_condition_get_the_other_model_and_no_others(bundle: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    videos, out = list_videos(str(drawn / "videos")).slice(0, 8), str(tmp_path / "out")
    run_job(bundle=bundle, identity=Identity(), videos=videos, out=out, options=OPTIONS)
    before, failures = read_labels(out).to_pylist(), read_failures(out).to_pylist()
    chosen = [before[1]["video_id"], before[4]["video_id"]]
    other = make_bundle(tmp_path / "other", seed=1)
    summary = relabel(other, Identity(version="4"), out=out, where=f"video_id in {chosen}", options=JobOptions())
    after = read_labels(out).to_pylist()
    assert [row["video_id"] for row in after] == [row["video_id"] for row in before]
    assert [row for row in after if row["video_id"] not in chosen] == [row for row in before if row["video_id"] not in chosen]
    again = [row for row in after if row["video_id"] in chosen]
    assert {(row["model_version"], row["weights_digest"]) for row in again} == {("4", other.weights_digest)}
    assert all(len(row["scores"]) == 3 for row in again)  # as the job has it
    assert read_failures(out).to_pylist() == failures
    assert (summary.resumed, summary.total) == (6, 8)
    job = read_job(out)
    assert job is not None
    assert (job.state, job.counts.total, job.relabelled[0].rows, len(job.sessions)) == ("done", 8, 2, 2)
    older = "model_version < 4"
    assert relabel(other, Identity(version="4"), out=out, where=older, options=JobOptions()).resumed == len(failures) + 2
    assert relabel(other, Identity(version="4"), out=out, where=older, options=JobOptions()).resumed == 8  # none is left
    assert run_job(bundle=bundle, identity=Identity(), videos=videos, out=out, options=OPTIONS).resumed == 8  # it is the same job


@pytest.mark.parametrize("where", ["model_versoin < 4", "label ==", "__import__('os')", "label"])
def test_a_condition_that_cannot_be_used_is_said_with_the_columns(bundle: ModelBundle, drawn: Path, tmp_path: Path, where: str) -> None:
    out = str(tmp_path / "out")
    run_job(bundle=bundle, identity=Identity(), videos=list_videos(str(drawn / "videos")).slice(0, 1), out=out)
    with pytest.raises(QueryError, match=r"expected a condition on video_id, uri, .*model_version"):
        relabel(bundle, Identity(), out=out, where=where, options=JobOptions())


def test_a_folder_without_a_finished_job(bundle: ModelBundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no finished labelling job"):
        relabel(bundle, Identity(), out=str(tmp_path), where="confidence < 1", options=JobOptions())
