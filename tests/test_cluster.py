"""A cluster that is not there is said at once; what there is, other tests use."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from reelscribe.pipeline.cluster import cluster
from reelscribe.pipeline.errors import ServiceUnavailableError


@pytest.mark.parametrize("by_environment", [False, True])
def test_nobody_there(by_environment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # a port that is taken, and that nobody listens at
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        if by_environment:
            monkeypatch.setenv("RAY_ADDRESS", address)
        words = r"no Ray cluster answers at '[\w.:]+': .*refused; start one \(ray start --head\)"
        with pytest.raises(ServiceUnavailableError, match=words) as caught, cluster("auto" if by_environment else address):
            pass
    assert caught.value.exit_status == 2


def test_an_address_that_is_none() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"no Ray cluster answers at '127\.0\.0\.1:ray'"), cluster("127.0.0.1:ray"):
        pass


SLOW_WORK = """
import patient_ray
import time
import ray.data
from reelscribe.pipeline.cluster import cluster, quiet_data

class Slow:
    def __call__(self, batch):
        time.sleep(1)
        return batch

patient_ray.be_patient()
with cluster("local"):
    quiet_data()
    work = ray.data.range(300, override_num_blocks=300).map_batches(Slow, compute=ray.data.ActorPoolStrategy(size=1))
    for _ in work.iter_batches(batch_size=None):
        print("at work", flush=True)
"""


@pytest.mark.slow
def test_who_loses_its_node_has_a_last_word() -> None:
    """Ray Data's driver is ended from Ray's C++ side."""
    command, tests = [sys.executable, "-c", SLOW_WORK], Path(__file__).parent
    with subprocess.Popen(command, cwd=tests, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "at work\n"
        family = psutil.Process(job.pid).children(recursive=True)
        (raylet,) = [process for process in family if process.name() == "raylet"]
        raylet.kill()
        _, words = job.communicate(timeout=200)
    for process in family:
        process.wait(60)  # what is left of the cluster ends by itself
    assert job.returncode == 1
    assert "killed in mid-work" in words.splitlines()[-1]
    assert "the same command goes on from there" in words
