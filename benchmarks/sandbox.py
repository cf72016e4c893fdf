"""What the decode workers withstand, and what they cost: damaged files, many readings, and the same clips without workers.

    python benchmarks/sandbox.py VIDEOS...                          # folders or files; ten minutes to an hour
    python benchmarks/sandbox.py VIDEOS... --files 500 --reads 0 --rounds 0    # 0 leaves a part out

1. ``--files``: so many damaged copies of the videos and of the counting videos of the tests, from ``--seed``, through a pool of two
   workers with the usual limits: how many end in which class. Files that end in ``crashed``, ``timeout`` or ``out_of_memory`` are kept and
   named. A crash of this process itself would leave no report.
2. ``--reads``: so many readings, round and round through the videos: does the memory of this process grow?
3. ``--rounds``: processor time of a pool of one worker over that of ``read_clip`` in this process; they take turns.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

from machine import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from damage import damaged_files
from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import ClipRequest, read_clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize
from videos import CASES

KEPT = {"crashed", "timeout", "out_of_memory"}
CLASSES = {kind.failure for kind in VideoError.__subclasses__()}
WARM_UP = 500  # readings after which memory counts
MEASURED = 100  # clips in each turn of the comparison


def request(path: Path) -> ClipRequest:
    return ClipRequest(uri=str(path), sampling=UniformSampling(num_frames=16), size=FrameSize(height=112, width=112))


def videos_below(inputs: Sequence[Path]) -> list[Path]:
    return sorted(file for path in inputs for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def outcomes_of_damage(originals: Sequence[Path], *, count: int, seed: int, keep: Path) -> None:
    """Read damaged files and say what became of them."""
    kinds: Counter[str] = Counter()
    longest_s, strange, last = 0.0, [], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, DecodePool(2) as pool:
        damaged = damaged_files(originals, Path(scratch), count=count, seed=seed)
        for path, outcome in pool.map((path, request(path)) for path in damaged):
            now = time.monotonic()
            longest_s, last = max(longest_s, now - last), now
            kind = outcome.failure if isinstance(outcome, VideoError) else "frames"
            kinds[kind] += 1
            if kind in KEPT:
                keep.mkdir(parents=True, exist_ok=True)
                path.replace(keep / path.name)
                strange.append(str(outcome).replace(str(path.parent), str(keep)))
            else:
                path.unlink()
    print(f"{sum(kinds.values())} damaged files (seed {seed}): " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    print(f"outside every class: {sum(n for kind, n in kinds.items() if kind not in CLASSES | {'frames'})}")
    print(f"longest wait for an outcome: {longest_s:.1f} s; the limit for each file is {DecodeLimits().timeout_s:g} s")
    for line in strange:
        print(f"  {line}")


def growth(videos: Sequence[Path], *, reads: int) -> None:
    """Read round and round and say what this process takes."""
    taken: list[int] = []
    with DecodePool(2) as pool:
        for number, _ in enumerate(pool.map((i, request(path)) for i, path in enumerate(islice(cycle(videos), reads)))):
            if number == WARM_UP or number == reads - 1 or (number > WARM_UP and number % (reads // 4) == 0):
                taken.append(resident_kib())
    print(
        f"{reads} readings of {len(videos)} videos: resident memory of the caller {taken[0] / 1024:.1f} MiB after {WARM_UP}, "
        f"then {', '.join(f'{kib / 1024:.1f}' for kib in taken[1:])} MiB at every quarter"
    )


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def overhead(videos: Sequence[Path], *, rounds: int) -> None:
    """Processor time of a pool, this process and its worker, over that of this process alone; they take turns, clip by clip."""
    clips = [path for path in videos if not fails(path)]
    wanted = [request(path) for path in islice(cycle(clips), MEASURED)]
    ratios = []
    with DecodePool(1) as pool:
        for turn in range(rounds + 1):  # the first is to warm up
            alone = pooled = 0
            for one in wanted:
                begin = cpu_ns()
                read_clip(one)
                middle = cpu_ns()
                for _ in pool.map([(0, one)]):
                    pass
                alone, pooled = alone + middle - begin, pooled + cpu_ns() - middle
            if turn:
                ratios.append(pooled / alone)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(
        f"processor time of a pool over the same reader in this process, {len(clips)} videos, {MEASURED} clips of 16 frames at 112 x 112: "
        f"{statistics.median(ratios):.3f} (median of {rounds} turns; {spread}), {alone / MEASURED / 1e6:.0f} ms a clip"
    )


def fails(path: Path) -> bool:
    try:
        read_clip(request(path))
    except VideoError:
        return True
    return False


def cpu_ns() -> int:
    """Of this process and its children so far, as Linux counts them."""
    children = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    counted = [file.read_text() for pid in children for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return time.process_time_ns() + sum(int(text.split()[0]) for text in counted)


def counting_videos(folder: Path) -> Iterator[Path]:
    for name, case in CASES.items():
        yield case.write(folder / f"{name}{case.suffix}")


def main(inputs: Sequence[Path], *, files: int, seed: int, reads: int, rounds: int, keep: Path) -> None:
    videos = videos_below(inputs)
    print(machine("av"), flush=True)
    if files:
        with tempfile.TemporaryDirectory() as folder:
            outcomes_of_damage([*videos, *counting_videos(Path(folder))], count=files, seed=seed, keep=keep)
    if reads:
        growth(videos, reads=reads)
    if rounds:
        overhead(videos, rounds=rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.gettempdir()) / "reelscribe-damaged", help="where strange files are kept"
    )
    chosen = parser.parse_args()
    main(chosen.videos, files=chosen.files, seed=chosen.seed, reads=chosen.reads, rounds=chosen.rounds, keep=chosen.keep)
