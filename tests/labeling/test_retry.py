"""Failures that are tried again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from labeling_model import Identity

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.errors import UsageError, failure_classes
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.store import read_failures, read_job, read_labels
from reelscribe.pipeline.labeling.work import JobSummary, Progress
from reelscribe.pipeline.sampling import Windows
from reelscribe.pipeline.video.writer import write_video
from videos import counting_frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, what is no video, and two names of files that are not there yet."""
    for name in ("a.mp4", "d.mp4"):
        write_video(tmp_path / name, counting_frames(30), frame_rate=10)
    (tmp_path / "c.mp4").write_text("no video")
    return tmp_path


def run(bundle: ModelBundle, folder: Path, steps: list[Progress] | None = None, **options: object) -> JobSummary:
    names = ["a", "b", "c", "d", "e"]
    none = pa.nulls(len(names), pa.float64())
    videos = pa.table({"video_id": names, "uri": [str(folder / f"{n}.mp4") for n in names], "start_s": none, "end_s": none})
    wanted = JobOptions(shard_size=2, **options)  # type: ignore[arg-type]
    notice = None if steps is None else steps.append
    return run_job(bundle=bundle, identity=Identity(), videos=videos, out=folder / "out", options=wanted, on_progress=notice)


def tables(folder: Path) -> tuple[list[str], dict[str, str]]:
    failures = read_failures(folder / "out").to_pylist()
    return read_labels(folder / "out")["video_id"].to_pylist(), {row["video_id"]: row["failure"] for row in failures}


def test_failures_of_the_named_classes_are_done_again_and_nothing_else(bundle: ModelBundle, folder: Path) -> None:
    run(bundle, folder)
    assert tables(folder) == (["a", "d"], {"b": "not_found", "c": "not_a_video", "e": "not_found"})
    before = read_labels(folder / "out").to_pylist()
    for name in ("b.mp4", "c.mp4"):
        write_video(folder / name, counting_frames(20), frame_rate=10)
    assert run(bundle, folder).resumed == 5  # nobody asked for it
    steps: list[Progress] = []
    summary = run(bundle, folder, steps, retry=failure_classes("not_found"))
    assert tables(folder) == (["a", "b", "d"], {"c": "not_a_video", "e": "not_found"})
    assert (summary.resumed, summary.total, summary.labelled, summary.failed) == (3, 5, 3, 2)
    assert [(now.done, now.total) for now in steps] == [(4, 5), (5, 5)]
    labels = read_labels(folder / "out").to_pylist()
    assert [labels[0], labels[2]] == before  # to the letter
    job = read_job(folder / "out")
    assert job is not None
    assert (job.state, job.counts.failed_by_class) == ("done", {"not_a_video": 1, "not_found": 1})


def test_a_video_that_opens_now_gives_all_its_windows(bundle: ModelBundle, folder: Path) -> None:
    run(bundle, folder, windows=Windows.parse("1s"))
    write_video(folder / "b.mp4", counting_frames(20), frame_rate=10)
    summary = run(bundle, folder, windows=Windows.parse("1s"), retry=failure_classes("retryable,not_found"))
    assert (summary.total, summary.labelled, summary.failed) == (10, 8, 2)
    assert tables(folder)[0] == ["a", "a", "a", "b", "b", "d", "d", "d"]


def test_classes_in_words() -> None:
    assert failure_classes("") == frozenset()
    assert failure_classes("timeout, network") == {"timeout", "network"}
    assert {"timeout", "network"} <= failure_classes("retryable")
    assert "not_a_video" not in failure_classes("retryable")
    with pytest.raises(UsageError, match=r"'time_out'.*timeout.*; expected some of"):
        failure_classes("time_out")
