"""Draw a captioned data set: two coloured shapes, of which first one moves and then the other.

A caption is put together of parts, ``a red square moves left and then a blue circle moves up``, and so is its clip. Whoever has learnt the
parts can say sentences never heard: some shapes of a colour with a direction (``is_held_out``) are in no training clip, and each test clip
has one of them. Both shapes are in every frame, so without the order of the frames nobody knows which moved first, or where to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reelscribe.pipeline.config import usable_cores
from reelscribe.pipeline.drawing.folder import MANIFEST_FILE, NEW_FOLDER, TRUTH_FILE, draw_once, write_table
from reelscribe.pipeline.drawing.shapes import Floats, cover, uneven_run
from reelscribe.pipeline.video.types import Uint8Array

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 230), "yellow": (230, 210, 40)}
SHAPES = {"circle": "disc", "square": "square", "cross": "cross"}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
HEIGHT, WIDTH = 96, 128
_NAMES: tuple[tuple[str, ...], ...] = (tuple(COLOURS), tuple(SHAPES), tuple(DIRECTIONS))
FRAME_RATE = 12.0
_DRAWING = 1  # counted up when other pictures come out of the same parameters
_RADIUS = (11.0, 14.0)
_WAY = (38.0, 52.0)  # pixels, of a motion
_FRAMES = (22, 30)
_HELD_OUT_OF = 8  # one part in so many


class Part(NamedTuple):
    """What one shape does."""

    colour: str
    shape: str
    direction: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape} moves {self.direction}"

    @property
    def is_held_out(self) -> bool:
        """Whether no training clip has it; its colour, shape and direction, and any two of them, are learnt from other parts."""
        colour, shape, direction = (list(names).index(name) for names, name in zip(_NAMES, self, strict=True))
        return (colour + 2 * shape + direction) % _HELD_OUT_OF == 0


PARTS = tuple(Part(*names) for names in itertools.product(*_NAMES))


class Sentence(NamedTuple):
    """What a clip shows."""

    first: Part
    second: Part

    def __str__(self) -> str:
        return f"{self.first} and then {self.second}"


def draw_sentence_dataset(folder: Path, *, num_videos: int = 1440, seed: int = 0) -> Path:
    """Draw ``num_videos`` H.264 files of about 2 s, 96x128 pixels; returns the path of ``manifest.csv`` (path, caption, split).

    Of twelve videos one is for ``val``, one for ``test`` and one in ``new/`` without a row, its caption in ``truth.csv``; the others are
    ``train``. Every clip of test and new has a part that no clip of train and val has, and no sentence comes twice. The same parameters
    give the same bytes. As draw_order_dataset, the folder appears at once, and raises OutputConflictError where it holds anything else.
    """
    if num_videos < 12:
        raise ValueError(f"{num_videos} videos: expected 12 or more")
    marker = {"sentences": _DRAWING, "num_videos": num_videos, "seed": seed}
    draw_once(folder, marker, lambda draft: _draw_all(draft, num_videos, seed))
    return folder / MANIFEST_FILE


def draw_clip(sentence: Sentence, rng: np.random.Generator) -> Uint8Array:
    """Frames ``(T, 96, 128, 3)`` RGB: in the first half the first shape moves, in the second the second."""
    num_frames = int(rng.integers(*_FRAMES, endpoint=True))
    half = num_frames // 2
    run = (uneven_run(half, rng), uneven_run(num_frames - half, rng))
    come = (np.concatenate([run[0], np.ones(num_frames - half, np.float32)]), np.concatenate([np.zeros(half, np.float32), run[1]]))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    grey = rng.uniform(60, 150) + rng.uniform(-12, 12, size=3)  # far from every colour of a shape
    frames = np.full((num_frames, HEIGHT, WIDTH, 3), grey, np.float32)
    frames += rng.normal(0, 4, size=(HEIGHT, WIDTH, 1)).astype(np.float32)
    for part, there, (x, y, radius, way) in zip(sentence, come, _places(sentence, rng), strict=True):
        right, down = DIRECTIONS[part.direction]
        near = np.s_[_span(y, down * way, radius, HEIGHT), _span(x, right * way, radius, WIDTH)]  # all pixels that the shape comes to
        dx = columns[near] - (x + right * way * there)[:, None, None]
        dy = rows[near] - (y + down * way * there)[:, None, None]
        shape: Floats = cover(SHAPES[part.shape], dx, dy, radius, rng.uniform(-0.15, 0.15))
        colour = np.array(COLOURS[part.colour]) + rng.uniform(-20, 20, size=3)
        pixels = frames[:, *near]
        pixels += shape[..., None] * (colour.astype(np.float32) - pixels)
    noise = rng.integers(-4, 5, size=frames.shape, dtype=np.int8)
    noisy: Uint8Array = np.clip(frames + noise, 0, 255).astype(np.uint8)
    return noisy


def _span(middle: float, way: float, radius: float, size: int) -> slice:
    """The pixels that a shape covers on its way from a middle, and some around them."""
    first, last = sorted((middle, middle + way))
    return slice(max(0, math.floor(first - 1.2 * radius) - 1), min(size, math.ceil(last + 1.2 * radius) + 2))


def _places(sentence: Sentence, rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """For each shape where it begins (x, y), its radius and its way, so that the two never meet and stay in the picture."""
    while True:
        found, boxes = [], []
        for part in sentence:
            right, down = DIRECTIONS[part.direction]
            radius, way = rng.uniform(*_RADIUS), rng.uniform(*_WAY)
            x = rng.uniform(radius + way * (right < 0), WIDTH - radius - way * (right > 0))
            y = rng.uniform(radius + way * (down < 0), HEIGHT - radius - way * (down > 0))
            found.append((x, y, radius, way))
            ends = ((x, x + right * way), (y, y + down * way))
            boxes.append([(min(pair) - radius - 1, max(pair) + radius + 1) for pair in ends])
        if any(one[1] < other[0] or other[1] < one[0] for one, other in zip(*boxes, strict=True)):
            return found


def _sentences(rng: np.random.Generator) -> tuple[Iterator[Sentence], Iterator[Sentence]]:
    """All sentences of parts that may be learnt, and all that have a part which is held out; each in random order."""
    everything = [Sentence(first, second) for first, second in itertools.product(PARTS, PARTS)]
    order = [everything[i] for i in rng.permutation(len(everything))]
    unseen = [one.first.is_held_out or one.second.is_held_out for one in order]
    return (one for one, held in zip(order, unseen, strict=True) if not held), (
        one for one, held in zip(order, unseen, strict=True) if held
    )


def _draw_all(folder: Path, num_videos: int, seed: int) -> None:
    from reelscribe.pipeline.video.writer import write_video

    learnt, held_out = _sentences(np.random.default_rng(seed))
    sentences, rows = [], []
    for i in range(num_videos):
        split = {0: "val", 4: "test", 8: NEW_FOLDER}.get(i % 12, "train")
        sentence = next(held_out if split in ("test", NEW_FOLDER) else learnt)
        stem = "new/unseen" if split == NEW_FOLDER else "videos/clip"
        rows.append({"path": f"{stem}-{i:04d}.mp4", "caption": str(sentence), "split": split})
        sentences.append(sentence)
    (folder / "videos").mkdir()
    (folder / NEW_FOLDER).mkdir()

    def draw(i: int) -> None:
        frames = draw_clip(sentences[i], np.random.default_rng([seed, i]))
        options = {"preset": "veryfast", "threads": "1"}  # the same bytes on any machine
        write_video(folder / rows[i]["path"], frames, frame_rate=FRAME_RATE, options=options)

    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        list(pool.map(draw, range(num_videos)))
    write_table(folder / MANIFEST_FILE, ("path", "caption", "split"), (row for row in rows if row["split"] != NEW_FOLDER))
    write_table(folder / TRUTH_FILE, ("path", "caption"), (row for row in rows if row["split"] == NEW_FOLDER))
