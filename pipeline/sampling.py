"""Which moments of a video make a clip: one spec in seconds for training, evaluation, labelling and serving.

Everything here is pure arithmetic on times; no file is opened. A *plan* is one tuple of times per view. Decoding then takes,
for each time t, the frame on screen at t (pts <= t < next pts). A long video is first cut into *windows*, each of which is a clip.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from reelscribe.pipeline.errors import UsageError, VideoTooShortError

Times = tuple[float, ...]


class _Sampling(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UniformSampling(_Sampling):
    """``num_frames`` over the whole clip: the middle of each of as many equal parts (TSN, arXiv 1608.00859)."""

    kind: Literal["uniform"] = "uniform"
    num_frames: int = Field(default=16, ge=1, description="frames per clip")


class RateSampling(_Sampling):
    """A fixed number of frames per second from the start of the clip; longer clips give more frames."""

    kind: Literal["rate"] = "rate"
    frames_per_second: float = Field(default=4.0, gt=0)
    max_frames: int = Field(default=256, ge=1, description="a longer clip is cut after so many frames")


class DenseSampling(_Sampling):
    """``num_frames`` at a stride in seconds, in ``num_views`` windows spread evenly over the clip."""

    kind: Literal["dense"] = "dense"
    num_frames: int = Field(default=16, ge=1)
    stride_s: float = Field(default=0.1, gt=0)
    num_views: int = Field(default=1, ge=1)


class KeyframeSampling(_Sampling):
    """``num_frames`` over the whole clip, as ``uniform``, each moved to the nearest keyframe.

    Keyframes decode alone, so a long file costs a fraction; where keyframes are far apart a frame may come several times.
    """

    kind: Literal["keyframes"] = "keyframes"
    num_frames: int = Field(default=16, ge=1, description="frames per clip")


AnySampling = UniformSampling | RateSampling | DenseSampling | KeyframeSampling
SamplingSpec = Annotated[AnySampling, Field(discriminator="kind")]


class Windows(_Sampling):
    """Windows of ``length_s``, one every ``hop_s``, from the start of a video or clip to its end."""

    length_s: float = Field(gt=0, allow_inf_nan=False)
    hop_s: float = Field(gt=0, allow_inf_nan=False, description="below length_s they overlap, above it parts are left out")

    @classmethod
    def parse(cls, text: str) -> Windows:
        """``10s``, or ``10s/5s`` for one every 5 seconds; ``ms``, ``m`` and ``h`` are understood too. Raises UsageError."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?(?:/(\d+(?:\.\d+)?)(ms|s|m|h)?)?", text.strip())
        length_s, hop_s = (float(found[i] or 0) * _SECONDS[found[i + 1] or "s"] for i in (1, 3)) if found else (0.0, 0.0)
        if not found or not length_s or (found[3] and not hop_s):
            raise UsageError(f"windows '{text}': expected a length such as 10s, or a length and a step such as 10s/5s, both above 0")
        return cls(length_s=length_s, hop_s=hop_s or length_s)


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def plan_windows(spec: Windows, *, start_s: float, end_s: float) -> tuple[tuple[float, float], ...]:
    """Start and end of each window in ``[start_s, end_s)``, in seconds; one at least.

    The last window may be shorter than the others: the rest after the whole ones. A rest that would show less than half a step (or, where
    windows leave gaps, less than half a window) of what no other shows is no window: it is added to the last one, or left out as a gap.
    """
    if not start_s < end_s:
        raise VideoTooShortError(f"the clip from {start_s:g} s to {end_s:g} s has no length")
    length, hop = spec.length_s, spec.hop_s
    whole = math.floor((end_s - start_s - length) / hop + 1e-9) + 1
    if whole < 1:
        return ((start_s, end_s),)
    windows = [(start_s + i * hop, min(start_s + i * hop + length, end_s)) for i in range(whole)]
    rest_s, shown_s = start_s + whole * hop, windows[-1][1]
    if end_s - max(rest_s, shown_s) >= min(length, hop) / 2:
        windows.append((rest_s, end_s))
    elif hop <= length:
        windows[-1] = (windows[-1][0], end_s)
    return tuple(windows)


def plan_times(
    spec: AnySampling,
    *,
    start_s: float,
    end_s: float,
    jitter_seed: int | None = None,
    keyframes_s: Sequence[float] = (),
) -> tuple[Times, ...]:
    """Times in seconds, one tuple per view, all in ``[start_s, end_s)``.

    ``jitter_seed`` moves the times at random for training (within each part, by a phase, or by an offset); ``None`` is the fixed
    plan of evaluation. ``keyframes_s`` are the increasing times of the video's keyframes, which only ``keyframes`` needs.
    Raises VideoTooShortError where a dense window does not fit, or no keyframe lies in the clip.
    """
    if not start_s < end_s:
        raise VideoTooShortError(f"the clip from {start_s:g} s to {end_s:g} s has no length")
    draw = random.Random(jitter_seed).random if jitter_seed is not None else None
    length = end_s - start_s
    match spec:
        case UniformSampling(num_frames=count):
            views = [_parts(count, start_s, length, draw)]
        case KeyframeSampling(num_frames=count):
            inside = [t for t in keyframes_s if start_s <= t < end_s]
            if not inside:
                raise VideoTooShortError(f"no keyframe lies between {start_s:g} s and {end_s:g} s; sample 'uniform' instead")
            views = [[_nearest(inside, t) for t in _parts(count, start_s, length, draw)]]
        case RateSampling(frames_per_second=rate, max_frames=limit):
            phase = (draw() if draw else 0.0) * min(1 / rate, length)
            count = min(limit, max(1, int((length - phase) * rate + 1e-9)))
            views = [[start_s + phase + i / rate for i in range(count)]]
        case DenseSampling(num_frames=count, stride_s=stride, num_views=num_views):
            slack = length - (count - 1) * stride
            if slack <= 0:
                raise VideoTooShortError(
                    f"{count} frames at a stride of {stride:g} s need more than {(count - 1) * stride:g} s, the clip has {length:g} s"
                )
            offsets = [slack * (draw() if draw else (v + 0.5) / num_views) for v in range(num_views)]
            views = [[start_s + offset + i * stride for i in range(count)] for offset in offsets]
    last = end_s - 1e-6 * max(1.0, length)
    return tuple(tuple(min(max(t, start_s), last) for t in view) for view in views)


def _parts(count: int, start_s: float, length: float, draw: Callable[[], float] | None) -> list[float]:
    """One time in each of ``count`` equal parts: the middle, or where ``draw`` says."""
    return [start_s + (i + (draw() if draw else 0.5)) * length / count for i in range(count)]


def _nearest(times: list[float], to: float) -> float:
    """The one of increasing times that is nearest; of two as near, the earlier."""
    place = bisect_left(times, to)
    return min(times[max(0, place - 1) : place + 1], key=lambda t: abs(t - to))
