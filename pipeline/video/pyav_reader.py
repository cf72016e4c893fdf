"""PyAV: the reader that knows each frame by its presentation time, so a seek can be checked and a missing frame is noticed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from reelscribe.pipeline.errors import TruncatedVideoError
from reelscribe.pipeline.video.container import open_video
from reelscribe.pipeline.video.probe import Scan, demux
from reelscribe.pipeline.video.scaling import scale, stack
from reelscribe.pipeline.video.types import ReaderName, Uint8Array

SEEK_GAIN = 4  # frames that a seek must save before it pays
# Codecs whose decoders skip exactly the frames that are no references (a third of the work of a usual H.264 file).
_MARKS_REFERENCES = {"h264", "hevc", "mpeg4", "mpeg2video"}
_SILENT_DAMAGE = "CRC mismatch"  # FFV1 finds the damage, says so on the console only, and fills the hole from an older frame


class PyAVReader:
    """Decodes from the nearest keyframe, or on from where it is, and stops at the last wanted frame."""

    name: ReaderName = "pyav"

    def read(self, scan: Scan, indices: tuple[int, ...], size: tuple[int, int] | None) -> Uint8Array:
        """See ``types.Reader``. Raises TruncatedVideoError where a wanted frame does not decode, or only with errors."""
        with open_video(scan.source) as (container, stream, chatter):
            cursor = _Cursor(container, stream, scan, chatter)
            if scan.timeline.recognizable and set(indices) <= set(scan.timeline.keyframes.tolist()):
                take = cursor.keyframe
            else:
                if not scan.salvaged:  # what is near damage was found sound among the frames around it
                    cursor.skip_all_but(indices)
                take = cursor.frame
            return stack([scale(_rgb(take(index)), size) for index in indices], path=scan.name)

    def sound_positions(self, scan: Scan) -> list[int]:
        """Positions of all frames that decode and are built upon nothing damaged, as they come. Decodes the whole file."""
        with open_video(scan.source) as (container, stream, chatter):
            return [position for position, _ in _Cursor(container, stream, scan, chatter).remaining()]


class _Cursor:
    """A place in the stream that moves forward."""

    def __init__(self, container: Any, stream: Any, scan: Scan, chatter: list[Any]) -> None:
        self._container, self._stream, self._scan, self._chatter = container, stream, scan, chatter
        self._timeline = scan.timeline
        self._next = 0  # the position that comes next
        self._wanted_pts: set[int] | None = None  # None decodes every frame
        self._frames: Iterator[tuple[int, Any]] = self._decode(from_start=True)

    def skip_all_but(self, indices: tuple[int, ...]) -> None:
        """Leave out frames that no other frame refers to, where they are not wanted and the codec marks them."""
        if self._timeline.recognizable and self._scan.info.codec in _MARKS_REFERENCES:
            self._wanted_pts = {int(self._timeline.pts[i]) for i in indices}

    def remaining(self) -> Iterator[tuple[int, Any]]:
        """(position, frame) of what follows and can be trusted."""
        return self._frames

    def keyframe(self, index: int) -> Any:
        """The keyframe at this position, decoded alone; no other packet is touched by the decoder."""
        pts = int(self._timeline.pts[index])
        if index - self._next >= SEEK_GAIN:
            self._container.seek(pts, stream=self._stream)
        self._next = index + 1
        frame = self._alone(pts)
        if frame is None:  # the container landed beyond it, or it is broken
            self._container.seek(int(self._timeline.pts[0]), stream=self._stream)
            frame = self._alone(pts)
        if frame is None:
            raise TruncatedVideoError(f"{self._scan.name}: keyframe {index} at {self._timeline.seconds(index):.3f} s does not decode")
        return frame

    def _alone(self, pts: int) -> Any | None:
        """Read on to the packet of that time and decode it; None where it does not come or is damaged."""
        context = self._stream.codec_context
        for packet in demux(self._container, self._stream):
            if packet.pts != pts:
                continue
            said = len(self._chatter)
            try:
                frames = [*packet.decode(), *context.decode(None)]
            except av.error.InvalidDataError:
                frames = []
            context.flush_buffers()
            if any(_SILENT_DAMAGE in entry[2] for entry in self._chatter[said:]):
                return None
            return next((frame for frame in frames if frame.pts == pts and not frame.is_corrupt), None)
        return None

    def frame(self, index: int) -> Any:
        """The frame at this position, which must lie after the one asked for before."""
        if self._timeline.recognizable:
            key = self._timeline.keyframe_before(index)
            if key - self._next >= SEEK_GAIN:
                self._seek(key)
        for position, frame in self._frames:
            if position == index:
                self._next = index + 1
                return frame
            if position > index:
                break
        raise TruncatedVideoError(f"{self._scan.name}: frame {index} at {self._timeline.seconds(index):.3f} s does not decode")

    def _seek(self, key: int) -> None:
        """Go to a keyframe; where the container lands beyond it, back to the beginning."""
        self._container.seek(int(self._timeline.pts[key]), stream=self._stream)
        self._frames = self._decode(from_start=False)
        first = next(self._frames, None)
        if first is not None and first[0] <= key:
            self._frames = chain([first], self._frames)
            return
        self._container.seek(int(self._timeline.pts[0]), stream=self._stream)
        self._frames = self._decode(from_start=True)

    def _decode(self, *, from_start: bool) -> Iterator[tuple[int, Any]]:
        """(position, frame) of the frames that follow and can be trusted, in presentation order.

        A frame is held back until as many have followed as the codec may reorder: one that is found damaged among these was decoded
        before it, and may have served it as a reference.
        """
        held: deque[tuple[int | None, Any, bool]] = deque()
        for judged in chain(self._judge(from_start=from_start), repeat(None)):
            if judged is not None:
                held.append(judged)
                if len(held) <= self._stream.codec_context.reorder_depth:
                    continue
            elif not held:
                return
            position, frame, sound = held.popleft()
            if sound and position is not None and not any(later.is_corrupt for _, later, _ in held):
                yield position, frame

    def _judge(self, *, from_start: bool) -> Iterator[tuple[int | None, Any, bool]]:
        """(position, frame, sound): a frame is sound if nothing that it is built upon failed, as far as the decoder tells.

        After a seek soundness begins at the first keyframe: what precedes it may refer to frames that were skipped. It is lost with
        every packet that fails and every damaged frame, and comes back with the next keyframe shown after that.
        """
        sound, counted, failed_pts = from_start, -1, -math.inf
        for event in self._events():
            if isinstance(event, _Failure):
                sound, failed_pts = False, max(failed_pts, event.pts)
                continue
            counted += 1
            if event.is_corrupt:
                sound, failed_pts = False, max(failed_pts, math.inf if event.pts is None else event.pts)
            elif event.key_frame and event.pts is not None and event.pts > failed_pts:
                sound = True
            yield self._position(event.pts, counted), event, sound or (event.key_frame and not event.is_corrupt)

    def _position(self, pts: int | None, counted: int) -> int | None:
        if not self._timeline.recognizable:
            return counted
        if pts is None:
            return None
        position = int(np.searchsorted(self._timeline.pts, pts))
        found = position < len(self._timeline) and int(self._timeline.pts[position]) == pts
        return position if found else None

    def _events(self) -> Iterator[Any]:
        """Frames as the decoder gives them, and a _Failure where it fails."""
        for packet in demux(self._container, self._stream):
            said = len(self._chatter)
            if self._wanted_pts is not None:
                self._stream.codec_context.skip_frame = "DEFAULT" if packet.pts in self._wanted_pts else "NONREF"
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                frames = [_failure(packet)]
            if any(_SILENT_DAMAGE in entry[2] for entry in self._chatter[said:]):
                yield _failure(packet)
            yield from frames
        try:
            yield from self._stream.codec_context.decode(None)
        except av.error.InvalidDataError:
            yield _Failure(pts=math.inf)


@dataclass(frozen=True)
class _Failure:
    """A packet that did not decode."""

    pts: float


def _failure(packet: Any) -> _Failure:
    return _Failure(pts=math.inf if packet.pts is None else packet.pts)


def _rgb(frame: Any) -> Uint8Array:
    """(H, W, 3), rotation applied. Bicubic chroma on one thread is what OpenCV and decord do: the readers agree to the bit."""
    picture = frame.reformat(format="rgb24", interpolation=Interpolation.BICUBIC, dst_color_range=ColorRange.JPEG, threads=1)
    return np.ascontiguousarray(np.rot90(picture.to_ndarray(), round(frame.rotation / 90)))
