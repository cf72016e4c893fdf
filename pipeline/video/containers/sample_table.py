"""When each frame of an ISO media file (MP4, MOV) is shown, out of the tables in its header: no packet is read.

A pass over the packets of an hour takes half a second, the tables a few milliseconds. They are believed only where they say all there is
to say, in the plain way of nearly all files, and where FFmpeg's own index agrees. Fragments, edits that hide frames, further keyframes in
groups of samples, and whatever does not add up are left to the packets.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from reelscribe.pipeline.video.containers.completeness import boxes
from reelscribe.pipeline.video.containers.timeline import Int64Array, Timeline
from reelscribe.pipeline.video.types import Source

_CHECKED = 500  # keyframes looked up in FFmpeg's index
_NORMAL_SPEED = 0x10000  # 1 in 16.16 fixed point
_MORE_KEYFRAMES = {b"rap ", b"sync"}  # groups of samples that decode alone
Boxes = dict[bytes, bytes]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Samples:
    """The samples of a track in the order of decoding, before any edit."""

    decoded: Int64Array  # (N,) times, in units of the track's clock
    shown: Int64Array  # (N,) times
    durations: Int64Array  # (N,)
    offsets: Int64Array  # (N,) bytes from the beginning of the file
    sizes: Int64Array  # (N,) bytes
    keys: Int64Array  # (K,) which of them decode alone, increasing


def timeline_of_tables(source: Source, stream: Any, first_packet: Any) -> Timeline | None:
    """The timeline that a pass over all packets of this stream would find; None where only that pass can tell."""
    try:
        samples = _samples(source, stream)
        _compare(samples, stream.index_entries, first_packet)
        shown = samples.shown + (first_packet.pts - int(samples.shown[0]))
        pts = np.sort(shown, kind="stable")  # quick where order is nearly there
        return Timeline(
            pts=pts,
            end=int((shown + samples.durations).max()),
            time_base=stream.time_base,
            keyframes=np.sort(np.searchsorted(pts, shown[samples.keys])).astype(np.int64),
            recognizable=True,
        )
    except (KeyError, IndexError, ValueError):  # a box is absent or too short, or something is not as it must be
        return None


def _require(condition: object) -> None:
    """Raises ValueError."""
    if not condition:
        raise ValueError("the tables do not tell all")


def _samples(source: Source, stream: Any) -> _Samples:
    """Raises KeyError, IndexError or ValueError where the tables do not tell all."""
    movie = _movie(source)
    _require(all(kind != b"mvex" for kind, _ in _children(movie)))  # it would go on in fragments
    tracks = [_first_of_each(content) for kind, content in _children(movie) if kind == b"trak"]
    (track,) = [track for track in tracks if _fourth_number(track[b"tkhd"]) == stream.id]
    media = _first_of_each(track[b"mdia"])
    clock, movie_clock = _fourth_number(media[b"mdhd"]), _fourth_number(_first_of_each(movie)[b"mvhd"])
    _require(movie_clock and stream.time_base * clock == 1)
    table = _first_of_each(media[b"minf"])[b"stbl"]
    _require(not any(kind == b"stps" or (kind == b"sbgp" and box[4:8] in _MORE_KEYFRAMES) for kind, box in _children(table)))
    samples = _of_table(_first_of_each(table), len(stream.index_entries), intra_only=stream.codec_context.codec.intra_only)
    _require((samples.offsets + samples.sizes <= source.size).all())
    if b"edts" in track:
        _require(_shows_all(_first_of_each(track[b"edts"])[b"elst"], samples.shown, Fraction(clock, movie_clock)))
    return samples


def _compare(samples: _Samples, index: Any, first_packet: Any) -> None:
    """Raises ValueError unless FFmpeg begins with the first sample, and has keyframes where they are in the tables."""
    first = index[0]
    _require(first_packet.pts is not None and (first_packet.pos, first_packet.size) == (first.pos, first.size))
    keys = samples.keys[:: len(samples.keys) // _CHECKED + 1].tolist()
    for number in [0, *keys, len(samples.sizes) - 1]:
        entry, distance = index[number], int(samples.decoded[number] - samples.decoded[0])
        _require(entry.timestamp - first.timestamp == distance and not entry.is_discard)
        _require((entry.pos, entry.size) == (int(samples.offsets[number]), int(samples.sizes[number])))
    _require(all(index[number].is_keyframe for number in keys))


# ---------------------------------------------------------------------------------------------------------------- boxes and tables


def _movie(source: Source) -> bytes:
    """The content of the box 'moov'. Raises ValueError where there is none, or not all of it."""
    with source.open() as file:
        for kind, start, end in boxes(file, source.size):
            if kind == b"moov" and end <= source.size:
                file.seek(start)
                return file.read(end - start)
    raise ValueError("no movie")


def _children(box: bytes) -> Iterator[tuple[bytes, bytes]]:
    for kind, start, end in boxes(io.BytesIO(box), len(box)):
        yield kind, box[start:end]


def _first_of_each(box: bytes) -> Boxes:
    return dict(reversed(list(_children(box))))


def _fourth_number(header: bytes) -> int:
    """The number of a track ('tkhd') or the units per second of a clock ('mdhd', 'mvhd'): it stands behind two dates, long in version 1."""
    start = 20 if header[0] else 12
    return int.from_bytes(header[start : start + 4], "big")


def _rows(box: bytes, columns: int, kind: str = ">u4") -> Int64Array:
    """(rows, columns) of a box with a version, a number of rows and the rows. Raises ValueError where it is too short."""
    count = int.from_bytes(box[4:8], "big") * columns
    return np.frombuffer(box, kind, count=count, offset=8).reshape(-1, columns).astype(np.int64)


def _repeat(values: Int64Array, times: Int64Array, count: int) -> Int64Array:
    """Each value so many times. Raises ValueError where these are not ``count`` in all."""
    _require(int(times.sum()) == count)
    return np.repeat(values, times)


def _of_table(table: Boxes, count: int, *, intra_only: bool) -> _Samples:
    """ISO/IEC 14496-12, 8.6.1 (times), 8.6.2 (sync samples), 8.7 (sizes and places). Raises KeyError or ValueError.

    Where the sync samples are not listed all samples are, says the standard; few files without the list mean that.
    """
    _require(b"encv" not in table[b"stsd"])  # the packets tell more of what is encrypted
    sizes = _rows(table[b"stsz"][4:], 1)[:, 0]
    _require(0 < count == len(sizes) and (sizes > 0).all())
    steps = _rows(table[b"stts"], 2)
    durations = _repeat(steps[:, 1], steps[:, 0], count)
    _require(((durations > 0) & (durations < 1 << 31)).all())
    decoded = np.cumsum(durations) - durations
    shifts = _rows(table[b"ctts"], 2) if b"ctts" in table else np.array([[count, 0]])
    shift = shifts[:, 1].astype(np.uint32).astype(np.int32).astype(np.int64)  # of either sign
    keys = np.arange(count) if intra_only and b"stss" not in table else _rows(table[b"stss"], 1)[:, 0] - 1
    _require(len(keys) and keys[0] >= 0 and keys[-1] < count and (np.diff(keys) > 0).all())
    return _Samples(
        decoded=decoded,
        shown=decoded + _repeat(shift, shifts[:, 0], count),
        durations=durations,
        offsets=_offsets(table, sizes),
        sizes=sizes,
        keys=keys,
    )


def _offsets(table: Boxes, sizes: Int64Array) -> Int64Array:
    """Where each sample begins: samples follow each other in chunks. Raises KeyError or ValueError."""
    chunks = (_rows(table[b"stco"], 1) if b"stco" in table else _rows(table[b"co64"], 1, ">u8"))[:, 0]
    runs = _rows(table[b"stsc"], 3)  # first chunk from 1, samples per chunk, description
    lengths = _repeat(runs[:, 1], np.diff(runs[:, 0], append=len(chunks) + 1), len(chunks))
    _require((lengths > 0).all() and (chunks >= 0).all())
    before = np.cumsum(sizes) - sizes  # bytes in all samples before this one
    begins = chunks - before[np.cumsum(lengths) - lengths]  # where the first sample would begin if there were this chunk alone
    return before + _repeat(begins, lengths, len(sizes))


def _shows_all(edits: bytes, shown: Int64Array, clocks: Fraction) -> bool:
    """Whether an edit list (8.6.6) plays the track once, from its first frame to its last, perhaps after a pause."""
    long = edits[0] == 1
    row = np.dtype([("length", ">u8" if long else ">u4"), ("start", ">i8" if long else ">i4"), ("speed", ">u4")])
    rows = np.frombuffer(edits, row, count=int.from_bytes(edits[4:8], "big"), offset=8)
    *pauses, (length, start, speed) = rows.tolist()
    once = speed == _NORMAL_SPEED and all(pause[1] == -1 for pause in pauses)
    return once and 0 <= start <= int(shown.min()) and start + int(length * clocks) > int(shown.max())
