"""Drawn videos for tasks other than a single label. What is asked shows only in the order of the frames."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from reelscribe.pipeline.video.writer import write_video

HEIGHT, WIDTH, FRAMES, RATE = 24, 32, 12, 12.0
CLIPS = 48  # of which the last 16 are for validation


def draw(folder: Path, task: str) -> Path:
    """Videos of one second and their label file: two dots, one in each half of the picture, that move up or down."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(CLIPS):
        speeds = rng.uniform(0.5, 1.3, size=2) * rng.choice((-1, 1), size=2)  # pixels a frame
        frames = _frames(speeds, rng)
        turn = int(rng.integers(3, FRAMES - 2)) if task == "dense" else FRAMES
        frames = np.concatenate([frames[:turn], frames[turn - 2 :: -1][: FRAMES - turn]])  # from there on backwards
        write_video(folder / f"{i}.mp4", frames, frame_rate=RATE, options={"preset": "veryfast", "threads": "1"})
        rows.append({"path": f"{i}.mp4", "split": "val" if i >= CLIPS - 16 else "train", **_said(task, speeds, turn)})
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


def _said(task: str, speeds: Any, turn: int) -> dict[str, str]:
    if task == "multi_label":
        return {"label": "|".join(name for name, speed in zip(("left down", "right down"), speeds, strict=True) if speed > 0)}
    if task == "caption":
        ways = ["down" if speed > 0 else "up" for speed in speeds]
        return {"caption": f"The left dot moves {ways[0]}, the right dot moves {ways[1]}."}
    if task == "dense":  # the left dot goes down, before or after the turn
        start, end = (0, turn - 0.5) if speeds[0] > 0 else (turn - 0.5, FRAMES)
        return {"segments": json.dumps([[start / RATE, end / RATE, "left down"]])}
    return {"value": json.dumps(float(100 + 10 * speeds[0]))}  # a scale far from that of the network


def _frames(speeds: Any, rng: np.random.Generator) -> Any:
    """Each dot goes 6 to 14 pixels, from anywhere that leaves it the room."""
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 40, np.uint8)
    for half, speed in enumerate(speeds):
        way = speed * np.arange(FRAMES)
        top = rng.uniform(-way.min(), HEIGHT - 6 - way.max()) + way
        for frame, y in zip(frames, top.astype(int), strict=True):
            frame[y : y + 6, 16 * half + 4 : 16 * half + 12] = 230
    return frames
