"""Draw a data set of real video files whose classes only the order of the frames tells apart.

Eight classes in four pairs (``PAIRS``). A clip of the second class of a pair is, frame by frame, a clip of the first played backwards:
``draw_clip`` draws the same motion for both and turns it round for the second. So the two classes of a pair hold the same frames with the
same chances, and whoever looks at frames without their order cannot do better than a coin between them.
"""

from __future__ import annotations

import math
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from reelscribe.pipeline.config import usable_cores
from reelscribe.pipeline.drawing.folder import MANIFEST_FILE, NEW_FOLDER, TRUTH_FILE, draw_once, write_table
from reelscribe.pipeline.drawing.shapes import SHAPES, Floats, cover, uneven_run
from reelscribe.pipeline.video.types import Uint8Array

PAIRS = (("right", "left"), ("down", "up"), ("grow", "shrink"), ("clockwise", "counter_clockwise"))
CLASSES = tuple(label for pair in PAIRS for label in pair)
HEIGHT, WIDTH = 96, 128
_DRAWING = 1  # counted up when other pictures come out of the same parameters

Breakage = Literal["empty", "truncated", "text", "noise", "headers"]
_BREAKAGES: tuple[Breakage, ...] = ("truncated", "empty", "text", "headers", "noise")


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One file to draw."""

    path: str
    label: str
    split: str  # train, val, test, or new
    breakage: Breakage | None = None


def draw_order_dataset(folder: Path, *, num_videos: int = 200, broken_share: float = 0.05, seed: int = 0) -> Path:
    """Draw ``num_videos`` H.264 files of 1.5 to 3 s, 96x128 pixels; returns the path of ``manifest.csv``.

    ``videos/`` holds the labelled clips that ``manifest.csv`` lists (splits train, val and test), ``new/`` a sixth of all as unlabelled
    ones with their labels in ``truth.csv`` beside it. ``broken_share`` of all files are broken in five ways, three in five of them in
    ``new/`` (without a row in ``truth.csv``) and the others in train. The same parameters give the same bytes.

    The folder appears at once when all is drawn; drawn already, it is left as it is. Raises OutputConflictError where it holds
    anything else.
    """
    if num_videos < len(CLASSES) or not 0 <= broken_share < 0.5:
        raise ValueError(f"{num_videos} videos, {broken_share:g} broken: expected {len(CLASSES)} or more, and a share from 0 up to 0.5")
    marker = {"drawing": _DRAWING, "num_videos": num_videos, "broken_share": broken_share, "seed": seed}
    draw_once(folder, marker, lambda draft: _draw_all(draft, _plan(num_videos, broken_share, seed), seed))
    return folder / MANIFEST_FILE


def draw_clip(label: str, rng: np.random.Generator) -> tuple[Uint8Array, float]:
    """Frames ``(T, 96, 128, 3)`` RGB of one clip of ``label``, and their rate per second.

    From equal generators the two classes of a pair give the same frames, one the other backwards.
    """
    pair = next(pair for pair in PAIRS if label in pair)
    frame_rate = float(rng.choice((12.0, 15.0, 24.0, 30.0)))
    num_frames = round(float(rng.uniform(1.5, 3.0)) * frame_rate)
    x, y, radius = _motion(pair[0], uneven_run(num_frames, rng), rng)
    frames = _paint(x, y, radius, rng)
    return np.ascontiguousarray(frames[::-1] if label == pair[1] else frames), frame_rate


def _motion(kind: str, progress: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Middle of the shape (pixels) and its radius at each frame."""
    radius = np.full_like(progress, rng.uniform(9, 16))
    margin = float(radius[0]) + 1
    x = np.full_like(progress, rng.uniform(margin, WIDTH - margin))
    y = np.full_like(progress, rng.uniform(margin, HEIGHT - margin))
    match kind:
        case "right":
            x = _stretch(progress, WIDTH, margin, rng)
        case "down":
            y = _stretch(progress, HEIGHT, margin, rng)
        case "grow":
            small = rng.uniform(5, 8)
            radius = (small * (1 + rng.uniform(1.5, 2.4) * progress)).astype(np.float32)
        case "clockwise":  # the angle grows; rows count downwards
            orbit = rng.uniform(0.55, 0.95) * (HEIGHT / 2 - margin)
            angle = rng.uniform(0, 2 * np.pi) + np.radians(rng.uniform(200, 330)) * progress
            x = (rng.uniform(orbit + margin, WIDTH - orbit - margin) + orbit * np.cos(angle)).astype(np.float32)
            y = (rng.uniform(orbit + margin, HEIGHT - orbit - margin) + orbit * np.sin(angle)).astype(np.float32)
    return x, y, radius


def _stretch(progress: Floats, side: int, margin: float, rng: np.random.Generator) -> Floats:
    """A way of more than half of a side, anywhere on it."""
    room = side - 2 * margin
    length = rng.uniform(0.55, 1.0) * room
    return (margin + rng.uniform(0, room - length) + length * progress).astype(np.float32)


