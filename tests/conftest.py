"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from optional import lacking

if TYPE_CHECKING:
    from reelscribe.pipeline.config import Config
    from reelscribe.pipeline.training.job import TrainingResult

# Before torch is imported anywhere: many small steps, several processes, two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers would stand behind everything else on these two cores, by 15 steps of niceness.
os.environ.setdefault("RAY_worker_niceness", "0")
# A user's own tracking server is not for tests.
os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real videos and labels beside the checkout; absent on a user's machine."""
    folder = (Path(__file__).resolve().parents[2] / "shared" / "data").resolve()  # itself perhaps a link
    if not folder.is_dir():
        lacking("the real data (../shared/data) is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 drawn videos (8 classes) as the demo draws them, 8 of them broken: manifest.csv, truth.csv, new/. Only to be read."""
    from reelscribe.pipeline.drawing.order import draw_order_dataset

    return draw_order_dataset(tmp_path_factory.mktemp("drawn") / "videos", num_videos=40, broken_share=0.2).parent


@pytest.fixture(scope="session")
def s3_server_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One S3 server on the loopback for all tests that need one; without buckets."""
    import s3_server

    with s3_server.serve(tmp_path_factory.mktemp("s3") / "words") as address:
        yield address


@pytest.fixture
def s3(s3_server_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the S3 server, which the environment names."""
    import s3_server

    for name, value in {**s3_server.ENVIRONMENT, "AWS_ENDPOINT_URL": s3_server_address}.items():
        monkeypatch.setenv(name, value)
    return s3_server_address


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster on the loopback for all tests that need one."""
    from reelscribe.pipeline.cluster import cluster

    with cluster("local"):
        yield


@pytest.fixture(scope="session")
def tiny_config(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A training of seconds: the tiny encoder, learning from scratch, SQLite tracking."""
    from reelscribe.pipeline.config import Config

    return Config.model_validate(
        {
            "name": "tiny",
            "output": str(tmp_path_factory.mktemp("runs")),
            "data": {"manifest": str(drawn / "manifest.csv")},
            "sampling": {"kind": "uniform", "num_frames": 6},
            "transform": {"height": 24, "width": 32},
            "model": {"encoder": "tiny", "weights": "none", "stride": 4, "trainable_stages": 2, "projection": 8, "hidden_size": 16},
            "training": {"epochs": 3, "batch_size": 8, "warmup_epochs": 1, "device": "cpu"},
            "decode": {"workers": 1},
        }
    )


@pytest.fixture(scope="session")
def trained(tiny_config: Config) -> TrainingResult:
    """The tiny config, trained and registered as models:/tiny@champion."""
    from reelscribe.pipeline.console import progress
    from reelscribe.pipeline.training.job import run_training

    return run_training(tiny_config, progress=progress)
