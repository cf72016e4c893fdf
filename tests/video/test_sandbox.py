"""Real offenders in real processes: each costs one failure and one worker, and its neighbours lose nothing."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from reelscribe.pipeline.errors import (
    DecoderCrashError,
    DecoderMemoryError,
    DecodeTimeoutError,
    ReelScribeError,
    VideoError,
    VideoNotFoundError,
)
from reelscribe.pipeline.sampling import DenseSampling, UniformSampling
from reelscribe.pipeline.video.clip import Clip, ClipRequest, read_clip
from reelscribe.pipeline.video.sandbox.pool import IN_FLIGHT_PER_WORKER, DecodePool
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize
from videos import CASES

OFFENDERS = "offenders:read_clip"
LIMITS = DecodeLimits(timeout_s=2.0, memory_mb=512)


def request(path: Path | str, frames: int = 4) -> ClipRequest:
    return ClipRequest(uri=str(path), sampling=UniformSampling(num_frames=frames), size=FrameSize(height=32, width=48))


def children() -> set[int]:
    """Process ids of this process's children."""
    task = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for thread in task.iterdir() for pid in (thread / "children").read_text().split()}


@pytest.fixture
def good(counting: dict[str, Path]) -> Path:
    return counting["h264-short-gop"]


def test_every_offender_costs_one_failure_and_its_neighbours_nothing(good: Path, tmp_path: Path) -> None:
    expected = {
        "spin": DecodeTimeoutError,
        "sleep": DecodeTimeoutError,
        "abort": DecoderCrashError,
        "segfault": DecoderCrashError,
        "allocate": DecoderMemoryError,
        "malloc": DecoderCrashError,
        "killed": DecoderMemoryError,
        "exit": DecoderCrashError,
        "defect": DecoderCrashError,
    }
    jobs: list[tuple[str, ClipRequest]] = []
    for kind in expected:
        jobs += [(f"before {kind}", request(good)), (kind, request(tmp_path / f"{kind}-1.mp4")), (f"after {kind}", request(good))]
    truth = read_clip(request(good))
    before = children()
    with DecodePool(2, LIMITS, read=OFFENDERS) as pool:
        outcomes = dict(pool.map(jobs))
    assert children() <= before
    assert len(outcomes) == len(jobs)
    for key, outcome in outcomes.items():
        if key in expected:
            assert type(outcome) is expected[key], (key, outcome)
            assert f"{key}-1.mp4" in str(outcome)
        else:
            assert isinstance(outcome, Clip), (key, outcome)
            assert np.array_equal(outcome.views[0].pixels, truth.views[0].pixels)
            assert outcome.digest == truth.digest
            assert outcome.info == truth.info


def test_a_clip_whose_worker_is_killed_from_outside_is_tried_once_more(good: Path, tmp_path: Path) -> None:
    clip = tmp_path / "once-1.mp4"
    clip.write_bytes(good.read_bytes())
    with DecodePool(1, LIMITS, read=OFFENDERS) as pool:
        ((_, outcome),) = pool.map([(0, request(clip))])
    assert clip.with_name("once-1.mp4.seen").exists()
    assert isinstance(outcome, Clip)
    assert outcome.views[0].index == read_clip(request(good)).views[0].index


def test_the_cause_tells_the_signal_and_the_last_words_without_control_characters(tmp_path: Path) -> None:
    with DecodePool(1, LIMITS, read=OFFENDERS) as pool:
        ((_, outcome),) = pool.map([(0, request(tmp_path / "chatter-1.mp4"))])
    assert "SIGABRT" in str(outcome)
    assert "native library: something went  [31mwrong" in str(outcome)


def test_nothing_reaches_the_console(tmp_path: Path, counting: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(counting["h264-long-gop"].read_bytes()[:3000])
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(range(256)) * 20)
    with DecodePool(1, LIMITS, read=OFFENDERS) as pool:
        outcomes = list(pool.map([(p, request(p)) for p in (cut, garbage, tmp_path / "chatter-1.mp4", tmp_path / "abort-1.mp4")]))
    assert all(isinstance(outcome, VideoError) for _, outcome in outcomes)
    assert capfd.readouterr() == ("", "")


def test_results_of_all_views_equal_those_of_the_same_process(counting: dict[str, Path]) -> None:
    wanted = ClipRequest(
        uri=str(counting["h264-variable-rate"]),
        sampling=DenseSampling(num_frames=5, stride_s=0.2, num_views=3),
        size=FrameSize(height=40, width=40, fit="crop"),
    )
    truth = read_clip(wanted)
    with DecodePool(1) as pool:
        ((_, clip),) = pool.map([("x", wanted)])
    assert isinstance(clip, Clip)
    assert len(clip.views) == 3
    for view, expected in zip(clip.views, truth.views, strict=True):
        assert np.array_equal(view.pixels, expected.pixels)
        assert (view.index, view.pts_seconds, view.backend) == (expected.index, expected.pts_seconds, expected.backend)
    clip.views[0].pixels[0] = 0  # the frames belong to who has them


def test_requests_are_drawn_a_bounded_number_ahead(good: Path) -> None:
    drawn = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal drawn
        while True:
            drawn += 1
            yield drawn, request(good)

    before = children()
    with DecodePool(1) as pool:
        results = pool.map(endless())
        for _ in range(10):
            next(results)
        assert drawn == 9 + IN_FLIGHT_PER_WORKER
        results.close()
        again = dict(pool.map([("a", request(good)), ("b", request("/nowhere.mp4"))]))  # the pool goes on after a consumer that stopped
    assert isinstance(again["a"], Clip)
    assert isinstance(again["b"], VideoNotFoundError)
    assert children() <= before


