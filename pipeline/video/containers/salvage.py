"""What is left of a cut or damaged video: the frames that decode and are built upon nothing damaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reelscribe.pipeline.errors import TruncatedVideoError
from reelscribe.pipeline.video.containers.probe import Scan, scan
from reelscribe.pipeline.video.containers.timeline import Int64Array, Timeline
from reelscribe.pipeline.video.readers.pyav import PyAVReader


def salvage(uri: str) -> Scan:
    """The video as if it had only its sound frames; each stays on screen until the next sound one. Decodes the whole file.

    Where frames are known by counting alone, only those before the first damage count. Raises TruncatedVideoError where no frame is
    sound, and what ``probe.scan`` raises.
    """
    found = scan(uri, whole=False)
    sound = _increasing(np.asarray(PyAVReader().sound_positions(found), dtype=np.int64))
    if not found.timeline.recognizable:
        sound = sound[sound == np.arange(len(sound))]
    if not len(sound):
        raise TruncatedVideoError(f"{found.name}: none of its frames decodes without damage")
    timeline = _only(found.timeline, sound)
    length_s = timeline.end_s - timeline.begin_s
    info = replace(
        found.info, begin_s=timeline.begin_s, end_s=timeline.end_s, num_frames=len(timeline), frame_rate=len(timeline) / length_s
    )
    return replace(found, timeline=timeline, info=info, salvaged=True)


def _increasing(positions: Int64Array) -> Int64Array:
    """Without those that come behind a greater one: a damaged file may show a frame again, and readers only go forward."""
    before = np.maximum.accumulate(np.concatenate([[-1], positions]))[:-1]
    return positions[positions > before]


def _only(timeline: Timeline, positions: Int64Array) -> Timeline:
    """The timeline with no frames but those at increasing positions."""
    last = int(positions[-1])
    return Timeline(
        pts=timeline.pts[positions],
        end=timeline.end if last + 1 == len(timeline) else int(timeline.pts[last + 1]),
        time_base=timeline.time_base,
        keyframes=np.flatnonzero(np.isin(positions, timeline.keyframes)).astype(np.int64),
        recognizable=timeline.recognizable,
    )
