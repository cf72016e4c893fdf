"""Jobs that label windows of longer videos."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from labeling_model import Identity

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import OutputConflictError
from reelscribe.pipeline.labeling import predict
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.stages import Failed
from reelscribe.pipeline.labeling.store import read_failures, read_job, read_labels
from reelscribe.pipeline.labeling.work import Progress
from reelscribe.pipeline.sampling import Windows
from reelscribe.pipeline.video.writer import write_video
from videos import counting_frames

RATE = 10  # frames per second
WINDOWS = Windows.parse("2s")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Seven seconds whole, a part of the same file, a part that lies behind its end, one second, and what is no video."""
    folder = tmp_path_factory.mktemp("long")
    write_video(folder / "long.mkv", counting_frames(7 * RATE), frame_rate=RATE)
    write_video(folder / "short.mp4", counting_frames(RATE), frame_rate=RATE)
    (folder / "text.mp4").write_text("no video")
    rows = [("whole", "long.mkv", None, None), ("part", "long.mkv", 1.0, 5.0), ("behind", "long.mkv", 8.0, 9.0)]
    rows += [("short", "short.mp4", None, None), ("text", "text.mp4", None, None)]
    names = ("video_id", "uri", "start_s", "end_s")
    return pa.Table.from_pylist([dict(zip(names, (a, str(folder / b), c, d), strict=True)) for a, b, c, d in rows])


def run(bundle: ModelBundle, videos: pa.Table, out: Path, windows: Windows | None = WINDOWS) -> list[Progress]:
    """A job on these videos, and its progress."""
    seen: list[Progress] = []
    run_job(bundle=bundle, identity=Identity(), videos=videos, out=out, options=JobOptions(windows=windows), on_progress=seen.append)
    return seen


def test_each_window_is_a_row_that_saw_its_own_frames(bundle: ModelBundle, videos: pa.Table, tmp_path: Path) -> None:
    progress = run(bundle, videos, tmp_path / "out")
    rows = read_labels(tmp_path / "out").to_pylist()
    assert [(row["video_id"], row["window"], row["start_s"], row["end_s"]) for row in rows] == [
        *[("whole", 0, 0.0, 2.0), ("whole", 1, 2.0, 4.0), ("whole", 2, 4.0, 6.0), ("whole", 3, 6.0, 7.0)],
        *[("part", 0, 1.0, 3.0), ("part", 1, 3.0, 5.0), ("short", 0, 0.0, 1.0)],
    ]
    for row in rows:  # four frames, each in the middle of a quarter
        quarter_s = (row["end_s"] - row["start_s"]) / 4
        assert row["frame_index"] == [int((row["start_s"] + (i + 0.5) * quarter_s) * RATE) for i in range(4)]
    failures = read_failures(tmp_path / "out").to_pylist()
    assert [(row["video_id"], row["window"], row["failure"]) for row in failures] == [
        ("behind", None, "too_short"),
        ("text", None, "not_a_video"),
    ]
    job = read_job(tmp_path / "out")
    assert job is not None
    assert (job.counts.total, job.counts.labelled, job.counts.failed) == (9, 7, 2)
    assert job.counts.labelled_video_s == pytest.approx(7 + 4 + 1)
    assert (progress[-1].done, progress[-1].total, progress[-1].failed) == (9, 9, 2)


def test_the_same_windows_go_on_and_others_are_another_job(bundle: ModelBundle, videos: pa.Table, tmp_path: Path) -> None:
    run(bundle, videos.slice(0, 1), tmp_path / "out")
    assert [now.done for now in run(bundle, videos, tmp_path / "out")] == [5, 6, 7, 8, 9]
    with pytest.raises(OutputConflictError, match=r"windows.*there"):
        run(bundle, videos, tmp_path / "out", windows=Windows.parse("1s"))
    with pytest.raises(OutputConflictError, match=r"windows.*there, None now"):
        run(bundle, videos, tmp_path / "out", windows=None)


def test_predictions_of_windows_are_the_labels(bundle: ModelBundle, videos: pa.Table, tmp_path: Path) -> None:
    run(bundle, videos, tmp_path / "out")
    expected = {(row["uri"], row["start_s"]): row["label"] for row in read_labels(tmp_path / "out").slice(0, 4).to_pylist()}
    files = [videos["uri"][0].as_py(), videos["uri"][4].as_py()]
    answers = predict.predict_videos(str(bundle.folder), files, tracking="", device="cpu", decode=DecodeConfig(workers=1), windows=WINDOWS)
    assert [(answer.video.uri, answer.video.start_s) for answer in answers] == [*expected, (files[1], None)]
    assert isinstance(answers[-1].outcome, Failed)
    found = [answer.outcome.label for answer in answers[:-1]]  # type: ignore[union-attr]
    assert found == list(expected.values())
