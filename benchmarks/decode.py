"""Our clips against each raw library used as its documentation shows, in one run: how many times longer does the library take?

    python benchmarks/decode.py                       # everything: files of up to an hour, 1080p; about 3 GB in the temporary folder
    python benchmarks/decode.py --lengths 10 --heights 240 --repeats 3

Each contender gives 16 frames of 112 x 112. Files are drawn: ten seconds of H.264 (a keyframe every two seconds, B-frames), repeated by
remuxing up to the length wanted. With one thread clips are read one after another in this process; with two, ours go through a pool of two
decode workers and a library gets two threads. Ours also checks that the file is whole and counts its frames, as always; it does not hash
the content, which labelling asks for and the libraries do not do (a column says what that adds where the file has not been hashed before).

Contenders take turns, and the least of the repeats counts: what a machine that is busy with something else adds is not theirs. Processor
time is compared beside the time on the clock, as it suffers less from neighbours: of this process with all the threads that a library
starts, and of the decode workers.

The second table compares our own plans: keyframes against uniform, with a keyframe every two seconds (streams) and every ten (the encoder's
own choice at this rate).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import av
import av.logging
import cv2
import numpy as np
from machine import machine

from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.sampling import AnySampling, DenseSampling, KeyframeSampling, UniformSampling, plan_times
from reelscribe.pipeline.video.clip import ClipRequest, read_clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import FrameSize
from reelscribe.pipeline.video.writer import write_video

RATE, SEGMENT_S, FRAMES, SIDE = 25, 10, 16, 112
SHORT_CLIPS = 4  # read in each measurement of the shortest files, so that it is not over at once; of others one for each thread
GOP_S, LONG_GOP_S = 2, 10  # seconds between keyframes
PLANS: dict[str, AnySampling] = {
    "uniform": UniformSampling(num_frames=FRAMES),
    "dense": DenseSampling(num_frames=FRAMES, stride_s=0.1),
    "keyframes": KeyframeSampling(num_frames=FRAMES),
}
WIDTHS = {240: 426, 720: 1280, 1080: 1920}
Contender = Callable[[Path, str, int, int], list[int]]  # (file, plan, length in seconds, threads) -> positions of the frames taken


# ------------------------------------------------------------------------------------------------------------------------ the files


def draw(height: int) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Soft noise that moves, and a square that goes round."""
    width = WIDTHS[height]
    rng = np.random.default_rng(height)
    ground = cv2.resize(rng.integers(0, 255, (40, 80, 3), dtype=np.uint8), (2 * width, height), interpolation=cv2.INTER_CUBIC)
    for number in range(RATE * SEGMENT_S):
        frame = np.ascontiguousarray(ground[:, number * width // 250 :][:, :width])
        x, y = (0.5 + 0.3 * np.array([np.cos(number / 20), np.sin(number / 20)])) * (width, height)
        cv2.circle(frame, (int(x), int(y)), height // 8, (255, 40, 40), -1)
        yield frame


def file_of(folder: Path, height: int, length_s: int, gop_s: int = GOP_S) -> Path:
    """A file of that many seconds, drawn once."""
    segment, path = folder / f"{height}-gop{gop_s}-segment.mp4", folder / f"{height}-gop{gop_s}-{length_s}.mp4"
    if not segment.exists():
        options = {"preset": "veryfast", "g": str(gop_s * RATE), "x264-params": "scenecut=0"}
        write_video(folder / "new.mp4", draw(height), frame_rate=RATE, options=options)
        (folder / "new.mp4").rename(segment)
    if not path.exists():
        repeat(segment, folder / "new.mp4", length_s // SEGMENT_S)
        (folder / "new.mp4").rename(path)
    return path


def repeat(segment: Path, path: Path, times: int) -> None:
    with av.open(str(path), "w") as made:
        stream: Any = None
        for turn in range(times):
            with av.open(str(segment)) as given:
                source = given.streams.video[0]
                stream = stream or made.add_stream_from_template(source)
                shift = round(turn * SEGMENT_S / source.time_base)
                for packet in given.demux(source):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    made.mux(packet)


# ------------------------------------------------------------------------------------------------------------------- the contenders


def wanted(plan: str, length_s: int, gop_s: int = GOP_S) -> list[int]:
    """Positions of the frames of a plan."""
    keyframes = [float(t) for t in range(0, length_s, gop_s)]
    (times,) = plan_times(PLANS[plan], start_s=0.0, end_s=float(length_s), keyframes_s=keyframes)
    return [int(t * RATE + 1e-6) for t in times]


def request_of(path: Path, plan: str) -> ClipRequest:
    return ClipRequest(uri=str(path), sampling=PLANS[plan], size=FrameSize(height=SIDE, width=SIDE), digest=False)


def ours(path: Path, plan: str, length_s: int, threads: int) -> list[int]:  # noqa: ARG001 - one of the contenders
    av.logging.set_level(av.logging.ERROR)  # as our reader sets it, and ``pyav`` does not
    return list(read_clip(request_of(path, plan)).views[0].index)


def small(frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def pyav(path: Path, plan: str, length_s: int, threads: int) -> list[int]:
    """Seek to each time and decode up to it (the documentation's way); keyframes by skip_frame (its cookbook).

    Its logging is off, as it is by default: a decoder's thread that has something to say would wait for the interpreter's lock, and who
    closes the decoder meanwhile, with the lock held, would wait for the thread.
    """
    av.logging.set_level(None)
    taken, pictures = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        stream.codec_context.thread_count = threads
        if plan == "keyframes":
            stream.codec_context.skip_frame = "NONKEY"
        for position in wanted(plan, length_s):
            target = round(Fraction(position, RATE) / stream.time_base)
            container.seek(target, stream=stream)
            frame = next(frame for frame in container.decode(stream) if frame.pts >= target)
            taken.append(round(frame.pts * stream.time_base * RATE))
            pictures.append(small(frame.to_ndarray(format="rgb24")))
    return taken


def opencv(path: Path, plan: str, length_s: int, threads: int) -> list[int]:
    """CAP_PROP_POS_FRAMES and read."""
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    positions = wanted(plan, length_s)
    for number, position in enumerate(positions):
        if number == 0 or position != positions[number - 1]:
            video.set(cv2.CAP_PROP_POS_FRAMES, position)
            got, frame = video.read()
            assert got
            small(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    video.release()
    return positions


def decord(path: Path, plan: str, length_s: int, threads: int) -> list[int]:
    """get_batch, at the size that its reader was asked for."""
    import decord as library

    video = library.VideoReader(str(path), width=SIDE, height=SIDE, num_threads=threads)
    positions = wanted(plan, length_s)
    video.get_batch(positions).asnumpy()
    return positions


CONTENDERS: dict[str, Contender] = {"ours": ours, "pyav": pyav, "opencv": opencv, "decord": decord}


# ------------------------------------------------------------------------------------------------------------------ the measurement


@dataclass(frozen=True)
class Seconds:
    """Per clip."""

    wall: float
    processor: float


def processor_s() -> float:
    """Used so far by this process, and by its children, of which each is a decode worker that works in one thread."""
    children = [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]
    return time.process_time() + sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in children) / 1e9


def measure(read: Callable[[], list[list[int]]], clips: int, expected: list[int]) -> Seconds:
    """Raises where the frames are not the wanted ones."""
    wall, processor = time.perf_counter(), processor_s()
    taken = read()
    seconds = Seconds((time.perf_counter() - wall) / clips, (processor_s() - processor) / clips)
    assert taken == [expected] * clips, f"{taken} was taken, wanted is {expected} {clips} times"
    return seconds


def through_pool(pool: DecodePool, path: Path, plan: str, clips: int) -> list[list[int]]:
    outcomes = [outcome for _, outcome in pool.map((i, request_of(path, plan)) for i in range(clips))]
    return [[] if isinstance(o, VideoError) else list(o.views[0].index) for o in outcomes]


def least(runs: list[Seconds]) -> Seconds:
    return Seconds(min(run.wall for run in runs), min(run.processor for run in runs))


def row(path: Path, plan: str, length_s: int, threads: int, *, repeats: int, pool: DecodePool | None) -> dict[str, Seconds]:
    """What each contender takes; they take turns."""
    expected, clips = wanted(plan, length_s), SHORT_CLIPS if length_s == SEGMENT_S else threads
    runs: dict[str, list[Seconds]] = {name: [] for name in CONTENDERS}
    for _ in range(repeats):
        for name, contender in CONTENDERS.items():
            if name == "ours" and pool is not None:
                read = partial(through_pool, pool, path, plan, clips)
            else:
                read = partial(one_by_one, contender, path, plan, length_s, threads, clips)
            runs[name].append(measure(read, clips, expected))
    return {name: least(found) for name, found in runs.items()}


def one_by_one(contender: Contender, path: Path, plan: str, length_s: int, threads: int, clips: int) -> list[list[int]]:
    return [contender(path, plan, length_s, threads) for _ in range(clips)]


def hashing_s(path: Path) -> float:
    begin = time.process_time()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    return time.process_time() - begin


def against_libraries(folder: Path, heights: Sequence[int], lengths: Sequence[int], repeats: int) -> None:
    libraries = [name for name in CONTENDERS if name != "ours"]
    heads = ["ours, ms", *(f"{name} / ours" for name in libraries), "best library / ours"]
    heads += ["ours, processor ms", "best library / ours", "hashing, processor ms"]
    print("| file | plan | threads | " + " | ".join(heads) + " |")
    print("|---|---|---|" + "---|" * len(heads))
    with DecodePool(2) as pool:
        for height, length_s, plan, threads in product(heights, lengths, PLANS, (1, 2)):
            path = file_of(folder, height, length_s)
            found = row(path, plan, length_s, threads, repeats=repeats, pool=pool if threads == 2 else None)
            ours = found.pop("ours")
            ratios = [seconds.wall / ours.wall for seconds in found.values()]
            processor = min(seconds.processor for seconds in found.values()) / ours.processor
            cells = [f"{ours.wall * 1000:.0f}", *(f"{ratio:.2f}" for ratio in ratios), f"{min(ratios):.2f}"]
            cells += [f"{ours.processor * 1000:.0f}", f"{processor:.2f}", f"{hashing_s(path) * 1000:.0f}"]
            print(f"| {height}p, {length_s} s | {plan} | {threads} | {' | '.join(cells)} |", flush=True)


def between_plans(folder: Path, heights: Sequence[int], lengths: Sequence[int], repeats: int) -> None:
    print("\n| file | a keyframe every | uniform, ms | keyframes, ms | uniform / keyframes | the same in processor time |")
    print("|---|---|---|---|---|---|")
    for height, length_s, gop_s in product(heights, lengths, (GOP_S, LONG_GOP_S)):
        path = file_of(folder, height, length_s, gop_s)
        runs: dict[str, list[Seconds]] = {"uniform": [], "keyframes": []}
        for _ in range(repeats):
            for plan, measured in runs.items():
                read = partial(one_by_one, ours, path, plan, length_s, 1, 2)
                measured.append(measure(read, 2, wanted(plan, length_s, gop_s)))
        uniform, keyframes = least(runs["uniform"]), least(runs["keyframes"])
        ratios = f"{uniform.wall / keyframes.wall:.1f} | {uniform.processor / keyframes.processor:.1f}"
        print(f"| {height}p, {length_s} s | {gop_s} s | {uniform.wall * 1000:.0f} | {keyframes.wall * 1000:.0f} | {ratios} |", flush=True)


def main(lengths: Sequence[int], heights: Sequence[int], repeats: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{machine('av', 'opencv-python-headless', 'decord')}; the least of {repeats}\n")
    against_libraries(folder, heights, lengths, repeats)
    between_plans(folder, heights, [length_s for length_s in lengths if length_s > LONG_GOP_S], repeats)
    print(f"\nLoad {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 600, 3600], help="seconds, multiples of ten")
    parser.add_argument("--heights", type=int, nargs="+", default=list(WIDTHS), choices=list(WIDTHS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "reelscribe-benchmark", help="where files are kept")
    chosen = parser.parse_args()
    main(chosen.lengths, chosen.heights, chosen.repeats, chosen.folder)
