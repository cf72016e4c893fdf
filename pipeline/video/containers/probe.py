"""What a file really holds: the times of its frames, and the decoding of the first one.

Containers claim counts, rates and durations; this module counts. The timeline that it makes is the one that all readers share, so that
frame 57 is the same frame for each of them. MP4 and MOV tell each frame's time in their header (``sample_table``); elsewhere one pass over
the packets finds it. Where packets do not carry times (AVI, raw streams), or not truly (two packets with one time), the frames are
counted by decoding the file once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, islice, pairwise
from typing import Any

import av
import numpy as np

from reelscribe.pipeline.errors import (
    EncryptedVideoError,
    NoVideoStreamError,
    TruncatedVideoError,
)
from reelscribe.pipeline.video.containers.completeness import missing_bytes
from reelscribe.pipeline.video.containers.container import OpenVideo, open_video, picture_streams
from reelscribe.pipeline.video.containers.sample_table import timeline_of_tables
from reelscribe.pipeline.video.containers.timeline import Timeline
from reelscribe.pipeline.video.sources.local import identity
from reelscribe.pipeline.video.sources.source import open_source
from reelscribe.pipeline.video.types import Source, VideoInfo

# Containers that store no presentation times, or not those of every frame; FFmpeg guesses them from the order of packets, and guesses
# others after a seek.
_UNTIMED_FORMATS = {"avi", "mpeg", "h264", "hevc", "m4v", "mpegvideo", "mjpeg", "vc1", "h263", "h261", "obu", "vvc", "dirac", "cavsvideo"}
_FIRST_FRAME_PACKETS = 64  # a first frame that needs more packets than this is not worth waiting for
_remembered: dict[Hashable, Timeline] = {}  # of the sound file gone through last: windows of a long one ask for it again and again
_DEFAULT_RATE = 25.0  # of a single frame without a duration; GIF and MJPEG default to it too


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """A file, what it is, and when each of its frames is on screen."""

    source: Source
    info: VideoInfo
    timeline: Timeline
    num_video_streams: int
    claimed_frames: int  # by the container; 0 where it claims none
    claimed_end_s: float | None  # by the container
    interlaced: bool  # its first frame is of two fields
    salvaged: bool = False  # the timeline has only what decodes of a damaged file
    video: OpenVideo | None = None  # the container, where it is still open

    @property
    def name(self) -> str:
        """The video in messages."""
        return self.source.name

    @contextmanager
    def opened(self) -> Iterator[OpenVideo]:
        """The container: the one that is still open, at an unknown place, or else one opened anew."""
        if self.video is None:
            with open_video(self.source) as video:
                yield video
        else:
            with self.video.guarded():
                yield self.video


@dataclass(kw_only=True)
class _Packets:
    """What the pass over the packets gathers."""

    pts: list[int]
    ends: list[int]
    keys: list[int]  # pts of key packets
    timed: bool = True  # every packet has its own presentation time
    damaged: bool = False  # the container marked a packet as cut or damaged


def probe(uri: str) -> VideoInfo:
    """Facts of a video file, counted and not claimed.

    Raises VideoNotFoundError, VideoPermissionError, NotAVideoError, NoVideoStreamError, EncryptedVideoError, TruncatedVideoError,
    UnsupportedCodecError, DecoderMemoryError or NetworkError.
    """
    return scan(uri).info


def scan(uri: str, *, whole: bool = True) -> Scan:
    """``probe`` with the timeline. Raises what ``probe`` raises; without ``whole`` a file may end early."""
    with scanned(uri, whole=whole) as found:
        return replace(found, video=None)


@contextmanager
def scanned(uri: str, *, whole: bool = True) -> Iterator[Scan]:
    """``scan``, with the container left open for a reader that goes on with it, where its packets were not gone through."""
    source = open_source(uri)
    _refuse_encrypted(source)
    if whole and (missing := missing_bytes(source)):
        raise TruncatedVideoError(f"{source.name}: the file is cut: {missing} bytes are missing at its end")
    with open_video(source) as video:
        stream = video.stream
        packets = _unencrypted(demux(video.container, stream), source)
        head, frame = _first_frame(packets, stream)
        told = timeline_of_tables(source, stream, head[0]) if whole and head and not any(p.is_corrupt for p in head) else None
        told = told or (_remembered.get(_identity(source)) if whole else None)
        timeline = told or _timeline_of_all(chain(head, packets), video, whole=whole)
        yield Scan(
            source=source,
            info=_info(video, frame, timeline),
            timeline=timeline,
            num_video_streams=len(picture_streams(video.container)),
            claimed_frames=stream.frames,
            claimed_end_s=_claimed_end_s(video.container, stream),
            interlaced=frame is not None and frame.interlaced_frame,
            video=video if told else None,
        )


def _unencrypted(packets: Iterator[Any], source: Source) -> Iterator[Any]:
    """Raises EncryptedVideoError."""
    for packet in islice(packets, _FIRST_FRAME_PACKETS):
        if packet.has_sidedata("encryption_info"):
            raise EncryptedVideoError(f"{source.name}: its packets are encrypted (CENC)")
        yield packet
    yield from packets


def _first_frame(packets: Iterator[Any], stream: Any) -> tuple[list[Any], Any | None]:
    """The packets up to the first that gives a frame, and this frame; None where the first packets give none."""
    head, context = [], stream.codec_context
    for packet in islice(packets, _FIRST_FRAME_PACKETS):
        head.append(packet)
        frame = _try_decode(packet) or _try_decode(context)  # alone: so nothing that is shown before it is waited for
        context.flush_buffers()
        if frame is not None:
            return head, frame
    together = map(_try_decode, [*head, context])
    return head, next((frame for frame in together if frame is not None), None)


def _info(video: OpenVideo, frame: Any | None, timeline: Timeline) -> VideoInfo:
    rotation = (-frame.rotation) % 360 if frame is not None else 0
    width, height = (frame.width, frame.height) if frame is not None else (video.stream.width, video.stream.height)
    if rotation in {90, 270}:
        width, height = height, width
    return VideoInfo(
        container=video.container.format.name,
        codec=_codec_name(video.stream),
        width=width,
        height=height,
        rotation_degrees=rotation,
        begin_s=timeline.begin_s,
        end_s=timeline.end_s,
        frame_rate=len(timeline) / (timeline.end_s - timeline.begin_s),
        num_frames=len(timeline),
    )


def _timeline_of_all(packets: Iterator[Any], video: OpenVideo, *, whole: bool) -> Timeline:
    """By a pass over all packets, and by decoding them where they do not tell. Raises TruncatedVideoError or NoVideoStreamError."""
    source, stream = video.source, video.stream
    found = _gather(packets, may_hide=stream.codec_context.name in {"vp8", "libvpx"})
    if not found.pts and found.timed:
        raise _no_packets(source, stream)
    by_count = not found.timed or video.container.format.name in _UNTIMED_FORMATS
    timeline = _count_frames(source, stream) if by_count else _timeline_of_packets(found, stream)
    if whole:
        _refuse_cut(source, stream, timeline, found)
        _remembered.clear()
        _remembered[_identity(source)] = timeline
    return timeline


def _identity(source: Source) -> Hashable:
    path = source.file_name()
    return (path, identity(path)) if path is not None else object()  # nothing equals that: parts of a store's objects are not passed over


def _gather(packets: Iterator[Any], *, may_hide: bool) -> _Packets:
    found = _Packets(pts=[], ends=[], keys=[])
    for packet in packets:
        if packet.is_corrupt:
            found.damaged = True
        if packet.is_discard or (may_hide and _is_hidden(packet)):
            continue
        pts = packet.pts
        if pts is None:
            found.timed = False
            continue
        found.pts.append(pts)
        found.ends.append(pts + (packet.duration or 0))
        if packet.is_keyframe:
            found.keys.append(pts)
    if len(set(found.pts)) != len(found.pts):
        found.timed = False
    return found


def demux(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of one stream that carry data, up to the end or to the damage that ends the file."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except (av.error.InvalidDataError, IndexError):  # IndexError: a damaged transport stream announces streams that PyAV does not know
        return


def _try_decode(packet: Any) -> Any | None:
    """A frame, if this packet (or, given a codec context, the end of the stream) completes one."""
    try:
        frames = packet.decode()
    except av.error.InvalidDataError:
        return None
    return frames[0] if frames else None


def _is_hidden(packet: Any) -> bool:
    """VP8 alternate reference frames have packets of their own and are never shown (RFC 6386, 9.1: show_frame is bit 4)."""
    return not int(memoryview(packet)[0]) & 0x10


def _timeline_of_packets(packets: _Packets, stream: Any) -> Timeline:
    pts = np.sort(np.asarray(packets.pts, dtype=np.int64))
    keys = np.searchsorted(pts, np.sort(np.asarray(packets.keys, dtype=np.int64)))
    end = max(packets.ends)
    return Timeline(
        pts=pts,
        end=max(end, int(pts[-1]) + _usual_step(pts, stream)) if end <= int(pts[-1]) else end,
        time_base=stream.time_base,
        keyframes=keys.astype(np.int64),
        recognizable=True,
    )


def _usual_step(pts: np.ndarray[Any, np.dtype[np.int64]], stream: Any) -> int:
    """How long a frame stays, for a last frame that does not say."""
    if len(pts) > 1:
        return max(1, int(np.median(np.diff(pts))))
    return max(1, round(1 / float(Fraction(stream.guessed_rate or _DEFAULT_RATE) * stream.time_base)))


def _count_frames(source: Source, stream: Any) -> Timeline:
    """Decode everything once. Frames keep their own times where these increase; else they follow each other at the stream's rate."""
    times: list[int | None] = []
    with open_video(source) as video:
        again = video.stream
        for packet in demux(video.container, again):
            try:
                times.extend(frame.pts for frame in packet.decode())
            except av.error.InvalidDataError:
                continue
        with suppress(av.error.InvalidDataError):
            times.extend(frame.pts for frame in again.codec_context.decode(None))
    if not times:
        raise TruncatedVideoError(f"{source.name}: none of its packets decodes")
    rate = Fraction(stream.average_rate or stream.guessed_rate or _DEFAULT_RATE)
    known = [t for t in times if t is not None]
    if len(known) == len(times) and all(a < b for a, b in pairwise(known)):
        pts, base = np.asarray(known, dtype=np.int64), stream.time_base
        end = int(pts[-1]) + _usual_step(pts, stream)
    else:
        pts, base, end = np.arange(len(times), dtype=np.int64), 1 / rate, len(times)
    return Timeline(pts=pts, end=end, time_base=base, keyframes=np.zeros(1, dtype=np.int64), recognizable=False)


