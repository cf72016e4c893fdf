"""What a labelling job withstands, and how much memory it takes: random kills, and more and more videos.

    python benchmarks/jobs.py MODEL VIDEOS                          # a model as `reelscribe label` takes it, a folder; half an hour
    python benchmarks/jobs.py MODEL VIDEOS --kills 10 --sizes ""    # an empty text leaves a part out
    python benchmarks/jobs.py MODEL VIDEOS --kills 12 --sizes "" --engine ray
    python benchmarks/jobs.py MODEL VIDEOS --kills 0 --sizes "" --against-ray 2000

1. ``--kills``: so many times SIGKILL, at moments and on victims drawn from ``--seed`` (the job itself or one of its decode workers; with
   ``--engine ray`` the job, which is Ray's driver, the raylet, or one of Ray's workers), over one job, which is started again after each
   death; then its rows against those of a job that nobody disturbed.
2. ``--sizes``: one job for each of these numbers of videos (the given ones under new names): peak memory of the job's process and of the
   largest decode worker, and how fast it was.
3. ``--against-ray``: a job of so many videos on each engine, one after the other, from the first row to the last: Ray's share of the local
   engine's speed, and whether their rows are equal.
4. ``--rows``: a label file of so many rows, planned by a new job and by the one that goes on after that was killed.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil
from machine import machine

from reelscribe.pipeline.labeling.job import SHARD_SIZE
from reelscribe.pipeline.labeling.store import read_failures, read_job, read_labels

END_S = 90.0  # for a job whose cluster was hit, to end
CHANGING = ["job_id", "labelled_at"]


def many(videos: Path, count: int, folder: Path) -> Path:
    """``count`` files of a folder, under new names: hard links, so that they cost nothing."""
    folder.mkdir()
    originals = sorted(file.resolve() for file in videos.rglob("*") if file.is_file())
    for number, original in enumerate(islice(cycle(originals), count)):
        (folder / f"{number:06}{original.suffix}").hardlink_to(original)
    return folder


def start(model: str, videos: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "reelscribe", "label", model, str(videos), "--out", str(out), *options]
    with out.with_name("words.txt").open("wb") as words:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=words)


def rows(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All rows without what differs from job to job."""
    return read_labels(out).drop_columns(CHANGING).to_pylist(), read_failures(out).drop_columns(["job_id", "failed_at"]).to_pylist()


def victims_of(job: psutil.Process, engine: str) -> dict[str, list[psutil.Process]]:
    """What can be killed, by kind."""
    if engine == "local":
        return {"the job": [job], "a decode worker": job.children()}
    found: dict[str, list[psutil.Process]] = {"the job": [job], "the raylet": [], "a Ray worker": []}
    for process in job.children(recursive=True):
        with suppress(psutil.Error):  # one that has gone meanwhile
            name = process.cmdline()[0]
            if name.startswith("ray::"):
                found["a Ray worker"].append(process)
            elif Path(name).name == "raylet":
                found["the raylet"].append(process)
    return found


def end(job: subprocess.Popen[bytes], family: list[psutil.Process]) -> bool:
    """Wait for a job that was hit, and take away what it leaves behind; returns whether it ended by itself."""
    by_itself = True
    try:
        job.wait(END_S)
    except subprocess.TimeoutExpired:
        by_itself = False
        family += psutil.Process(job.pid).children(recursive=True)
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    job.kill()
    job.wait()
    return by_itself


def kill_at_random(model: str, videos: Path, scratch: Path, *, kills: int, seed: int, engine: str) -> None:
    started = time.monotonic()
    assert start(model, videos, scratch / "quiet", "--engine", engine).wait() == 0
    quiet_s, quiet = time.monotonic() - started, rows(scratch / "quiet")
    print(f"undisturbed, on {engine}: {len(quiet[0])} labels, {len(quiet[1])} failures in {quiet_s:.0f} s", flush=True)
    dice, victims, out = random.Random(seed), Counter[str](), scratch / "killed"
    job, finished, gave_up, hung = start(model, videos, out, "--engine", engine), 0, 0, 0
    while victims.total() < kills:
        try:
            if job.wait(dice.uniform(0, 0.9 * quiet_s)) == 0:
                finished += 1  # there is nothing left to kill: another folder
                assert rows(out) == quiet
                out = scratch / f"killed-{finished}"
            else:  # of a worker that was killed before
                gave_up += 1
                print(f"the job ended: {(scratch / 'words.txt').read_text().strip().splitlines()[-1]}", flush=True)
        except subprocess.TimeoutExpired:
            process = psutil.Process(job.pid)
            kinds = {kind: found for kind, found in victims_of(process, engine).items() if found}
            kind, family = dice.choice(sorted(kinds)), process.children(recursive=True)
            victims[kind] += 1
            with suppress(psutil.Error):
                dice.choice(kinds[kind]).kill()
            print(f"{victims.total()}: {kind} after {time.monotonic() - started:.0f} s", flush=True)
            if kind.startswith("a "):  # the job goes on without that worker
                continue
            hung += not end(job, family)
        job = start(model, videos, out, "--engine", engine)
    assert job.wait() == 0
    lost, wrong = len(quiet[0]) + len(quiet[1]), rows(out) != quiet
    done = [row["video_id"] for table in rows(out) for row in table]
    sessions = len(getattr(read_job(out), "sessions", ()))
    print(f"{kills} kills (seed {seed}): {dict(victims)}; {finished} jobs got through in between, the last took {sessions} sessions")
    print(f"jobs that ended for a worker's death: {gave_up}; that did not end within {END_S:.0f} s of a kill: {hung}")
    print(f"rows lost: {lost - len(set(done))}, doubled: {len(done) - len(set(done))}, rows equal to the undisturbed job's: {not wrong}")


