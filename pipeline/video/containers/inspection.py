"""What ``doctor`` says of a video: facts against claims, what the readers make of it, and what a person should know."""

from __future__ import annotations

import numpy as np

from reelscribe.pipeline.errors import VideoError
from reelscribe.pipeline.sampling import plan_times
from reelscribe.pipeline.video.clip import ClipRequest
from reelscribe.pipeline.video.containers.probe import Scan, scan
from reelscribe.pipeline.video.readers.chain import load_reader, read_frames
from reelscribe.pipeline.video.types import DecodeLimits, Frames, Inspection, ReaderName

COMPARED_WITH: ReaderName = "opencv"  # the one reader that is independent of PyAV's seeks and cannot hang
_LONG_GAP_S = 10.0  # between keyframes: finding a frame there means decoding this much
_SAME_LEVELS = 2.0  # mean difference of 255 between two readers, beyond which their colours differ


def inspect(request: ClipRequest, limits: DecodeLimits) -> Inspection:  # noqa: ARG001 - the signature of clip.read_clip
    """Look at a video and decode the frames that the request plans, with every reader that is safe. Raises a VideoError."""
    found = scan(request.uri)
    info = found.info
    (times,) = plan_times(request.sampling, start_s=info.begin_s, end_s=info.end_s)
    frames = read_frames(found, times)  # at their own size, where readers agree to the bit unless one of them takes colours otherwise
    gap_s = _keyframe_gap_s(found)
    difference, disagreement = _disagreement(found, frames)
    return Inspection(
        info=info,
        claimed_frames=found.claimed_frames,
        variable_rate=_variable_rate(found),
        keyframe_gap_s=gap_s,
        reader=frames.backend,
        compared_with=COMPARED_WITH,
        largest_difference=difference,
        remarks=(*_remarks(found, gap_s), *disagreement),
    )


def _variable_rate(found: Scan) -> bool:
    """Whether frames stay for different times, beyond the rounding of the container's clock."""
    steps = np.diff(found.timeline.pts)
    return bool(len(steps)) and int(steps.max() - steps.min()) > max(1, round(0.002 / float(found.timeline.time_base)))


def _keyframe_gap_s(found: Scan) -> float:
    line = found.timeline
    starts = np.concatenate([line.pts[line.keyframes], [line.end]])
    return float(np.diff(starts).max()) * float(line.time_base) if len(starts) > 1 else found.info.duration_s


def _remarks(found: Scan, gap_s: float) -> list[str]:
    info, remarks = found.info, []
    if found.claimed_frames and found.claimed_frames != info.num_frames:
        remarks.append(f"the container claims {found.claimed_frames} frames and holds {info.num_frames}")
    if found.claimed_end_s is not None and abs(found.claimed_end_s - info.end_s) > max(0.5, 0.02 * info.duration_s):
        remarks.append(f"the container claims {found.claimed_end_s:.2f} s and the last frame ends at {info.end_s:.2f} s")
    if abs(info.begin_s) > 0.5:
        remarks.append(f"the first frame is shown at {info.begin_s:.2f} s")
    if found.num_video_streams > 1:
        remarks.append(f"{found.num_video_streams} video streams; the first is read")
    if found.interlaced:
        remarks.append("interlaced: each picture holds two moments, moving edges look like combs")
    if gap_s > _LONG_GAP_S and found.timeline.recognizable:
        remarks.append(f"{gap_s:.0f} s without a keyframe: jumps are slow")
    if not found.timeline.recognizable:
        remarks.append("no times in the container that can be relied upon: it is decoded from the start")
    return remarks


def _disagreement(found: Scan, frames: Frames) -> tuple[float | None, tuple[str, ...]]:
    """How much the other reader differs where it differs most (mean over a frame, of 255), and what to say of it."""
    try:
        distinct = tuple(sorted(set(frames.index)))
        others = load_reader(COMPARED_WITH).read(found, distinct, None)
    except VideoError as error:
        return None, (f"{COMPARED_WITH} cannot read it ({error.failure})",)
    pairs = [(frames.pixels[frames.index.index(i)], other) for i, other in zip(distinct, others, strict=True)]
    difference = max(float(np.abs(ours.astype(np.int16) - other).mean()) for ours, other in pairs)
    words = f"{COMPARED_WITH} gives other pictures (mean difference up to {difference:.1f} of 255)"
    return difference, (words,) if difference > _SAME_LEVELS else ()