def _codec_name(stream: Any) -> str:
    """The codec and not the library that decodes it, as ffprobe names it."""
    return str(getattr(stream.codec_context.codec, "canonical_name", stream.codec_context.name))


def _claimed_end_s(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _no_packets(source: Source, stream: Any) -> Exception:
    if stream.frames:
        return TruncatedVideoError(f"{source.name}: the header promises {stream.frames} frames and the file holds none of them")
    return NoVideoStreamError(f"{source.name}: the header describes a {_codec_name(stream)} stream and no frame follows")


def _refuse_cut(source: Source, stream: Any, timeline: Timeline, packets: _Packets) -> None:
    """Raise TruncatedVideoError where the container's index points beyond the end of the file, or a packet is cut."""
    lost = sum(1 for entry in stream.index_entries if entry.pos + entry.size > source.size)
    if lost or packets.damaged:
        raise TruncatedVideoError(
            f"{source.name}: the file is cut: {lost or 'some'} of {max(stream.frames, len(timeline))} frames lie beyond its end"
        )


def _refuse_encrypted(source: Source) -> None:
    """Raise EncryptedVideoError for an ISO media file whose sample description is an encrypted one ('encv', ISO/IEC 23001-7)."""
    with source.open() as file:
        head = file.read(64 * 1024)
    if head[4:8] == b"ftyp" and b"stsd" in head and b"encv" in head and b"sinf" in head:
        raise EncryptedVideoError(f"{source.name}: its pictures are encrypted (CENC)")
