"""Our clips against each raw library used as its documentation shows, in one run: how many times longer does the library take?

    python benchmarks/decode.py                       # everything: files of up to an hour, 1080p; about 3 GB in the temporary folder
    python benchmarks/decode.py --lengths 10 --heights 240 --repeats 3

Each contender gives 16 frames of 112 x 112. Files are drawn: ten seconds of H.264 (a keyframe every two seconds, B-frames), repeated by
remuxing up to the length wanted. Contenders take turns, and the median of the repeats counts, so that a machine that is busy
with something else slows all of them. With one thread clips are read one after another in this process; with two, ours go through a pool
of two decode workers and a library gets two threads. Ours also counts the frames, checks the file and hashes it; the libraries do not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from machine import machine

from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.sampling import AnySampling, DenseSampling, KeyframeSampling, UniformSampling, plan_times
from reelscribe.pipeline.video.clip import ClipRequest, read_clip
from reelscribe.pipeline.video.sandbox import DecodePool
from reelscribe.pipeline.video.types import FrameSize
from reelscribe.pipeline.video.writer import write_video

RATE, SEGMENT_S, FRAMES, SIDE = 25, 10, 16, 112
CLIPS = 4  # read in each measurement
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


def file_of(folder: Path, height: int, length_s: int) -> Path:
    """A file of that many seconds, drawn once."""
    segment, path = folder / f"{height}-segment.mp4", folder / f"{height}-{length_s}.mp4"
    if not segment.exists():
        options = {"preset": "veryfast", "g": str(2 * RATE), "x264-params": "scenecut=0"}
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


def wanted(plan: str, length_s: int) -> list[int]:
    """Positions of the frames of a plan. Where keyframes are wanted, these stand every two seconds."""
    keyframes = [float(t) for t in range(0, length_s, 2)]
    (times,) = plan_times(PLANS[plan], start_s=0.0, end_s=float(length_s), keyframes_s=keyframes)
    return [int(t * RATE + 1e-6) for t in times]


def request_of(path: Path, plan: str) -> ClipRequest:
    return ClipRequest(uri=str(path), sampling=PLANS[plan], size=FrameSize(height=SIDE, width=SIDE), digest=False)


def ours(path: Path, plan: str, length_s: int, threads: int) -> list[int]:  # noqa: ARG001 - one of the contenders
    return list(read_clip(request_of(path, plan)).views[0].index)


def small(frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def pyav(path: Path, plan: str, length_s: int, threads: int) -> list[int]:
    """Seek to each time and decode up to it (the documentation's way); keyframes by skip_frame (its cookbook)."""
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


def seconds_of(name: str, path: Path, plan: str, length_s: int, threads: int, pool: DecodePool | None) -> float:
    """Seconds per clip. Raises where the frames are not the wanted ones."""
    expected = wanted(plan, length_s)
    begin = time.perf_counter()
    if name == "ours" and pool is not None:
        outcomes = [outcome for _, outcome in pool.map((i, request_of(path, plan)) for i in range(CLIPS))]
        taken = [[] if isinstance(o, VideoError) else list(o.views[0].index) for o in outcomes]
    else:
        taken = [CONTENDERS[name](path, plan, length_s, threads) for _ in range(CLIPS)]
    seconds = (time.perf_counter() - begin) / CLIPS
    assert all(positions == expected for positions in taken), f"{name} took {taken[0]}, wanted is {expected}"
    return seconds


def row(path: Path, plan: str, length_s: int, threads: int, *, repeats: int, pool: DecodePool | None) -> dict[str, float]:
    """Median seconds per clip of each contender; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(repeats + 1):  # the first is to warm up
        for name, measured in times.items():
            seconds = seconds_of(name, path, plan, length_s, threads, pool)
            if turn:
                measured.append(seconds)
    return {name: statistics.median(measured) for name, measured in times.items()}


def main(lengths: Sequence[int], heights: Sequence[int], repeats: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    libraries = [name for name in CONTENDERS if name != "ours"]
    print(f"{machine('av', 'opencv-python-headless', 'decord')}; median of {repeats}\n")
    print("| file | plan | threads | ours, ms | " + " | ".join(f"{name} / ours" for name in libraries) + " | best library / ours |")
    print("|---|---|---|---|" + "---|" * (len(libraries) + 1))
    with DecodePool(2) as pool:
        for height in heights:
            for length_s in lengths:
                path = file_of(folder, height, length_s)
                for plan in PLANS:
                    for threads in (1, 2):
                        found = row(path, plan, length_s, threads, repeats=repeats, pool=pool if threads == 2 else None)
                        ratios = [found[name] / found["ours"] for name in libraries]
                        cells = [f"{ratio:.2f}" for ratio in ratios] + [f"{min(ratios):.2f}"]
                        print(
                            f"| {height}p, {length_s} s | {plan} | {threads} | {found['ours'] * 1000:.0f} | {' | '.join(cells)} |",
                            flush=True,
                        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 600, 3600], help="seconds, multiples of ten")
    parser.add_argument("--heights", type=int, nargs="+", default=list(WIDTHS), choices=list(WIDTHS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "reelscribe-benchmark", help="where files are kept")
    chosen = parser.parse_args()
    main(chosen.lengths, chosen.heights, chosen.repeats, chosen.folder)
