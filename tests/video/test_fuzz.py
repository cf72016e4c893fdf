"""Damaged files from a seed: each is frames or one class, none hangs, none takes a worker with it. For more: benchmarks/sandbox.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from damage import damaged_files
from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize

FILES = 600
# What damage may turn a good file into. Neither a hang nor a crash is among them.
ALLOWED = {
    "frames",
    "not_a_video",
    "no_video_stream",
    "truncated",
    "unsupported_codec",
    "encrypted",
    "too_large",
    "too_short",
    "out_of_memory",
}
PLAN, SIZE = UniformSampling(num_frames=12), FrameSize(height=96, width=128)


def test_every_damaged_file_is_frames_or_one_class(counting: dict[str, Path], tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    files = damaged_files(list(counting.values()), tmp_path, count=FILES, seed=20261122)
    with DecodePool(2, DecodeLimits(timeout_s=30, memory_mb=1024)) as pool:
        for path, outcome in pool.map((path, ClipRequest(uri=str(path), sampling=PLAN, size=SIZE)) for path in files):
            kind = outcome.failure if isinstance(outcome, VideoError) else "frames"
            assert kind in ALLOWED, (path.name, outcome)
            if isinstance(outcome, Clip):
                assert outcome.views[0].pixels.shape == (12, 96, 128, 3)
            outcomes[kind] += 1
    assert sum(outcomes.values()) == FILES
    assert outcomes["frames"] > FILES // 10
    assert outcomes["truncated"] > FILES // 10
