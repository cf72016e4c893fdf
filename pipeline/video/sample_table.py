"""When each frame of an ISO media file (MP4, MOV) is shown, out of the tables in its header: no packet is read.

A pass over the packets of an hour takes half a second, the tables a few milliseconds. They are believed only where they say all there is to
say, in the plain way of nearly all files, and where FFmpeg's own index agrees. Fragments, edits that hide frames, groups of samples and
whatever does not add up are left to the packets.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from reelscribe.pipeline.video.completeness import boxes
from reelscribe.pipeline.video.timeline import Int64Array, Timeline
from reelscribe.pipeline.video.types import Source

_CHECKED = 500  # keyframes looked up in FFmpeg's index
_ONE = 0x10000  # the number 1 in 16.16 fixed point
_MORE_KEYFRAMES = {b"rap ", b"sync"}  # groups of samples that decode alone, too
Boxes = dict[bytes, bytes]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Samples:
    """The samples of a track in the order of decoding, before any edit."""

    decoded: Int64Array  # (N,) times, in units of the track's clock
    shown: Int64Array  # (N,) times
    durations: Int64Array  # (N,)
    positions: Int64Array  # (N,) byte offsets in the file
    sizes: Int64Array  # (N,) bytes
    keys: Int64Array  # (K,) which of them decode alone, increasing


def timeline_of_tables(source: Source, stream: Any, first_packet: Any) -> Timeline | None:
    """The timeline that a pass over all packets of this stream would find; None where only that pass can tell."""
    try:
        samples = _samples(source, stream)
    except (KeyError, IndexError, ValueError):  # a box is absent, too short, or at odds with another
        return None
    if samples is None or not _agree(samples, stream, first_packet):
        return None
    shown = samples.shown + (first_packet.pts - int(samples.shown[0]))
    pts = np.sort(shown, kind="stable")  # quick where order is nearly there
    if (np.diff(pts) <= 0).any():
        return None
    return Timeline(
        pts=pts,
        end=int((shown + samples.durations).max()),
        time_base=stream.time_base,
        keyframes=np.sort(np.searchsorted(pts, shown[samples.keys])).astype(np.int64),
        recognizable=True,
    )


def _samples(source: Source, stream: Any) -> _Samples | None:
    """Raises KeyError or ValueError where a table is absent or cannot be."""
    movie = _movie(source)
    if movie is None or any(kind == b"mvex" for kind, _ in _children(movie)):  # it goes on in fragments
        return None
    (track,) = [box for box in map(_first_of_each, _tracks(movie)) if _fourth_number(box[b"tkhd"]) == stream.id]
    media = _first_of_each(track[b"mdia"])
    tables = _first_of_each(media[b"minf"])[b"stbl"]
    if any(kind == b"stps" or (kind == b"sbgp" and box[4:8] in _MORE_KEYFRAMES) for kind, box in _children(tables)):
        return None
    samples = _of_tables(_first_of_each(tables), len(stream.index_entries))
    if samples is None or int((samples.positions + samples.sizes).max()) > source.size:
        return None
    clock, movie_clock = _fourth_number(media[b"mdhd"]), _fourth_number(_first_of_each(movie)[b"mvhd"])
    if not movie_clock or stream.time_base * clock != 1:
        return None
    edits = _first_of_each(track[b"edts"])[b"elst"] if b"edts" in track else None
    return samples if edits is None or _shows_all(edits, samples.shown, Fraction(clock, movie_clock)) else None


def _agree(samples: _Samples, stream: Any, first_packet: Any) -> bool:
    """Whether FFmpeg begins with the first sample, and has the keyframes at the same places and distances in its index."""
    index, keys = stream.index_entries, samples.keys
    shift = index[0].timestamp - int(samples.decoded[0])
    if first_packet.pts is None or first_packet.pos != index[0].pos or first_packet.size != index[0].size:
        return False
    for number in [0, *keys[:: len(keys) // _CHECKED + 1].tolist(), len(samples.sizes) - 1]:
        entry = index[number]
        said = (int(samples.positions[number]), int(samples.sizes[number]), int(samples.decoded[number]) + shift)
        if (entry.pos, entry.size, entry.timestamp) != said or entry.is_discard:
            return False
    return all(index[number].is_keyframe for number in keys[:: len(keys) // _CHECKED + 1].tolist())


# ---------------------------------------------------------------------------------------------------------------- boxes and tables


def _movie(source: Source) -> bytes | None:
    """The content of the box 'moov'."""
    with source.open() as file:
        for kind, start, end in boxes(file, source.size):
            if kind == b"moov" and end <= source.size:
                file.seek(start)
                return file.read(end - start)
    return None


def _children(box: bytes) -> Iterator[tuple[bytes, bytes]]:
    for kind, start, end in boxes(io.BytesIO(box), len(box)):
        yield kind, box[start:end]


def _first_of_each(box: bytes) -> Boxes:
    return {kind: content for kind, content in reversed(list(_children(box)))}


def _tracks(movie: bytes) -> Iterator[bytes]:
    return (content for kind, content in _children(movie) if kind == b"trak")


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
    if int(times.sum()) != count:
        raise ValueError("runs of another number of samples")
    return np.repeat(values, times)


def _of_tables(table: Boxes, count: int) -> _Samples | None:
    """ISO/IEC 14496-12, 8.6.1 (times), 8.6.2 (sync samples), 8.7 (sizes and places). Raises KeyError or ValueError."""
    sizes = _rows(table[b"stsz"][4:], 1)[:, 0]
    times = _rows(table[b"stts"], 2)
    durations = _repeat(times[:, 1], times[:, 0], count)
    if b"encv" in table[b"stsd"] or len(sizes) != count or not count or (sizes == 0).any() or not (0 < durations).all() or (durations >= 1 << 31).any():
        return None
    decoded = np.cumsum(durations) - durations
    shifts = _rows(table[b"ctts"], 2) if b"ctts" in table else np.array([[count, 0]])
    keys = _rows(table[b"stss"], 1)[:, 0] - 1 if b"stss" in table else np.arange(count)
    if not len(keys) or keys[0] < 0 or keys[-1] >= count or (np.diff(keys) <= 0).any():
        return None
    return _Samples(
        decoded=decoded,
        shown=decoded + _repeat(shifts[:, 1].astype(np.uint32).astype(np.int32).astype(np.int64), shifts[:, 0], count),
        durations=durations,
        positions=_positions(table, sizes),
        sizes=sizes,
        keys=keys,
    )


def _positions(table: Boxes, sizes: Int64Array) -> Int64Array:
    """Where each sample begins: samples follow each other in chunks. Raises ValueError where chunks and samples do not match."""
    chunks = (_rows(table[b"stco"], 1) if b"stco" in table else _rows(table[b"co64"], 1, ">u8"))[:, 0]
    runs = _rows(table[b"stsc"], 3)  # first chunk from 1, samples per chunk, description
    per_chunk = _repeat(runs[:, 1], np.diff(runs[:, 0], append=len(chunks) + 1), len(chunks))
    chunk_of = _repeat(np.arange(len(chunks)), per_chunk, len(sizes))
    before = np.cumsum(sizes) - sizes  # bytes in all samples before this one
    first = np.cumsum(per_chunk) - per_chunk  # the first sample of each chunk
    return np.asarray(chunks[chunk_of] + before - before[np.minimum(first, len(sizes) - 1)][chunk_of], dtype=np.int64)


def _shows_all(edits: bytes, shown: Int64Array, clocks: Fraction) -> bool:
    """Whether an edit list (8.6.6) plays the track once, from its first frame to its last, perhaps after a pause."""
    long = edits[0] == 1
    row = np.dtype([("length", ">i8" if long else ">u4"), ("start", ">i8" if long else ">i4"), ("rate", ">u4")])
    rows = np.frombuffer(edits, row, count=int.from_bytes(edits[4:8], "big"), offset=8)
    played = [(int(r["length"]), int(r["start"]), int(r["rate"])) for r in rows if r["start"] != -1]
    if len(played) != 1 or int(rows[-1]["start"]) == -1:
        return False
    ((length, start, rate),) = played
    return rate == _ONE and start <= int(shown.min()) and start + int(length * clocks) > int(shown.max())
