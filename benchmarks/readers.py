"""Reader by codec: how many frames of drawn counting videos, whose frame i shows i, come out right. Prints a Markdown table.

    python benchmarks/readers.py

Each cell is right / asked for: every frame in one go, and few at a time, far apart and in any order. A reader that says of a file that it
cannot read it gives no frame at all: ``refuses``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import get_args

from machine import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from exactness import Exactness
from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import Backend, FrameSize
from videos import CASES

BACKENDS: tuple[Backend, ...] = ("auto", *(name for name in get_args(Backend) if name != "auto"))


def outcomes(folder: Path) -> dict[tuple[str, Backend], Exactness | VideoError]:
    files = {name: case.write(folder / f"{name}{case.suffix}") for name, case in CASES.items()}
    plan, size = UniformSampling(), FrameSize(height=96, width=128)  # not looked at: the reader is asked for whole frames
    with DecodePool(1, read="exactness:count_right") as pool:
        requests = {
            (name, backend): ClipRequest(uri=str(file), sampling=plan, size=size, backend=backend)
            for backend in BACKENDS
            for name, file in files.items()
        }
        return dict(pool.map(requests.items()))  # type: ignore[arg-type]


def cell(outcome: Exactness | VideoError) -> str:
    return "refuses" if isinstance(outcome, VideoError) else f"{outcome.right} / {outcome.asked}"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = outcomes(Path(folder))
    print(machine("av", "opencv-python-headless", "decord", "torchcodec") + "\n")
    print("| video | " + " | ".join(BACKENDS) + " |")
    print("|---|" + "---|" * len(BACKENDS))
    for name in CASES:
        print(f"| {name} | " + " | ".join(cell(found[name, backend]) for backend in BACKENDS) + " |")


if __name__ == "__main__":
    main()