def against_ray(model: str, videos: Path, scratch: Path) -> None:
    speeds: dict[str, float] = {}
    for engine in ("local", "ray"):
        assert start(model, videos, scratch / engine, "--engine", engine).wait() == 0
        record = read_job(scratch / engine)
        assert record is not None
        session = record.sessions[-1]
        working = session.seconds - (session.first_outcome_s or 0.0)
        speeds[engine] = session.videos / working
        print(f"{engine}: {session.seconds:.0f} s, the first row after {session.first_outcome_s:.0f} s, {speeds[engine]:.1f} rows/s since")
    share, equal = speeds["ray"] / speeds["local"], rows(scratch / "ray") == rows(scratch / "local")
    print(f"Ray has {share:.2f} of the local engine's speed; rows equal: {equal}")


def grow(model: str, videos: Path, scratch: Path, sizes: list[int]) -> None:
    print("| videos | peak memory of the job, MiB | of its decode workers together, MiB | videos/s | bound by |\n|---|---|---|---|---|")
    for size in sizes:
        out = scratch / f"size-{size}"
        job = start(model, many(videos, size, scratch / f"videos-{size}"), out)
        own, decoding = peaks(job, until=lambda: False)
        record = read_job(out)
        assert record is not None
        session = record.sessions[-1]
        print(f"| {size} | {own} | {decoding} | {session.videos_per_s or 0:.1f} | {session.bound_by} |", flush=True)


def plan_and_go_on(model: str, videos: Path, scratch: Path, rows: int) -> None:
    manifest, out = scratch / "rows.csv", scratch / "rows"
    there = sorted(many(videos, 8 * SHARD_SIZE, scratch / "rows-videos").iterdir())  # nobody comes as far as the others
    names = [*map(str, there), *(str(there[0].with_name(f"{i:07}.mp4")) for i in range(len(there), rows))]
    manifest.write_text("\n".join(["path", *names]) + "\n")
    print(f"{rows} rows, in each job until it has committed {SHARD_SIZE} of them")
    print("| | planned after, s | committed after, s | peak memory of all processes, MiB |\n|---|---|---|---|")
    for sessions, what in ((1, "a new job"), (2, "the job that goes on")):
        planned_s, committed_s, memory = until_committed(model, manifest, out, sessions)
        print(f"| {what} | {planned_s:.0f} | {committed_s:.0f} | {memory} |", flush=True)


def until_committed(model: str, manifest: Path, out: Path, sessions: int) -> tuple[float, float, int]:
    """Start a job that is in its so many-th session, and kill it when it has committed as many shards.

    Returns the seconds until it had planned and until it had committed, and the peak memory of all its processes, MiB.
    """
    began, planned_s = time.monotonic(), 0.0

    def committed() -> bool:
        nonlocal planned_s
        record = read_job(out)
        if not planned_s and record is not None and len(record.sessions) == sessions:  # written when it has planned
            planned_s = time.monotonic() - began
        return len(list((out / "labels").glob("*.parquet"))) >= sessions

    job = start(model, manifest, out)
    memory = sum(peaks(job, until=committed))
    assert job.poll() is None, "it should be at work"
    committed_s, family = time.monotonic() - began, psutil.Process(job.pid).children(recursive=True)
    job.kill()
    end(job, family)
    return planned_s, committed_s, memory


def peaks(job: subprocess.Popen[bytes], until: Callable[[], bool]) -> tuple[int, int]:
    """The largest resident memory, MiB, of a job's own process and of its decode workers together, until it ends or ``until`` says so."""
    own = decoding = 0
    process = psutil.Process(job.pid)
    while job.poll() is None and not until():
        own = max(own, resident_mib(process))
        decoding = max(decoding, sum(map(resident_mib, process.children())))
        time.sleep(0.2)
    return own, decoding


def resident_mib(process: psutil.Process) -> int:
    """Memory that a process holds now; 0 where it has gone, and where it still is the copy of its parent that it starts as."""
    with suppress(psutil.Error):
        parent = process.parent()
        if parent is None or process.cmdline() != parent.cmdline():
            return int(process.memory_info().rss) >> 20
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("videos", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--killed-videos", type=int, default=1000, help="videos of the job that is killed")
    parser.add_argument("--sizes", default="500,2000,8000")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="of the job that is killed")
    parser.add_argument("--against-ray", type=int, default=0, metavar="VIDEOS")
    parser.add_argument("--rows", type=int, default=0, help="of a label file that is planned, and planned again")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine("torch", "pyarrow"))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.kills:
            videos = many(options.videos, options.killed_videos, scratch / "videos")
            kill_at_random(options.model, videos, scratch, kills=options.kills, seed=options.seed, engine=options.engine)
        if options.sizes:
            grow(options.model, options.videos, scratch, [int(size) for size in options.sizes.split(",")])
        if options.against_ray:
            against_ray(options.model, many(options.videos, options.against_ray, scratch / "against"), scratch)
        if options.rows:
            plan_and_go_on(options.model, options.videos, scratch, options.rows)


if __name__ == "__main__":
    main()
