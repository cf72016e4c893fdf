"""Opening a file with PyAV: one stream, quiet, and every way to fail turned into one class of VideoError."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.logging

from reelscribe.pipeline.errors import (
    DecoderMemoryError,
    NotAVideoError,
    NoVideoStreamError,
    TruncatedVideoError,
    UnsupportedCodecError,
    VideoError,
    VideoNotFoundError,
)
from reelscribe.pipeline.video.types import Source

# The containers that are read. FFmpeg knows more: text, still pictures, and lists of other files or addresses, which a video must not be.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,gif,apng,asf,ogg,mxf,rm,nut,ivf,dv,wtv,swf,gxf,nsv,"
    "h261,h263,h264,hevc,vvc,m4v,mjpeg,vc1,obu,av1,dirac,cavsvideo,smk,bink,roq,yuv4mpegpipe,"
    "mp3,wav,w64,flac,aac,loas,ac3,eac3,dts,amr,amrnb,amrwb,aiff,caf,ape,wv,tta,au"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
_ISO_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp"}
_MAGIC = (b"\x1aE\xdf\xa3", b"RIFF", b"GIF8", b"FLV\x01", b"OggS", b"0&\xb2u\x8ef\xcf\x11", b"\x00\x00\x01\xba", b"\x06\x0e+4", b".RMF")

av.logging.set_level(av.logging.ERROR)  # errors become the text of exceptions
logging.getLogger("libav").propagate = False  # and nothing reaches the console
logging.getLogger("libav").addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenVideo:
    """A container that is open, its first stream of moving pictures, decoding on one thread, and what FFmpeg says of them."""

    source: Source
    container: Any
    stream: Any
    chatter: list[Any]  # FFmpeg's errors are added here
    file: _Guarded | None  # that PyAV reads from, where it does not open a path

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Whatever PyAV raises inside the block leaves it as a VideoError that names the file and the decoder's own words."""
        with _classified(self.source, self.chatter, self.file):
            yield


@contextmanager
def open_video(source: Source) -> Iterator[OpenVideo]:
    """Open a source, and close it with the block, which is ``guarded``."""
    name = source.file_name()
    file = _Guarded(source) if name is None else None
    with (
        av.logging.Capture() as chatter,
        _classified(source, chatter, file),
        av.open(file or f"file:{name}", metadata_errors="replace", options=_OPTIONS) as container,
    ):
        stream = _picture_stream(container, source.name)
        yield OpenVideo(source=source, container=container, stream=stream, chatter=chatter, file=file)


@contextmanager
def _classified(source: Source, chatter: list[Any], file: _Guarded | None) -> Iterator[None]:
    try:
        yield
    except VideoError as error:
        raise (file and file.failure) or error from None
    except (av.error.FFmpegError, MemoryError, UnicodeError) as error:
        raise (file and file.failure) or classify(error, source=source, words=decoder_words(chatter)) from error
    if file and file.failure:  # it looked like the end of the file
        raise file.failure


class _Guarded:
    """A source as PyAV reads it. A failure is kept and shown as the end of the file: PyAV would raise it at some later call, perhaps of
    another video.
    """

    def __init__(self, source: Source) -> None:
        self._file = source.open()
        self.failure: VideoError | None = None
        self.seek, self.tell = self._file.seek, self._file.tell

    def read(self, size: int) -> bytes:
        if self.failure is None:
            try:
                return self._file.read(size)
            except VideoError as error:
                self.failure = error
        return b""


def decoder_words(chatter: list[Any]) -> str:
    """The last different things that the native library said, on one line without control characters."""
    lines = dict.fromkeys("".join(c if c.isprintable() else " " for c in str(entry[2])).strip() for entry in chatter)
    return "; ".join([line for line in lines if line][-3:])[:300]


def classify(error: BaseException, *, source: Source, words: str) -> VideoError:
    """The one class of failure that an exception of PyAV means."""
    reason = words or getattr(error, "strerror", None) or str(error) or type(error).__name__
    path = source.name
    text = f"{path}: {reason}"
    match error:
        case MemoryError() | av.error.MemoryError():
            return DecoderMemoryError(f"{path}: not enough memory to decode")
        case av.error.FileNotFoundError() if not Path(source.path()).exists():  # it was there a moment ago
            return VideoNotFoundError(text)
        case av.error.DecoderNotFoundError() | av.error.PatchWelcomeError() | av.error.BSFNotFoundError():
            return UnsupportedCodecError(text)
        case av.error.ArgumentError() if "whitelist" in words:
            return NotAVideoError(f"{path}: text, a still picture or a list of files; expected a video container")
        case _ if known_container(source):
            return TruncatedVideoError(text)
        case _:
            return NotAVideoError(f"{path}: no container format is recognized in its bytes")


def known_container(source: Source) -> bool:
    """Whether the first bytes are those of a common video container: then a file that does not open is a damaged one."""
    try:
        with source.open() as file:
            head = file.read(1024)
    except OSError:
        return False
    transport = len(head) > 376 and head[0] == head[188] == head[376] == 0x47
    return head[4:8] in _ISO_BOXES or head.startswith(_MAGIC) or transport


def _picture_stream(container: Any, path: str) -> Any:
    """The first video stream that is not a cover picture. Raises NoVideoStreamError or UnsupportedCodecError."""
    streams = picture_streams(container)
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise NoVideoStreamError(f"{path}: the container ({container.format.name}) holds {kinds}, no video stream")
    stream = streams[0]
    if stream.codec_context is None:
        raise UnsupportedCodecError(f"{path}: no decoder for its codec")
    stream.codec_context.thread_count = 1
    return stream


def picture_streams(container: Any) -> list[Any]:
    """Video streams that are not cover pictures or thumbnails."""
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & still]
