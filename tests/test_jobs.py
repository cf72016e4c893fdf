"""Commands handed to a real Ray head through its Jobs API."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from reelscribe.pipeline import jobs
from reelscribe.pipeline.errors import ServiceUnavailableError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

# A head with its Jobs API, that ends with its standard input.
HEAD = """
import sys, ray
found = ray.init(address="local", num_cpus=1, include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=False,
    _node_ip_address="127.0.0.1")
print(found.address_info["webui_url"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    if find_spec("aiohttp_cors") is None:
        message = "ray[default], which has the Jobs API, is not installed"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    environment = os.environ | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (tmp_path / "words").open("wb") as words:
        head = subprocess.Popen([sys.executable, "-c", HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, env=environment)
        assert head.stdin is not None
        assert head.stdout is not None
        try:
            found = head.stdout.readline().decode().strip()
            assert found, (tmp_path / "words").read_text()
            yield f"http://{found}"
        finally:
            head.stdin.close()
            head.stdout.close()
            head.wait(timeout=60)


def ended(job: jobs.Job, address: str) -> jobs.Job:
    for _ in range(600):
        if job.ended:
            return job
        time.sleep(0.2)
        job = jobs.find(job.job_id, address=address)
    raise AssertionError(f"{job} does not end")


@pytest.mark.slow
def test_submitted_looked_at_and_stopped(address: str) -> None:
    from reelscribe import __version__

    job = jobs.submit(["--version"], address=address)
    waiting = jobs.submit(["label", "models:/none", "a b"], address=address)
    done = ended(job, address)
    assert (done.status, done.command) == ("SUCCEEDED", "reelscribe --version")
    assert __version__ in jobs.logs(job.job_id, address=address)
    assert waiting.command == "reelscribe label models:/none 'a b'"
    assert ended(jobs.stop(waiting.job_id, address=address), address).status in ("STOPPED", "FAILED")  # --out is missing
    with pytest.raises(UsageError, match="no job 'nobody' on the cluster"):
        jobs.find("nobody", address=address)


def test_nobody_there() -> None:
    with pytest.raises(ServiceUnavailableError, match=r"no Ray Jobs API answers at http://127\.0\.0\.1:9") as caught:
        jobs.submit(["--version"], address="http://127.0.0.1:9")
    assert caught.value.exit_status == 2


def test_nothing_to_submit() -> None:
    with pytest.raises(UsageError, match="nothing to submit"):
        jobs.submit([], address="")
