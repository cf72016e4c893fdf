"""Jobs whose input and output are on an S3 server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from labeling_model import Identity

import s3_server
from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.errors import OutputConflictError, ReelScribeError, UsageError
from reelscribe.pipeline.labeling.folder import LOCK_FILE, open_folder
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.status import job_status
from reelscribe.pipeline.labeling.store import open_store, read_failures, read_labels
from reelscribe.pipeline.listing import list_input
from reelscribe.pipeline.report.page import write_job_report
from reelscribe.pipeline.stores import locate
from reelscribe.pipeline.video.writer import write_video
from videos import counting_frames


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A bucket of its own with three videos, one of them in a folder, and a text."""
    name = f"labels-{abs(hash(request.node.name)) % 10**8}"
    store = s3_server.client(s3)
    store.create_dir(name)
    write_video(tmp_path / "clip.mp4", counting_frames(30), frame_rate=10)
    contents = {key: (tmp_path / "clip.mp4").read_bytes() for key in ("a.mp4", "b.mp4", "more/c.mp4")} | {"text.mp4": b"no video"}
    for key, content in contents.items():
        with store.open_output_stream(f"{name}/in/{key}") as file:
            file.write(content)
    return name


def test_a_job_from_bucket_to_bucket_goes_on_and_is_reported(bundle: ModelBundle, bucket: str) -> None:
    videos, out = list_input(f"s3://{bucket}/in/"), f"s3://{bucket}/out"
    assert videos["video_id"].to_pylist() == ["a.mp4", "b.mp4", "more/c.mp4", "text.mp4"]
    options = JobOptions(shard_size=2)
    run_job(bundle=bundle, identity=Identity(), videos=videos.slice(0, 2), out=out, options=options)
    summary = run_job(bundle=bundle, identity=Identity(), videos=videos, out=out, options=options)
    assert (summary.out, summary.resumed, summary.labelled, summary.failed) == (out, 2, 3, 1)
    assert read_labels(out)["video_id"].to_pylist() == ["a.mp4", "b.mp4", "more/c.mp4"]
    assert read_failures(out)["failure"].to_pylist() == ["not_a_video"]
    files, path = locate(out)
    assert ds.dataset(f"{path}/labels", filesystem=files).count_rows() == 3  # as any reader of Parquet sees it
    status = job_status(out)
    assert (status.state, status.labelled, status.failed, status.holder) == ("done", 3, 1, None)
    assert write_job_report(out) == f"{out}/report.html"
    with files.open_input_stream(f"{path}/report.html") as page:
        assert b"more/c.mp4" in page.read()


def test_one_writer_at_a_time_and_a_dead_one_is_waited_for_no_longer_than_its_lease(bucket: str) -> None:
    folder = open_folder(f"s3://{bucket}/held")
    with folder.locked():
        with pytest.raises(OutputConflictError, match=r"being written by another job \(process"), open_store(f"s3://{bucket}/held"):
            pass
        left = json.loads(folder.get(LOCK_FILE) or b"")
    assert folder.holder() is None
    folder.put(LOCK_FILE, json.dumps(left | {"until": time.time() - 1}).encode())  # as a killed writer leaves it
    with open_store(f"s3://{bucket}/held"):
        assert folder.holder() is not None


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ("s3://bucket", UsageError, r"expected s3://bucket/folder"),
        ("gs://bucket/out", UsageError, r"expected a folder or s3://bucket/folder"),
        ("s3://no-such-bucket-at-all/out", ReelScribeError, "no-such-bucket-at-all"),
    ],
)
def test_what_cannot_be_written_to_is_said_before_anything_is_done(s3: str, where: str, error: type[ReelScribeError], words: str) -> None:
    assert s3
    with pytest.raises(error, match=words), open_store(where) as store:
        store.folder.put("job.json", b"{}")
