"""Commands handed to a real Ray cluster by its Jobs API; and what is said where that cannot be."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from reelscribe import __version__
from reelscribe.pipeline import cluster_jobs
from reelscribe.pipeline.errors import ServiceUnavailableError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def test_nobody_there() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"no Ray Jobs API answers at http://127\.0\.0\.1:9") as caught:
        cluster_jobs.submit(["--version"], address="http://127.0.0.1:9")
    assert caught.value.exit_status == 2


def test_nothing_to_submit() -> None:
    with pytest.raises(UsageError, match="nothing to submit"):
        cluster_jobs.submit([], address="")


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The address of the Jobs API of a Ray head on the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("patient_ray.py")), "head", str(port)]
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where the head finds reelscribe
    environment = {**os.environ, "PATH": scripts, "RAY_USAGE_STATS_ENABLED": "0"}
    with (tmp_path / "words.txt").open("wb") as words:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        limit = time.monotonic() + 240
        while True:
            assert process.poll() is None, (tmp_path / "words.txt").read_text()
            assert time.monotonic() < limit, "the Ray head does not come up"
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
                break
            except urllib.error.HTTPError:  # it wants the token that Ray has made for a cluster of another test
                break
            except OSError:
                time.sleep(0.3)
        yield address
    finally:
        process.terminate()  # which ends all that it started
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        for pid in _session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def _session(leader: int) -> list[int]:
    """What is left of the processes that a leader of a session started."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getsid(int(folder.name)) == leader:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def reelscribe(*arguments: str) -> str:
    command = [sys.executable, "-m", "reelscribe", *arguments]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_submitted_followed_and_stopped(head: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    job = json.loads(reelscribe("submit", "--address", head, "--json", "--", "--version"))
    limit = time.monotonic() + 150
    while job["status"] not in ("SUCCEEDED", "FAILED"):
        assert time.monotonic() < limit, job
        time.sleep(0.5)
        job = json.loads(reelscribe("submitted", "status", job["job_id"], "--address", head, "--json"))
    said = reelscribe("submitted", "logs", job["job_id"], "--address", head)
    assert job["status"] == "SUCCEEDED", said
    assert __version__ in said
    # one that would wait for ever: what it reads from is never closed
    waiting = cluster_jobs.submit(["train", "demo", f"data.manifest={tmp_path / 'pipe.csv'}"], address=head)
    assert cluster_jobs.stop(waiting.job_id, address=head).job_id == waiting.job_id
    while not (stopped := cluster_jobs.find(waiting.job_id, address=head)).ended:
        assert time.monotonic() < limit + 60, stopped
        time.sleep(0.5)
    assert stopped.status == "STOPPED"
    with pytest.raises(UsageError, match="no job 'nobody' on the cluster"):
        cluster_jobs.find("nobody", address=head)
