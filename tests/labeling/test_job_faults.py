"""What goes wrong around a job: it ends or waits with a clear word, and the same command goes on without loss."""

from __future__ import annotations

import resource
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from labeling_model import Identity

import s3_server
from fault_proxy import FaultProxy, between
from range_server import serve
from reelscribe.pipeline import stores
from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import ReelScribeError, failure_classes
from reelscribe.pipeline.labeling import folder as output
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.store import read_failures, read_labels
from reelscribe.pipeline.labeling.work import JobSummary, Progress
from reelscribe.pipeline.manifest import list_videos

Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def videos(drawn: Path) -> pa.Table:
    """Ten sound and broken files."""
    return list_videos(str(drawn)).slice(0, 10)


@pytest.fixture(scope="module")
def quiet(bundle: ModelBundle, videos: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of an undisturbed job."""
    out = tmp_path_factory.mktemp("quiet")
    label(bundle, videos, out)
    return rows(out)


def label(bundle: ModelBundle, videos: pa.Table, out: Path | str, on_progress: Any = None, **options: Any) -> JobSummary:
    settings = JobOptions(shard_size=2, decode=DecodeConfig(workers=1), **options)
    return run_job(bundle=bundle, identity=Identity(), videos=videos, out=out, options=settings, on_progress=on_progress)


def rows(out: Path | str) -> Rows:
    labels = read_labels(out).drop_columns(["job_id", "labelled_at"]).to_pylist()
    return labels, read_failures(out).drop_columns(["job_id", "failed_at"]).to_pylist()


def test_a_disk_that_takes_no_more(bundle: ModelBundle, videos: pa.Table, quiet: Rows, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(now: Progress) -> None:
        if now.done == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))  # no file may grow beyond it

    try:
        with pytest.raises(ReelScribeError, match=r"cannot write .*File too large; what was committed stays, and the same command goes on"):
            label(bundle, videos, tmp_path, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 0 < len(read_labels(tmp_path)) + len(read_failures(tmp_path)) <= 4  # whole shards
    assert label(bundle, videos, tmp_path).resumed > 0
    assert rows(tmp_path) == quiet


def test_a_model_that_is_deleted_in_mid_job(bundle: ModelBundle, videos: pa.Table, quiet: Rows, tmp_path: Path) -> None:
    own = load_bundle(Path(shutil.copytree(bundle.folder, tmp_path / "model")))
    label(own, videos, tmp_path / "out", lambda now: shutil.rmtree(own.folder) if now.done == 1 else None)
    assert not own.folder.exists()
    assert rows(tmp_path / "out") == quiet


@pytest.fixture
def flapping(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of an S3 server with the bucket 'flapping'."""
    monkeypatch.setattr(stores, "_TRIES", 1)  # Arrow itself would wait out a few seconds in silence
    s3_server.client(s3).create_dir("flapping")
    with between(s3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        yield proxy


def test_an_output_store_that_is_away_for_a_while_is_waited_for(
    bundle: ModelBundle, videos: pa.Table, quiet: Rows, flapping: FaultProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    def go_away(now: Progress) -> None:
        if now.done == 5:
            flapping.unavailable = True
            threading.Timer(2, lambda: setattr(flapping, "unavailable", False)).start()

    label(bundle, videos, "s3://flapping/waited", go_away)
    assert flapping.faults
    assert "s3://flapping/waited cannot be written to now; trying again" in capsys.readouterr().err
    assert rows("s3://flapping/waited") == quiet


def test_an_output_store_that_stays_away_ends_the_job_and_loses_nothing(
    bundle: ModelBundle, videos: pa.Table, quiet: Rows, flapping: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PATIENCE_S", 0.5)
    monkeypatch.setattr(output, "LEASE_S", 3.0)
    with pytest.raises(
        ReelScribeError, match=r"cannot write s3://flapping/ended/.*; what was committed stays, and the same command goes on"
    ):
        label(bundle, videos, "s3://flapping/ended", lambda now: setattr(flapping, "unavailable", now.done >= 5))
    flapping.unavailable = False
    time.sleep(3.0)  # the lease of the job that could not give it back
    assert label(bundle, videos, "s3://flapping/ended").resumed > 0
    assert rows("s3://flapping/ended") == quiet


def test_an_input_store_that_is_away_for_a_while(bundle: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    names = sorted(file.name for file in (drawn / "videos").iterdir())[:20]
    none = pa.nulls(len(names), pa.float64())
    with serve(drawn / "videos") as server, between(server.address) as proxy:
        uris = [f"{proxy.address}/plain/{name}" for name in names]
        videos = pa.table({"video_id": names, "uri": uris, "start_s": none, "end_s": none})
        label(bundle, videos, tmp_path / "quiet")

        def flap(now: Progress) -> None:
            proxy.unavailable = now.done < 16

        label(bundle, videos, tmp_path / "out", flap)
        failed = {row["video_id"] for row in read_failures(tmp_path / "out").to_pylist() if row["failure"] == "network"}
        assert failed
        proxy.unavailable = False
        label(bundle, videos, tmp_path / "out", retry=failure_classes("network"))
        assert rows(tmp_path / "out") == rows(tmp_path / "quiet")
