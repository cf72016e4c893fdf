"""How many frames of a counting video a reader gives right: what a decode worker runs as ``exactness:count_right``."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from reelscribe.pipeline.video.clip import ClipRequest
from reelscribe.pipeline.video.containers.probe import scan
from reelscribe.pipeline.video.readers.chain import read_frames
from reelscribe.pipeline.video.types import DecodeLimits
from videos import CASES, number_shown

JUMPS = 8


@dataclass(frozen=True, kw_only=True)
class Exactness:
    """Frames asked for, and those that show the number of the frame that is on screen at that time."""

    asked: int
    right: int


def count_right(request: ClipRequest, limits: DecodeLimits) -> Exactness:
    """Every frame of the video in one go, then few at a time, far apart, as they come. The file is named after its case."""
    name, found = Path(request.uri).stem, scan(request.uri)
    case = CASES[name]
    truth_s = case.truth_s()
    begins_s = [found.info.begin_s + t - truth_s[0] for t in truth_s]
    middle_s = [(begin + end) / 2 for begin, end in pairwise([*begins_s, found.info.end_s])]
    chosen = random.Random(name)
    jumps = [[chosen.randrange(case.num_frames) for _ in range(chosen.choice([1, 2, 5]))] for _ in range(JUMPS)]
    wanted, right = [list(range(case.num_frames)), *jumps], 0
    for numbers in wanted:
        frames = read_frames(found, [middle_s[i] for i in numbers], backend=request.backend)
        shown = [number_shown(np.rot90(pixels, case.rotation_degrees // 90)) for pixels in frames.pixels]
        right += sum(a == b == c for a, b, c in zip(shown, numbers, frames.index, strict=True))
    return Exactness(asked=sum(map(len, wanted)), right=right)
