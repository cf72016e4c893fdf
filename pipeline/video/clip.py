"""A clip: from a request to the frames that the model sees. Everything here runs in the calling process; ``sandbox`` isolates it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reelscribe.pipeline.errors import TruncatedVideoError, UnsupportedCodecError, VideoTooLargeError, VideoTooShortError
from reelscribe.pipeline.sampling import AnySampling, KeyframeSampling, plan_times
from reelscribe.pipeline.video.types import Backend, DecodeLimits, Frames, FrameSize, VideoInfo

if TYPE_CHECKING:
    from reelscribe.pipeline.video.containers.probe import Scan


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """Which part of which file, sampled how, at what size."""

    uri: str  # a local path, file://, http(s):// or s3://
    sampling: AnySampling
    size: FrameSize
    start_s: float | None = None  # seconds from the first frame, as players count; None is the beginning
    end_s: float | None = None  # seconds from the first frame; None is the end
    jitter_seed: int | None = None
    backend: Backend = "auto"
    digest: bool = True  # name the content, too: all bytes of a local file are read for it


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a request gave."""

    views: tuple[Frames, ...]  # one per view of the sampling plan
    info: VideoInfo
    digest: (
        str  # see source.content_digest; behind ``damaged:`` where the clip was made of what decodes of a damaged file; or not asked: ""
    )


def read_clip(request: ClipRequest, limits: DecodeLimits | None = None) -> Clip:
    """Probe, plan, read, fit, digest: in this process, so ``timeout_s`` and ``memory_mb`` do not act.

    A cut or damaged file is a failure, or, by ``limits.truncated``, gives the clip that the plan makes of its sound frames.
    Raises a VideoError of one class.
    """
    limits = limits or DecodeLimits()
    # Native decoders are loaded by who decodes, and not by who only makes requests.
    from reelscribe.pipeline.video.containers.probe import scanned
    from reelscribe.pipeline.video.containers.salvage import salvage

    try:
        with scanned(request.uri) as found:
            return _read(request, limits, found)
    except TruncatedVideoError:
        if limits.truncated == "fail":
            raise
    clip = _read(request, limits, salvage(request.uri))
    return replace(clip, digest=f"damaged:{clip.digest}" if request.digest else "")


def _read(request: ClipRequest, limits: DecodeLimits, found: Scan) -> Clip:
    from reelscribe.pipeline.video.readers.chain import read_frames
    from reelscribe.pipeline.video.scaling import crop_middle, size_to_scale

    _check_size(found, limits)
    start_s, end_s = _window(request, found.info)
    keyframes_s = _keyframes_s(found) if isinstance(request.sampling, KeyframeSampling) else ()
    views = plan_times(request.sampling, start_s=start_s, end_s=end_s, jitter_seed=request.jitter_seed, keyframes_s=keyframes_s)
    scaled = size_to_scale(height=found.info.height, width=found.info.width, to=request.size)
    flat = read_frames(found, [t for view in views for t in view], size=scaled, backend=request.backend)
    fitted = replace(flat, pixels=crop_middle(flat.pixels, request.size))
    digest = found.source.digest() if request.digest else ""
    return Clip(views=_split(fitted, [len(view) for view in views]), info=found.info, digest=digest)


def _check_size(found: Scan, limits: DecodeLimits) -> None:
    info = found.info
    if info.width * info.height > limits.max_pixels:
        raise VideoTooLargeError(f"{found.name}: {info.width} x {info.height} pixels, the limit is {limits.max_pixels}")
    if info.duration_s > limits.max_duration_s:
        raise VideoTooLargeError(f"{found.name}: {info.duration_s:.0f} s long, the limit is {limits.max_duration_s:.0f} s")


def _window(request: ClipRequest, info: VideoInfo) -> tuple[float, float]:
    """Presentation times between which frames are taken. Raises VideoTooShortError for a window outside the video."""
    start_s = info.begin_s + (request.start_s or 0.0)
    end_s = info.end_s if request.end_s is None else min(info.end_s, info.begin_s + request.end_s)
    if not info.begin_s <= start_s < end_s:
        wanted = f"{request.start_s or 0:g} s to {'the end' if request.end_s is None else f'{request.end_s:g} s'}"
        raise VideoTooShortError(f"{request.uri}: the clip from {wanted} is not inside the video of {info.duration_s:.3f} s")
    return start_s, end_s


def _keyframes_s(found: Scan) -> tuple[float, ...]:
    """When each keyframe is shown. Raises UnsupportedCodecError for a container that does not tell."""
    if not found.timeline.recognizable:
        raise UnsupportedCodecError(
            f"{found.name}: {found.info.container} does not tell which frames are keyframes; sample 'uniform' instead"
        )
    return found.timeline.keyframes_s()


def _split(flat: Frames, lengths: list[int]) -> tuple[Frames, ...]:
    """Frames of all views together to one object per view."""
    views, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        views.append(Frames(pixels=flat.pixels[part], index=flat.index[part], pts_seconds=flat.pts_seconds[part], backend=flat.backend))
        start += length
    return tuple(views)
