"""Whole jobs on real files with a real (random) model."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from labeling_model import Identity, make_bundle

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import OutputConflictError
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.store import read_failures, read_job, read_labels
from reelscribe.pipeline.labeling.work import Progress
from reelscribe.pipeline.manifest import list_videos
from reelscribe.pipeline.video.clip import read_clip

CHANGING = ["job_id", "labelled_at"]


def comparable(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows without what differs from job to job, by video id."""
    labels = read_labels(out).drop_columns(CHANGING).sort_by("video_id").to_pylist()
    return labels, read_failures(out).drop_columns(["job_id", "failed_at"]).sort_by("video_id").to_pylist()


@pytest.fixture(scope="module")
def quiet(bundle: ModelBundle, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed job."""
    out = tmp_path_factory.mktemp("quiet") / "out"
    run_job(bundle=bundle, identity=Identity(), videos=list_videos(str(drawn)), out=out, options=JobOptions(shard_size=4))
    return out


def test_every_file_is_a_label_or_a_failure(quiet: Path, drawn: Path) -> None:
    labels, failures = read_labels(quiet), read_failures(quiet)
    files = {str(file) for file in drawn.rglob("*") if file.is_file()}
    assert sorted(labels["uri"].to_pylist() + failures["uri"].to_pylist()) == sorted(files)
    with (drawn / "truth.csv").open(encoding="utf-8") as text:
        sound = {str(drawn / row["path"]) for row in csv.DictReader(text)}
    unseen = {uri for uri in labels["uri"].to_pylist() if "/new/" in uri}
    assert unseen == sound  # whoever drew them says which can be read


def test_a_row_is_what_the_predictor_says_of_that_video(quiet: Path, bundle: ModelBundle) -> None:
    from reelscribe.pipeline.predictor import Predictor

    predictor = Predictor(bundle)
    for row in read_labels(quiet).slice(0, 5).to_pylist():
        clip = read_clip(bundle.request(row["uri"]))
        [prediction] = predictor([clip])
        assert (row["label"], [one["label"] for one in row["top_k"]]) == (prediction.label, [label for label, _ in prediction.top_k])
        np.testing.assert_allclose([one["confidence"] for one in row["top_k"]], [p for _, p in prediction.top_k], atol=1e-6)
        assert (tuple(row["frame_index"]), tuple(row["frame_time_s"])) == (clip.views[0].index, clip.views[0].pts_seconds)
        assert (row["content_digest"], row["duration_s"], row["reader"]) == (clip.digest, clip.info.duration_s, clip.views[0].backend)
        assert (row["model_name"], row["model_version"], row["model_alias"], row["run_id"]) == ("shapes", "3", "champion", "0123abcd")
        assert row["weights_digest"] == bundle.weights_digest


def test_the_record_counts_what_the_tables_hold(quiet: Path) -> None:
    job = read_job(quiet)
    assert job is not None
    labels, failures = read_labels(quiet), read_failures(quiet)
    assert (job.state, job.counts.total) == ("done", len(labels) + len(failures))
    assert (job.counts.labelled, job.counts.failed) == (len(labels), len(failures))
    assert job.counts.failed_by_class == {entry["values"]: entry["counts"] for entry in failures["failure"].value_counts().to_pylist()}
    assert job.counts.labelled_video_s == pytest.approx(sum(labels["duration_s"].to_pylist()))
    assert set(labels["job_id"].to_pylist()) == {job.job_id}
    [session] = job.sessions
    assert session.ended is not None
    assert session.videos == job.counts.total
    assert session.predict_s is not None
    assert session.wait_s is not None
    assert 0 < session.predict_s + session.wait_s <= session.seconds


def test_progress_reaches_the_total_and_the_same_command_again_does_nothing(bundle: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    videos, steps = list_videos(str(drawn)).slice(0, 10), list[Progress]()
    first = run_job(bundle=bundle, identity=Identity(), videos=videos, out=tmp_path, on_progress=steps.append)
    assert [step.done for step in steps] == list(range(1, 11))
    assert (steps[-1].total, steps[-1].failed, steps[-1].seconds_left) == (10, first.failed, 0.0)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.name != "lock"}
    again = run_job(bundle=bundle, identity=Identity(), videos=videos, out=tmp_path, on_progress=steps.append)
    assert len(steps) == 10
    assert (again.resumed, again.labelled, again.failed, again.job_id) == (10, first.labelled, first.failed, first.job_id)
    assert {file: file.read_bytes() for file in before} == before


def test_only_the_rows_that_the_input_gained_are_labelled(bundle: ModelBundle, drawn: Path, quiet: Path, tmp_path: Path) -> None:
    videos = list_videos(str(drawn))
    run_job(bundle=bundle, identity=Identity(), videos=videos.slice(5, 6), out=tmp_path)
    summary = run_job(bundle=bundle, identity=Identity(), videos=videos, out=tmp_path)
    assert (summary.resumed, summary.total) == (6, videos.num_rows)
    assert comparable(tmp_path) == comparable(quiet)
    job = read_job(tmp_path)
    assert job is not None
    assert [session.videos for session in job.sessions] == [6, videos.num_rows - 6]


def test_another_model_or_plan_is_refused_with_the_difference(bundle: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    videos, out = list_videos(str(drawn)).slice(0, 2), tmp_path / "out"
    run_job(bundle=bundle, identity=Identity(), videos=videos, out=out)
    other = make_bundle(tmp_path / "other", num_frames=6, seed=1)
    with pytest.raises(OutputConflictError) as caught:
        run_job(
            bundle=other, identity=Identity(version="4"), videos=videos, out=out, options=JobOptions(decode=DecodeConfig(backend="opencv"))
        )
    for line in (
        "model_version: '3' there, '4' now",
        f"weights_digest: '{bundle.weights_digest}' there, '{other.weights_digest}' now",
        "sampling.num_frames: 4 there, 6 now",
        "decode.backend: 'auto' there, 'opencv' now",
    ):
        assert f"  {line}\n" in str(caught.value)
    # what only bounds the work may change
    run_job(
        bundle=bundle,
        identity=Identity(alias="old"),
        videos=videos,
        out=out,
        options=JobOptions(decode=DecodeConfig(timeout_s=9, workers=1)),
    )


def test_an_output_inside_the_input_is_no_input(bundle: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "one.mp4").symlink_to(next((drawn / "videos").iterdir()))
    for _ in range(2):
        summary = run_job(bundle=bundle, identity=Identity(), videos=list_videos(str(tmp_path)), out=tmp_path / "out")
        assert summary.total == 1


def test_an_input_without_rows_is_a_job_without_rows(bundle: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    summary = run_job(bundle=bundle, identity=Identity(), videos=list_videos(str(drawn)).slice(0, 0), out=tmp_path)
    assert (summary.total, summary.labelled, summary.videos_per_s, summary.bound_by) == (0, 0, None, None)


@pytest.mark.slow
def test_every_file_of_the_zoo_is_a_label_or_a_failure_with_a_class(bundle: ModelBundle, shared_data: Path, tmp_path: Path) -> None:
    summary = run_job(bundle=bundle, identity=Identity(), videos=list_videos(str(shared_data / "zoo")), out=tmp_path)
    labels, failures = read_labels(tmp_path), read_failures(tmp_path)
    files = sorted(str(file) for file in (shared_data / "zoo").rglob("*") if file.is_file())
    assert sorted(labels["uri"].to_pylist() + failures["uri"].to_pylist()) == files
    assert summary.total == len(files)
    classes = {Path(row["uri"]).name: row["failure"] for row in failures.to_pylist()}
    assert "error" not in classes.values()
    assert classes["LICENSE"] == classes["ffprobe.tsv"] == "not_a_video"
    lines = [line.split("\t") for line in (shared_data / "zoo" / "ffprobe.tsv").read_text(encoding="utf-8").splitlines()]
    without_picture = {Path(file).name for file, _, facts, *_ in lines if "codec_name=" not in facts}
    assert len(without_picture) == 9
    assert without_picture <= classes.keys()


class _Jobs:
    """A process that has imported everything and forks a job for each line it reads, so that a killed job costs no import."""

    CODE = """
import os, sys
from pathlib import Path
import reelscribe.pipeline.predictor, reelscribe.models.recognizer, timm
from labeling_model import Identity
from reelscribe.pipeline.bundle import load_bundle
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.manifest import list_videos

bundle, videos = load_bundle(Path(sys.argv[1])), list_videos(sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            run_job(bundle=bundle, identity=Identity(), videos=videos, out=Path(line.strip()), options=JobOptions(shard_size=2))
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

    def __init__(self, bundle: ModelBundle, videos: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(bundle.folder), str(videos)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, out: Path) -> int:
        """The id of a job's process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{out}\n")
        self.process.stdin.flush()
        return int(self.line())

    def status(self) -> int:
        """Exit status of the job that was started last."""
        return int(self.line())


@pytest.fixture(scope="module")
def jobs(bundle: ModelBundle, drawn: Path) -> Iterator[_Jobs]:
    jobs = _Jobs(bundle, drawn)
    yield jobs
    jobs.process.kill()
    jobs.process.communicate()


@pytest.mark.slow
def test_killed_at_random_moments_a_job_loses_no_row_and_doubles_none(jobs: _Jobs, tmp_path: Path) -> None:
    jobs.start(tmp_path / "quiet")
    assert jobs.status() == 0
    quiet = comparable(tmp_path / "quiet")
    dice, statuses, out, seen = random.Random(20261122), list[int](), tmp_path / "disturbed", set[str]()
    for _ in range(3):
        written = len(list(out.glob("labels/*.parquet"))) + dice.randint(0, 2)
        job = jobs.start(out)
        while len(list(out.glob("labels/*.parquet"))) <= written:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.1))  # in the midst of the next one
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(job, signal.SIGKILL)
        statuses.append(jobs.status())
        ids = [row["video_id"] for rows in comparable(out) for row in rows]
        assert len(set(ids)) == len(ids)
        assert seen <= set(ids)  # what is committed stays
        seen = set(ids)
    jobs.start(out)
    statuses.append(jobs.status())
    assert comparable(out) == quiet
    plain = [pq.read_table(out / table)["video_id"].to_pylist() for table in ("labels", "failures")]
    assert sorted(plain[0] + plain[1]) == sorted(row["video_id"] for rows in quiet for row in rows)
    assert json.loads((out / "job.json").read_text())["state"] == "done"
    assert statuses[-1] == 0
    assert set(statuses) == {-signal.SIGKILL, 0}


@pytest.mark.slow
def test_a_second_process_on_the_same_folder_is_refused(jobs: _Jobs, bundle: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    job = jobs.start(tmp_path / "out")
    lock = tmp_path / "out" / "_job" / "lock"
    while not (lock.is_file() and str(job) in lock.read_text()):
        time.sleep(0.01)
    with pytest.raises(OutputConflictError, match=f"process {job} on"):
        run_job(bundle=bundle, identity=Identity(), videos=list_videos(str(drawn)), out=tmp_path / "out")
    assert jobs.status() == 0