def test_an_exception_in_the_consumer_or_in_the_requests_leaves_nothing_behind(good: Path, tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield 0, request(good)
        yield 1, request(tmp_path / "spin-1.mp4")
        raise LookupError("the manifest ended badly")

    before = children(), threading.active_count()
    with pytest.raises(LookupError), DecodePool(2, DecodeLimits(timeout_s=60), read=OFFENDERS) as pool:
        list(pool.map(broken()))
    with pytest.raises(ZeroDivisionError), DecodePool(2, DecodeLimits(timeout_s=60), read=OFFENDERS) as pool:
        1 / len(next(pool.map([(0, request(good)), (1, request(tmp_path / "spin-1.mp4"))]))[2:])
    assert (children() - before[0], threading.active_count()) == (set(), before[1])


def test_memory_and_descriptors_are_given_back(good: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def memory_maps() -> int:
        return Path("/proc/self/maps").read_text().count("\n")

    with DecodePool(1) as pool:
        list(pool.map([(0, request(good))]))
        gc.collect()
        before = open_files(), memory_maps()
        kept = [clip for _, clip in pool.map((i, request(good)) for i in range(100))]
        assert len(kept) == 100
        assert open_files() == before[0]
        assert memory_maps() - before[1] < 50
        kept.clear()


def test_a_worker_that_grows_is_replaced_and_nothing_is_lost(good: Path) -> None:
    leaking = request(good.with_name(f"leak-{good.name}"))
    with DecodePool(1, DecodeLimits(memory_mb=192), read=OFFENDERS) as pool:  # retires past a growth of 48 MiB
        clips = [outcome for _, outcome in pool.map((i, leaking) for i in range(12))]
    assert all(isinstance(clip, Clip) for clip in clips)
    assert 3 <= len({clip.digest for clip in clips if isinstance(clip, Clip)}) <= 6


def test_a_reader_that_cannot_be_loaded_ends_the_map_with_a_reason(good: Path) -> None:
    with DecodePool(1, read="no_such_module:read") as pool:
        for _ in range(2):
            with pytest.raises(ReelScribeError, match=r"do not start.*no_such_module"):
                list(pool.map([(0, request(good))]))


def test_a_pool_is_used_inside_its_block_and_needs_a_worker(good: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        DecodePool(0)
    with pytest.raises(RuntimeError, match="with"):
        next(DecodePool(1).map([(0, request(good))]))


def run_program(text: str, *arguments: str) -> subprocess.Popen[str]:
    """A program of its own, without a ``__main__`` that could be imported (it comes from standard input)."""
    process = subprocess.Popen(
        [sys.executable, "-", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert process.stdin is not None
    process.stdin.write(textwrap.dedent(text))
    process.stdin.close()
    return process


PROGRAM = """
    import os, signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    from pathlib import Path
    from reelscribe.pipeline.sampling import UniformSampling
    from reelscribe.pipeline.video.clip import ClipRequest
    from reelscribe.pipeline.video.sandbox.pool import DecodePool
    from reelscribe.pipeline.video.types import DecodeLimits, FrameSize

    def request(path):
        return ClipRequest(uri=path, sampling=UniformSampling(num_frames=2), size=FrameSize(height=32, width=32))

    with DecodePool(2, DecodeLimits(timeout_s=600), read="offenders:read_clip") as pool:
        results = pool.map([(0, request(sys.argv[1])), (1, request("spin-1.mp4")), (2, request("sleep-1.mp4"))])
        next(results)
        mine = Path(f"/proc/{os.getpid()}/task")
        print(*(pid for thread in mine.iterdir() for pid in (thread / "children").read_text().split()), flush=True)
        next(results)
"""


def is_running(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="a signal at the parent's death is Linux's")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_die_with_their_parent_even_while_they_spin_in_native_code(good: Path, end: signal.Signals) -> None:
    process = run_program(PROGRAM, str(good))
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.send_signal(end)
    process.wait(timeout=30)
    process.stdout.close()
    patience = time.monotonic() + 10
    while any(is_running(pid) for pid in workers) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in workers)


def test_workers_never_load_torch_nor_decord_unasked(good: Path) -> None:
    with DecodePool(1, read="loaded_modules:read_clip") as pool:
        ((_, outcome),) = pool.map([(0, request(good))])
    loaded = set(str(outcome).split("loaded: ")[1].split())
    assert "av" in loaded
    assert not loaded & {"torch", "decord", "ray", "mlflow", "pyarrow"}


def test_a_thousand_readings_from_four_processes_are_identical(counting: dict[str, Path]) -> None:
    wanted = request(counting["hevc"], frames=8)
    truth = read_clip(wanted)
    with DecodePool(4) as pool:
        for _, clip in pool.map((i, wanted) for i in range(1000)):
            assert isinstance(clip, Clip)
            assert np.array_equal(clip.views[0].pixels, truth.views[0].pixels)
            assert (clip.digest, clip.info, clip.views[0].index) == (truth.digest, truth.info, truth.views[0].index)


def test_a_worker_that_never_gets_ready_is_given_up(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelscribe.pipeline.video.sandbox.worker_handle.START_LIMIT_S", 1.0)
    with DecodePool(1, read="never_ready:read_clip") as pool, pytest.raises(ReelScribeError, match="not ready within"):
        list(pool.map([(0, request(good))]))


def test_many_clips_of_many_kinds_from_two_maps_at_once(counting: dict[str, Path]) -> None:
    with DecodePool(2) as pool:
        first = pool.map((name, request(path)) for name, path in counting.items())
        second = pool.map((name, request(path, frames=3)) for name, path in counting.items())
        one = dict([next(first)])
        two = dict(second)
        one |= dict(first)
    assert one.keys() == two.keys() == CASES.keys()
    assert all(isinstance(clip, Clip) for clip in [*one.values(), *two.values()])
