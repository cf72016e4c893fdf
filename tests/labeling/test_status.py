"""Where a job stands, seen from another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from labeling_model import Identity

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.errors import UsageError
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.status import JobStatus, job_status
from reelscribe.pipeline.labeling.work import Progress
from reelscribe.pipeline.manifest import list_videos


def asked(out: Path) -> dict[str, object]:
    """What the command says in a process of its own."""
    code = f"from reelscribe.pipeline.cli import app; app(['job', 'status', {str(out)!r}, '--json'])"
    answer: dict[str, object] = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    return answer


def test_a_running_a_stopped_and_a_finished_job(bundle: ModelBundle, drawn: Path, tmp_path: Path) -> None:
    videos, out, seen = list_videos(str(drawn)).slice(0, 7), tmp_path / "out", list[JobStatus]()

    def look(now: Progress) -> None:
        if now.done == 5:
            seen.append(job_status(str(out)))
            told = asked(out)
            assert (told["state"], told["total"], told["labelled"]) == ("running", 7, seen[-1].labelled)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(bundle=bundle, identity=Identity(), videos=videos, out=out, options=JobOptions(shard_size=2), on_progress=look)
    [running] = seen
    assert (running.state, running.total) == ("running", 7)
    assert 2 <= running.labelled + running.failed <= 5
    assert running.holder is not None
    assert running.rows_per_s is not None
    stopped = job_status(str(out))
    assert (stopped.state, stopped.holder, stopped.labelled) == ("stopped", None, running.labelled)
    summary = run_job(bundle=bundle, identity=Identity(), videos=videos, out=out)
    done = job_status(str(out))
    assert (done.state, done.total, done.labelled, done.sessions) == ("done", 7, summary.labelled, 2)
    assert done.updated is not None


def test_a_folder_without_a_job(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no labelling job"):
        job_status(str(tmp_path))
