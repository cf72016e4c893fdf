"""Damaged files from a seed: each is frames or one class, none hangs, none takes a worker with it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox import DecodePool
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize
from videos import CASES

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


def damage(data: bytes, chance: random.Random) -> bytes:
    """Flip bits, overwrite, blank, cut, take out, repeat or push in some bytes."""
    new, at = bytearray(data), chance.randrange(len(data))
    match chance.choice(["flip", "overwrite", "blank", "cut", "take out", "repeat", "push in"]):
        case "flip":
            for _ in range(chance.choice([1, 3, 10, 50])):
                new[chance.randrange(len(new))] ^= 1 << chance.randrange(8)
        case "overwrite":
            for _ in range(chance.choice([1, 2, 5])):
                new[chance.randrange(len(new))] = chance.randrange(256)
        case "blank":
            end = min(len(new), at + chance.randrange(1, 200))
            new[at:end] = bytes(end - at)
        case "cut":
            del new[at:]
        case "take out":
            del new[at : chance.randrange(at, len(new))]
        case "repeat":
            new[at:at] = new[at : at + chance.randrange(1, 500)]
        case "push in":
            new[at:at] = chance.randbytes(chance.randrange(1, 50))
    return bytes(new)


def damaged_files(counting: dict[str, Path], folder: Path) -> Iterator[tuple[Path, ClipRequest]]:
    chance = random.Random(20261122)
    originals = {name: path.read_bytes() for name, path in counting.items()}
    for number in range(FILES):
        name = chance.choice(list(CASES))
        path = folder / f"{number}-{name}{CASES[name].suffix}"
        path.write_bytes(damage(originals[name], chance))
        yield path, ClipRequest(uri=str(path), sampling=UniformSampling(num_frames=12), size=FrameSize(height=96, width=128))


def test_every_damaged_file_is_frames_or_one_class(counting: dict[str, Path], tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    with DecodePool(2, DecodeLimits(timeout_s=30, memory_mb=1024)) as pool:
        for path, outcome in pool.map(damaged_files(counting, tmp_path)):
            kind = outcome.failure if isinstance(outcome, VideoError) else "frames"
            assert kind in ALLOWED, (path.name, outcome)
            if isinstance(outcome, Clip):
                assert outcome.views[0].pixels.shape == (12, 96, 128, 3)
            outcomes[kind] += 1
    assert sum(outcomes.values()) == FILES
    assert outcomes["frames"] > FILES // 10
    assert outcomes["truncated"] > FILES // 10