def _paint(x: Floats, y: Floats, radius: Floats, rng: np.random.Generator) -> Uint8Array:
    """The moving shape over a still background with another, still shape, and camera noise: ``(T, H, W, 3)``."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    ramp = columns / WIDTH * math.cos(turn) + rows / HEIGHT * math.sin(turn)
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    ends = rng.uniform(40, 215, size=(2, 3)).astype(np.float32)
    ground = ends[0] + ramp[..., None] * (ends[1] - ends[0]) + rng.normal(0, 4, size=(HEIGHT, WIDTH, 1)).astype(np.float32)
    still = cover(str(rng.choice(SHAPES)), columns - rng.uniform(0, WIDTH), rows - rng.uniform(0, HEIGHT), rng.uniform(4, 10), 0.0)
    ground += still[..., None] * (rng.uniform(0, 255, size=3).astype(np.float32) - ground)
    dx, dy = columns - x[:, None, None], rows - y[:, None, None]
    shape = cover(str(rng.choice(SHAPES)), dx, dy, radius[:, None, None], rng.uniform(0, np.pi / 2))
    frames = ground + shape[..., None] * (_contrasting(ends, rng) - ground)
    noise = rng.integers(-4, 5, size=frames.shape, dtype=np.int8)
    pixels: Uint8Array = np.clip(frames + noise, 0, 255).astype(np.uint8)
    return pixels


def _contrasting(ground: Floats, rng: np.random.Generator) -> Floats:
    """A colour that stands out from both ends of the background: the best of eight."""
    colours = rng.uniform(0, 255, size=(8, 3)).astype(np.float32)
    distance = np.linalg.norm(colours[:, None] - ground[None], axis=-1).min(axis=1)
    best: Floats = colours[int(distance.argmax())]
    return best


def _plan(num_videos: int, broken_share: float, seed: int) -> list[_Item]:
    """Every file with its class, split and breakage; each split holds the classes in equal parts, in no order."""
    rng = np.random.default_rng([seed, num_videos])
    sixth, eighth = round(num_videos / 6), round(num_videos / 8)
    counts = {"train": num_videos - sixth - 2 * eighth, "val": eighth, "test": eighth, NEW_FOLDER: sixth}
    num_broken = round(broken_share * num_videos)
    broken = {NEW_FOLDER: min(sixth, math.ceil(0.6 * num_broken))}
    broken["train"] = num_broken - broken[NEW_FOLDER]
    items: list[_Item] = []
    for split, count in counts.items():
        labels = rng.permutation([CLASSES[i % len(CLASSES)] for i in range(count)])
        ways = {int(i): _BREAKAGES[n % len(_BREAKAGES)] for n, i in enumerate(rng.permutation(count)[: broken.get(split, 0)])}
        stem = "new/unseen" if split == NEW_FOLDER else "videos/clip"
        first = 0 if split == NEW_FOLDER else len(items)
        items += [
            _Item(path=f"{stem}-{first + i:04d}.mp4", label=str(label), split=split, breakage=ways.get(i)) for i, label in enumerate(labels)
        ]
    return items


def _draw_all(folder: Path, items: list[_Item], seed: int) -> None:
    """Draw the files on all cores (NumPy and the encoder work outside the interpreter's lock), then write the two tables."""
    for name in {Path(item.path).parent for item in items}:
        (folder / name).mkdir()
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        list(pool.map(lambda numbered: _draw_file(folder, numbered[1], np.random.default_rng([seed, numbered[0]])), enumerate(items)))
    labelled = [item for item in items if item.split != NEW_FOLDER]
    sound = [item for item in items if item.split == NEW_FOLDER and item.breakage is None]
    write_table(folder / MANIFEST_FILE, ("path", "label", "split"), map(asdict, labelled))
    write_table(folder / TRUTH_FILE, ("path", "label"), map(asdict, sound))


def _draw_file(folder: Path, item: _Item, rng: np.random.Generator) -> None:
    from reelscribe.pipeline.video.writer import write_video

    file = folder / item.path
    match item.breakage:
        case None | "truncated":
            frames, frame_rate = draw_clip(item.label, rng)
            write_video(file, frames, frame_rate=frame_rate, options={"preset": "veryfast", "threads": "1"})  # same bytes on any machine
            if item.breakage:
                os.truncate(file, file.stat().st_size * 2 // 3)
        case "empty":
            file.touch()
        case "text":
            file.write_text("<html><body>404 Not Found</body></html>\n", encoding="utf-8")
        case "noise":
            file.write_bytes(rng.bytes(20_000))
        case "headers":
            file.write_bytes(_container_without_streams())


def _container_without_streams() -> bytes:
    """A sound MP4 of no tracks: the boxes ``ftyp`` and ``moov`` with ``mvhd`` alone (ISO/IEC 14496-12, 4.3 and 8.2)."""
    unity = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    times = struct.pack(">5I", 0, 0, 0, 1000, 0)  # version and flags, created, modified, ticks per second, duration
    header = times + struct.pack(">IH10x", 0x10000, 0x100) + unity + bytes(24) + struct.pack(">I", 1)
    return _box(b"ftyp", b"isom" + struct.pack(">I", 0x200) + b"isommp41") + _box(b"moov", _box(b"mvhd", header))


def _box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", 8 + len(payload)) + kind + payload
