"""What a labelling job withstands, and how much memory it takes: random kills, and more and more videos.

    python benchmarks/jobs.py MODEL VIDEOS                          # a model as `reelscribe label` takes it, a folder; half an hour
    python benchmarks/jobs.py MODEL VIDEOS --kills 10 --sizes ""    # an empty text leaves a part out

1. ``--kills``: so many times SIGKILL, at moments and on victims (the job itself, or one of its decode workers) drawn from ``--seed``, over
   one job, which is started again after each death; then its rows against those of a job that nobody disturbed.
2. ``--sizes``: one job for each of these numbers of videos (the given ones under new names): peak memory of the job's process and of the
   largest decode worker, and how fast it was.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from machine import machine

from reelscribe.pipeline.labeling.store import read_failures, read_job, read_labels

CHANGING = ["job_id", "labelled_at"]


def many(videos: Path, count: int, folder: Path) -> Path:
    """``count`` files of a folder, under new names: links, so that they cost nothing."""
    folder.mkdir()
    originals = sorted(file.resolve() for file in videos.rglob("*") if file.is_file())
    for number, original in enumerate(islice(cycle(originals), count)):
        (folder / f"{number:06}{original.suffix}").symlink_to(original)
    return folder


def start(model: str, videos: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "reelscribe", "label", model, str(videos), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows without what differs from job to job."""
    return read_labels(out).drop_columns(CHANGING).to_pylist(), read_failures(out).drop_columns(["job_id", "failed_at"]).to_pylist()


def workers(job: int) -> list[int]:
    """Process ids of a job's children."""
    found: set[int] = set()
    for children in Path(f"/proc/{job}/task").glob("*/children"):
        found.update(map(int, children.read_text().split()))
    return sorted(found)


def kill_at_random(model: str, videos: Path, scratch: Path, *, kills: int, seed: int) -> None:
    started = time.monotonic()
    assert start(model, videos, scratch / "quiet").wait() == 0
    quiet_s, quiet = time.monotonic() - started, rows(scratch / "quiet")
    print(f"undisturbed: {len(quiet[0])} labels, {len(quiet[1])} failures in {quiet_s:.0f} s")
    dice, victims, out = random.Random(seed), Counter[str](), scratch / "killed"
    job, finished = start(model, videos, out), 0
    while victims.total() < kills:
        try:
            assert job.wait(dice.uniform(0, quiet_s / 2)) == 0
            finished += 1  # there is nothing left to kill: another folder
            assert rows(out) == quiet
            out = scratch / f"killed-{finished}"
        except subprocess.TimeoutExpired:
            children = workers(job.pid)
            if children and dice.random() < 0.5:
                victims["a decode worker"] += 1
                os.kill(dice.choice(children), signal.SIGKILL)
                continue
            victims["the job"] += 1
            job.kill()
            job.wait()
        job = start(model, videos, out)
    assert job.wait() == 0
    lost, wrong = len(quiet[0]) + len(quiet[1]), rows(out) != quiet
    done = [row["video_id"] for table in rows(out) for row in table]
    sessions = len(getattr(read_job(out), "sessions", ()))
    print(f"{kills} kills (seed {seed}): {dict(victims)}; {finished} jobs got through in between, the last took {sessions} sessions")
    print(f"rows lost: {lost - len(set(done))}, doubled: {len(done) - len(set(done))}, rows equal to the undisturbed job's: {not wrong}")


def grow(model: str, videos: Path, scratch: Path, sizes: list[int]) -> None:
    print("| videos | peak memory, MiB | videos/s | bound by |\n|---|---|---|---|")
    for size in sizes:
        out = scratch / f"size-{size}"
        job = start(model, many(videos, size, scratch / f"videos-{size}"), out)
        peak = 0
        while job.poll() is None:
            peak = max(peak, sum(resident_mib(process) for process in [job.pid, *workers(job.pid)]))
            time.sleep(0.2)
        record = read_job(out)
        assert record is not None
        session = record.sessions[-1]
        print(f"| {size} | {peak} | {session.videos_per_s or 0:.1f} | {session.bound_by} |", flush=True)


def resident_mib(process: int) -> int:
    """Memory that a process holds now; 0 where it has gone."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize() >> 20
    except OSError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("videos", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--killed-videos", type=int, default=1000, help="videos of the job that is killed")
    parser.add_argument("--sizes", default="500,2000,8000")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine("torch", "pyarrow"))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.kills:
            videos = many(options.videos, options.killed_videos, scratch / "videos")
            kill_at_random(options.model, videos, scratch, kills=options.kills, seed=options.seed)
        grow(options.model, options.videos, scratch, [int(size) for size in options.sizes.split(",") if size])


if __name__ == "__main__":
    main()
