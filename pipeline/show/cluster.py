"""Commands that were submitted to a cluster."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from reelscribe.pipeline.console import print_json, say

if TYPE_CHECKING:
    from reelscribe.pipeline.cluster_jobs import Job


def job(found: Job, *, as_json: bool) -> None:
    """A command on a cluster, and what to do next."""
    if as_json:
        print_json(asdict(found))
        return
    say(f"{found.job_id}   {found.status}   {found.command}")
    if found.message:
        say(found.message)
    if not found.ended:
        say(f"look      reelscribe submitted logs {found.job_id}\nstop      reelscribe submitted stop {found.job_id}")
