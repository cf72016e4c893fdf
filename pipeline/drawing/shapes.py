"""Shapes with soft edges, and how far a motion has come at each frame."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SHAPES = ("disc", "square", "diamond", "cross", "ring")


def cover(shape: str, dx: Floats, dy: Floats, radius: Floats | float, turn: float) -> Floats:
    """Share of each pixel that the shape covers, from its distance to the edge; ``dx`` and ``dy`` are offsets from its middle."""
    u = np.abs(dx * math.cos(turn) + dy * math.sin(turn))
    v = np.abs(dy * math.cos(turn) - dx * math.sin(turn))
    match shape:
        case "square":
            distance = np.maximum(u, v) - 0.85 * radius
        case "diamond":
            distance = (u + 0.6 * v) / 1.17 - 0.9 * radius
        case "cross":
            distance = np.minimum(np.maximum(u - radius, v - 0.4 * radius), np.maximum(v - radius, u - 0.4 * radius))
        case "ring":
            distance = np.abs(np.hypot(u, v) - 0.72 * radius) - 0.28 * radius
        case _:
            distance = np.hypot(u, v) - radius
    cover: Floats = np.clip(0.5 - distance, 0, 1)
    return cover


def uneven_run(num_frames: int, rng: np.random.Generator) -> Floats:
    """How far the motion has come at each frame, from 0 to 1: a rest, an uneven run, a rest."""
    rest_before, rest_after = rng.uniform(0.0, 0.15, size=2)
    t = np.clip((np.linspace(0, 1, num_frames) - rest_before) / (1 - rest_before - rest_after), 0, 1)
    swing, lean = rng.uniform(-0.7, 0.7), rng.uniform(-0.25, 0.25)
    come: Floats = (t + swing * np.sin(2 * np.pi * t) / (2 * np.pi) + lean * t * (1 - t)).astype(np.float32)
    return come
