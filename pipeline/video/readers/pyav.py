"""PyAV: the reader that knows each frame by its presentation time, so a seek can be checked and a missing frame is noticed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby, repeat
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from reelscribe.pipeline.errors import TruncatedVideoError
from reelscribe.pipeline.video.containers.container import OpenVideo, open_video
from reelscribe.pipeline.video.containers.probe import Scan, demux
from reelscribe.pipeline.video.containers.timeline import Timeline
from reelscribe.pipeline.video.scaling import stack
from reelscribe.pipeline.video.types import ReaderName, Uint8Array

SEEK_GAIN = 16  # packets that a seek must pass over before it pays: it costs as much as reading ten
# Codecs whose decoders skip exactly the frames that are no references (a third of the work of a usual H.264 file).
_MARKS_REFERENCES = {"h264", "hevc", "mpeg4", "mpeg2video"}
_SILENT_DAMAGE = "CRC mismatch"  # FFV1 finds the damage, says so on the console only, and fills the hole from an older frame
# Bicubic chroma at the picture's own size is what OpenCV and decord do: there the readers agree to the bit.
_AS_IT_IS = Interpolation.BICUBIC
# The area average (bilinear where it enlarges), from the planes as they are stored, with a chroma sample for each pixel that comes out.
_SCALED = (
    Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
)


class PyAVReader:
    """Decodes what a wanted frame is built upon, from the keyframe before it, and nothing else."""

    name: ReaderName = "pyav"

    def read(self, scan: Scan, indices: tuple[int, ...], size: tuple[int, int] | None) -> Uint8Array:
        """See ``types.Reader``. Raises TruncatedVideoError where a wanted frame does not decode, or only with errors."""
        scaler, pixels = VideoReformatter(), []
        if _has_groups(scan, indices[0]):
            with scan.opened() as video:
                pixels = [_rgb(scaler, frame, size) for frame in _by_groups(video, scan, indices)]
        if len(pixels) < len(indices):
            with open_video(scan.source) as video:
                pixels += [_rgb(scaler, frame, size) for frame in _by_going_through(video, scan, indices[len(pixels) :])]
        return stack(pixels, path=scan.name)

    def sound_positions(self, scan: Scan) -> list[int]:
        """Positions of all frames that decode and are built upon nothing damaged, as they come. Decodes the whole file."""
        with open_video(scan.source) as video:
            return [position for position, _ in _sound_frames(video, scan)]


# ------------------------------------------------------------------------------------------------------- from keyframe to keyframe


def _has_groups(scan: Scan, first: int) -> bool:
    """Whether frames from this position on are known by their times and have a keyframe before them. What is around damage is decoded as
    it was when it was found sound: through everything.
    """
    line = scan.timeline
    return line.recognizable and not scan.salvaged and len(line.keyframes) > 0 and int(line.keyframes[0]) <= first


def _by_groups(video: OpenVideo, scan: Scan, indices: tuple[int, ...]) -> Iterator[Any]:
    """The frames at increasing positions, up to the first that does not come out of its group of pictures."""
    groups = _Groups(video, scan)
    for key, positions in groupby(indices, scan.timeline.keyframe_before):
        wanted = list(positions)
        came = 0
        for frame in groups.frames(key, wanted):
            came += 1
            yield frame
        if came < len(wanted):
            return


class _Groups:
    """A place in the stream, and the decoding of one group of pictures after another: a keyframe and what is built upon it."""

    def __init__(self, video: OpenVideo, scan: Scan) -> None:
        self._video, self._scan, self._timeline = video, scan, scan.timeline
        self._context = video.stream.codec_context
        self._reached = -math.inf if scan.video is None else math.inf  # the latest time among the packets read; infinite: it is not known

    def frames(self, key: int, wanted: list[int]) -> Iterator[Any]:
        """The frames at these positions, decoded from the keyframe at or before them; the rest is missing behind one that does not come.

        Raises TruncatedVideoError where anything that is decoded is damaged: a later wanted frame is built upon it, or may be.
        """
        packets = self._packets_from(key)
        start = next(packets, None)
        if start is None:
            return
        awaited = deque(int(self._timeline.pts[index]) for index in wanted)
        said = len(self._video.chatter)
        try:
            for number, frame in enumerate(self._decode(chain([start], packets), set(awaited))):
                if number == 0 and frame.pts != start.pts:  # a start that even the decoder does not show: refreshed bit by bit
                    return
                if frame.is_corrupt or any(_SILENT_DAMAGE in entry[2] for entry in self._video.chatter[said:]):
                    raise self._damage(wanted)
                if awaited and frame.pts == awaited[0]:
                    awaited.popleft()
                    yield frame
        except av.error.InvalidDataError:
            raise self._damage(wanted) from None

    def _damage(self, wanted: list[int]) -> TruncatedVideoError:
        which = f"frame {wanted[0]}" if len(wanted) == 1 else f"one of the frames {wanted[0]} to {wanted[-1]}"
        seconds = self._timeline.seconds(wanted[0])
        return TruncatedVideoError(f"{self._scan.name}: {which}, from {seconds:.3f} s on, does not decode without damage")

    def _decode(self, packets: Iterator[Any], awaited: set[int]) -> Iterator[Any]:
        """Frames, until the packets of all awaited times are decoded."""
        marks_references, left = self._scan.info.codec in _MARKS_REFERENCES, set(awaited)
        self._context.flush_buffers()
        for packet in packets:
            if marks_references:
                self._context.skip_frame = "DEFAULT" if packet.pts in awaited else "NONREF"
            yield from packet.decode()
            left.discard(packet.pts)
            if not left:
                break
        yield from self._context.decode(None)

    def _packets_from(self, key: int) -> Iterator[Any]:
        """The packet of a keyframe and those that follow, but for frames shown before it: they refer to what was not decoded."""
        keys = self._timeline.keyframes
        for start in reversed(keys[keys <= key].tolist()):
            found = self._packet(start)
            if found is None:
                return
            if found.is_keyframe:  # and not only by what the container's header says
                yield found
                yield from (packet for packet in self._packets() if packet.pts is None or packet.pts >= found.pts)
                return

    def _packet(self, key: int) -> Any | None:
        """The packet of a keyframe; None where none has its time."""
        pts = int(self._timeline.pts[key])
        ahead = key - int(np.searchsorted(self._timeline.pts, self._reached, side="right"))
        if not 0 <= ahead < SEEK_GAIN:
            self._seek(pts)
        for packet in self._packets():
            if packet.pts == pts:
                return packet
            if packet.pts is not None and packet.pts > pts:  # the container landed behind it
                break
        self._seek(int(self._timeline.pts[0]))
        return next((packet for packet in self._packets() if packet.pts == pts), None)

    def _seek(self, pts: int) -> None:
        self._video.container.seek(pts, stream=self._video.stream)
        self._reached = -math.inf

    def _packets(self) -> Iterator[Any]:
        for packet in demux(self._video.container, self._video.stream):
            if packet.pts is not None:
                self._reached = max(self._reached, packet.pts)
            yield packet


# --------------------------------------------------------------------------------------------------------------- through everything


def _by_going_through(video: OpenVideo, scan: Scan, indices: tuple[int, ...]) -> Iterator[Any]:
    """The frames at increasing positions, each of which must come."""
    sound = _sound_frames(video, scan)
    for index in indices:
        position, frame = next((found for found in sound if found[0] >= index), (math.inf, None))
        if position != index:
            raise TruncatedVideoError(f"{scan.name}: frame {index} at {scan.timeline.seconds(index):.3f} s does not decode")
        yield frame


def _sound_frames(video: OpenVideo, scan: Scan) -> Iterator[tuple[int, Any]]:
    """(position, frame) of all frames that can be trusted, in presentation order.

    A frame is held back until as many have followed as the codec may reorder: one that is found damaged among these was decoded
    before it, and may have served it as a reference.
    """
    held: deque[tuple[int | None, Any, bool]] = deque()
    for judged in chain(_judge(video, scan.timeline), repeat(None)):
        if judged is not None:
            held.append(judged)
            if len(held) <= video.stream.codec_context.reorder_depth:
                continue
        elif not held:
            return
        position, frame, sound = held.popleft()
        if sound and position is not None and not any(later.is_corrupt for _, later, _ in held):
            yield position, frame


def _judge(video: OpenVideo, timeline: Timeline) -> Iterator[tuple[int | None, Any, bool]]:
    """(position, frame, sound): a frame is sound if nothing that it is built upon failed, as far as the decoder tells.

    Soundness is lost with every packet that fails and every damaged frame, and comes back with the next keyframe shown after that.
    """
    sound, counted, failed_pts = True, -1, -math.inf
    for event in _events(video):
        if isinstance(event, _Failure):
            sound, failed_pts = False, max(failed_pts, event.pts)
            continue
        counted += 1
        if event.is_corrupt:
            sound, failed_pts = False, max(failed_pts, math.inf if event.pts is None else event.pts)
        elif event.key_frame and event.pts is not None and event.pts > failed_pts:
            sound = True
        yield _position(timeline, event.pts, counted), event, sound or (event.key_frame and not event.is_corrupt)


def _position(timeline: Timeline, pts: int | None, counted: int) -> int | None:
    if not timeline.recognizable:
        return counted
    if pts is None:
        return None
    position = int(np.searchsorted(timeline.pts, pts))
    found = position < len(timeline) and int(timeline.pts[position]) == pts
    return position if found else None


def _events(video: OpenVideo) -> Iterator[Any]:
    """Frames as the decoder gives them, and a _Failure where it fails."""
    for packet in demux(video.container, video.stream):
        said = len(video.chatter)
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            frames = [_failure(packet)]
        if any(_SILENT_DAMAGE in entry[2] for entry in video.chatter[said:]):
            yield _failure(packet)
        yield from frames
    try:
        yield from video.stream.codec_context.decode(None)
    except av.error.InvalidDataError:
        yield _Failure(pts=math.inf)


@dataclass(frozen=True)
class _Failure:
    """A packet that did not decode."""

    pts: float


def _failure(packet: Any) -> _Failure:
    return _Failure(pts=math.inf if packet.pts is None else packet.pts)


# --------------------------------------------------------------------------------------------------------------------------- pixels


def _rgb(scaler: VideoReformatter, frame: Any, size: tuple[int, int] | None) -> Uint8Array:
    """(H, W, 3) of that size, or as the picture is; rotation applied."""
    turns = round(frame.rotation / 90)
    height, width = size or (None, None)
    if turns % 2:
        height, width = width, height
    changes = size is not None and (height, width) != (frame.height, frame.width)
    picture = scaler.reformat(
        frame,
        height=height,
        width=width,
        format="rgb24",
        interpolation=_SCALED if changes else _AS_IT_IS,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    return np.ascontiguousarray(np.rot90(picture.to_ndarray(), turns))
