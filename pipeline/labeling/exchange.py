"""The stages' objects as Arrow tables, for engines that send them between processes. Both ways lose nothing.

Pixels are plain bytes in a binary column, so that whoever plans memory can see their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa

from reelscribe.pipeline.labeling.schema import LABELS_TYPE, SCORES_TYPE, SEGMENTS_TYPE, TOP_K_TYPE, answer_columns
from reelscribe.pipeline.labeling.stages import Decoded, Failed, Labelled, Outcome, Video
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.types import Frames, VideoInfo

_ARROW_OF = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
_ARROW_OF |= {f"{name} | None": kind for name, kind in _ARROW_OF.items()}
_INTS, _FLOATS = pa.list_(pa.int64()), pa.list_(pa.float64())


def _struct(kind: type[Any], **special: pa.DataType) -> pa.StructType:
    """The struct of a dataclass; ``special`` gives the types of fields that are not plain."""
    return pa.struct([pa.field(f.name, special.get(f.name) or _ARROW_OF[str(f.type)]) for f in fields(kind)])


VIDEO = _struct(Video)
FAILED = _struct(Failed)
LABELLED = _struct(
    Labelled,
    labels=LABELS_TYPE,
    segments=SEGMENTS_TYPE,
    top_k=TOP_K_TYPE,
    scores=SCORES_TYPE,
    frame_index=_INTS,
    frame_time_s=_FLOATS,
)
VIEW = pa.struct(
    [
        ("pixels", pa.large_binary()),
        ("shape", pa.list_(pa.int64(), 4)),
        ("index", _INTS),
        ("pts_seconds", _FLOATS),
        ("backend", pa.string()),
    ]
)
CLIP = pa.struct([("views", pa.list_(VIEW)), ("info", _struct(VideoInfo)), ("digest", pa.string())])

VIDEO_SCHEMA = pa.schema([("video", VIDEO)])
DECODED_SCHEMA = pa.schema([("video", VIDEO), ("clip", CLIP), ("failed", FAILED)])
OUTCOME_SCHEMA = pa.schema([("video", VIDEO), ("labelled", LABELLED), ("failed", FAILED), ("unix_time_s", pa.float64())])


def videos_to_table(videos: Iterable[Video]) -> pa.Table:
    """VIDEO_SCHEMA, one row each."""
    return pa.Table.from_pylist([{"video": asdict(video)} for video in videos], schema=VIDEO_SCHEMA)


def videos_from_table(table: pa.Table) -> list[Video]:
    """The other way."""
    return [Video(**row["video"]) for row in table.to_pylist()]


def decoded_to_table(decoded: Iterable[Decoded]) -> pa.Table:
    """DECODED_SCHEMA, one row each: either ``clip`` or ``failed`` is null."""
    rows = [
        {
            "video": asdict(one.video),
            "clip": None if isinstance(one.clip, Failed) else _clip_to_row(one.clip),
            "failed": asdict(one.clip) if isinstance(one.clip, Failed) else None,
        }
        for one in decoded
    ]
    return pa.Table.from_pylist(rows, schema=DECODED_SCHEMA)


def decoded_from_table(table: pa.Table) -> list[Decoded]:
    """The other way; pixels are copied, so that they can be written to."""
    return [
        Decoded(video=Video(**row["video"]), clip=Failed(**row["failed"]) if row["clip"] is None else _clip_from_row(row["clip"]))
        for row in table.to_pylist()
    ]


def outcomes_to_table(outcomes: Iterable[Outcome]) -> pa.Table:
    """OUTCOME_SCHEMA, one row each: either ``labelled`` or ``failed`` is null."""
    rows = [
        {
            "video": asdict(one.video),
            "labelled": answer_columns(one.result) if isinstance(one.result, Labelled) else None,
            "failed": asdict(one.result) if isinstance(one.result, Failed) else None,
            "unix_time_s": one.unix_time_s,
        }
        for one in outcomes
    ]
    return pa.Table.from_pylist(rows, schema=OUTCOME_SCHEMA)


def outcomes_from_table(table: pa.Table) -> list[Outcome]:
    """The other way."""
    return [
        Outcome(
            video=Video(**row["video"]),
            result=Failed(**row["failed"]) if row["labelled"] is None else _labelled_from_row(row["labelled"]),
            unix_time_s=row["unix_time_s"],
        )
        for row in table.to_pylist()
    ]


def _clip_to_row(clip: Clip) -> dict[str, Any]:
    views = [
        {
            "pixels": np.ascontiguousarray(view.pixels).data.cast("B"),
            "shape": view.pixels.shape,
            "index": view.index,
            "pts_seconds": view.pts_seconds,
            "backend": view.backend,
        }
        for view in clip.views
    ]
    return {"views": views, "info": asdict(clip.info), "digest": clip.digest}


def _clip_from_row(row: Mapping[str, Any]) -> Clip:
    views = tuple(
        Frames(
            pixels=np.frombuffer(bytearray(view["pixels"]), dtype=np.uint8).reshape(view["shape"]),
            index=tuple(view["index"]),
            pts_seconds=tuple(view["pts_seconds"]),
            backend=view["backend"],
        )
        for view in row["views"]
    )
    return Clip(views=views, info=VideoInfo(**row["info"]), digest=row["digest"])


def _labelled_from_row(row: Mapping[str, Any]) -> Labelled:
    """Lists of Arrow as tuples, and those of structs as tuples of tuples."""
    columns: dict[str, Any] = {name: _as_tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Labelled(**columns)


def _as_tuple(values: list[Any]) -> tuple[Any, ...]:
    return tuple(tuple(value.values()) if isinstance(value, dict) else value for value in values)
