"""Commands that run on a cluster: handed to Ray's Jobs API, looked at, and stopped."""

from __future__ import annotations

import os
import shlex
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reelscribe.pipeline.errors import ServiceUnavailableError, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # where a Ray head puts its dashboard, and with it the Jobs API
_AGENT_WAIT_S = 60.0  # for the agent of a head that has just started; a call waits for some seconds itself
_PASSED_ON = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command on a cluster."""

    job_id: str
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    command: str
    message: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


def submit(arguments: Sequence[str], *, address: str) -> Job:
    """Run ``reelscribe`` with these arguments on the head of the cluster; its paths are those of the cluster.

    What names the tracking server here goes with it. Raises UsageError without arguments, ServiceUnavailableError where nobody answers.
    """
    if not arguments:
        raise UsageError("nothing to submit; e.g. reelscribe submit -- train gestures data.manifest=/videos/labels.csv training.workers=4")
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    job_id = f"reelscribe-{uuid.uuid4().hex[:12]}"  # chosen here, so that asking again starts nothing twice
    with _client(address) as client:
        deadline = time.monotonic() + _AGENT_WAIT_S
        while True:
            try:
                client.submit_job(
                    entrypoint=shlex.join(["reelscribe", *arguments]), submission_id=job_id, runtime_env={"env_vars": environment}
                )
                break
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
    return find(job_id, address=address)


def find(job_id: str, *, address: str) -> Job:
    """How a job is. Raises UsageError where there is none of this id."""
    with _client(address, job_id) as client:
        facts = client.get_job_info(job_id)
    return Job(job_id=job_id, status=str(facts.status.value), command=str(facts.entrypoint), message=str(facts.message or ""))


def logs(job_id: str, *, address: str) -> str:
    """What a job has written so far. Raises UsageError where there is none of this id."""
    with _client(address, job_id) as client:
        return str(client.get_job_logs(job_id))


def stop(job_id: str, *, address: str) -> Job:
    """Ask a job to stop: a training ends its step and leaves a checkpoint. Raises UsageError where there is none of this id."""
    with _client(address, job_id) as client:
        client.stop_job(job_id)
    return find(job_id, address=address)


@contextmanager
def _client(address: str, job_id: str = "") -> Iterator[JobSubmissionClient]:
    """Ray's client, with its errors in words."""
    from ray.job_submission import JobSubmissionClient

    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    try:
        yield JobSubmissionClient(where)
    except OSError as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise ServiceUnavailableError(
            f"no Ray Jobs API answers at {where}: {problem}; give --address http://HOST:8265 of the cluster's head, with ray[default]"
        ) from error
    except RuntimeError as error:
        if job_id and "does not exist" in str(error):
            raise UsageError(f"no job '{job_id}' on the cluster at {where}") from error
        raise ServiceUnavailableError(f"the Ray Jobs API at {where} refuses: {str(error).splitlines()[0]}") from error
