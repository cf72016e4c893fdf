"""The two tables a labelling job leaves: typed, versioned, each field explained in the Parquet file itself.

Every row of a job's input, or every window of it, ends as exactly one row in one of them. ``explain(LABELS)`` gives the fields as text; in
a Parquet file the same words stand in each field's metadata under ``meaning``, and the version in the schema's under
``reelscribe.schema_version``.

Adding a nullable column keeps the version; renaming, retyping or dropping one, or changing what a column means, raises it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from reelscribe.pipeline.labeling.stages import Failed, Labelled, Outcome

SCHEMA_VERSION = 2  # 2: tasks beside a single label, windows

_LABEL, _CONFIDENCE = pa.field("label", pa.string(), nullable=False), pa.field("confidence", pa.float64(), nullable=False)
TOP_K_TYPE = pa.list_(pa.struct([_LABEL, _CONFIDENCE]))
LABELS_TYPE = pa.list_(pa.string())
SEGMENTS_TYPE = pa.list_(
    pa.struct([pa.field("start_s", pa.float64(), nullable=False), pa.field("end_s", pa.float64(), nullable=False), _LABEL, _CONFIDENCE])
)
SCORES_TYPE = pa.list_(pa.float32())
TIME_TYPE = pa.timestamp("us", tz="UTC")


def _field(name: str, kind: pa.DataType, meaning: str, *, nullable: bool = False) -> pa.Field[Any]:
    return pa.field(name, kind, nullable=nullable, metadata={"meaning": meaning})


def _schema(table: str, columns: list[pa.Field[Any]]) -> pa.Schema:
    return pa.schema(columns, metadata={"reelscribe.table": table, "reelscribe.schema_version": str(SCHEMA_VERSION)})


_ROW = [
    _field("video_id", pa.string(), "name of the row in the input; unique in the job"),
    _field("uri", pa.string(), "the file: an absolute path or a URI"),
    _field("start_s", pa.float64(), "start of the clip asked for, seconds from the first frame; null is the first frame", nullable=True),
    _field("end_s", pa.float64(), "end of the clip asked for, seconds from the first frame; null is the end of the video", nullable=True),
]
_INPUT = [
    *_ROW,
    _field("window", pa.int64(), "place among the windows of the row of the input, from 0; null for a whole row", nullable=True),
]

LABELS = _schema(
    "labels",
    [
        *_INPUT,
        _field(
            "label", pa.string(), "the most probable label, or the caption; null for a model that gives neither, or several", nullable=True
        ),
        _field("confidence", pa.float64(), "probability that the label is right, as the model was calibrated, 0 to 1", nullable=True),
        _field("accepted", pa.bool_(), "whether the confidence reaches the model's threshold; null for a model without one", nullable=True),
        _field(
            "labels", LABELS_TYPE, "task multi_label: labels with a probability of one half or more, most probable first", nullable=True
        ),
        _field("value", pa.float64(), "task value: the number", nullable=True),
        _field("segments", SEGMENTS_TYPE, "task dense: runs of frames with one label, seconds from the first frame", nullable=True),
        _field("top_k", TOP_K_TYPE, "the most probable labels, or the best captions, with their probabilities, best first", nullable=True),
        _field("scores", SCORES_TYPE, "with --scores: the probability of each of the labels that job.json lists", nullable=True),
        _field("frame_index", pa.list_(pa.int64()), "frames that the model saw, as positions in presentation order from 0; views in a row"),
        _field("frame_time_s", pa.list_(pa.float64()), "presentation time of each of these frames, seconds"),
        _field("reader", pa.string(), "decoding library that gave the frames"),
        _field(
            "content_digest",
            pa.string(),
            "SHA-256 of the bytes that were read, hex; remote:... of what a store says of them; damaged:... where only parts decode",
        ),
        _field("duration_s", pa.float64(), "length of the whole video, seconds"),
        _field("model_name", pa.string(), "registered name of the model; for a folder, the name in its model.json"),
        _field("model_version", pa.string(), "registered version; null for a folder or a run", nullable=True),
        _field("model_alias", pa.string(), "alias the model was asked for by, at that time; null without one", nullable=True),
        _field("run_id", pa.string(), "training run of the model; null where it is not known", nullable=True),
        _field("weights_digest", pa.string(), "SHA-256 of the model's weights file, hex"),
        _field(
            "config_digest", pa.string(), "SHA-256 of the config that the model was trained with, hex; null where unknown", nullable=True
        ),
        _field("job_id", pa.string(), "the job, as in job.json"),
        _field("labelled_at", TIME_TYPE, "when the row was made"),
    ],
)

FAILURES = _schema(
    "failures",
    [
        *_INPUT,
        _field("failure", pa.string(), "class of the failure: not_found, truncated, no_video_stream, timeout, ..."),
        _field("cause", pa.string(), "what was found, in words"),
        _field("advice", pa.string(), "what a person can do about it"),
        _field("retryable", pa.bool_(), "whether the same file may work a moment later"),
        _field("job_id", pa.string(), "the job, as in job.json"),
        _field("failed_at", TIME_TYPE, "when the row was made"),
    ],
)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Where the labels of a job come from: the columns that are the same in each of its rows."""

    model_name: str
    model_version: str | None
    model_alias: str | None
    run_id: str | None
    weights_digest: str
    config_digest: str | None
    job_id: str


def labels_table(outcomes: Iterable[Outcome], trace: Trace) -> pa.Table:
    """The labelled ones among ``outcomes``, in their order, as LABELS."""
    return pa.Table.from_pylist([_label_row(o, o.result, trace) for o in outcomes if isinstance(o.result, Labelled)], schema=LABELS)


def failures_table(outcomes: Iterable[Outcome], trace: Trace) -> pa.Table:
    """The failed ones among ``outcomes``, in their order, as FAILURES."""
    return pa.Table.from_pylist([_failure_row(o, o.result, trace) for o in outcomes if isinstance(o.result, Failed)], schema=FAILURES)


def answer_columns(result: Labelled) -> dict[str, Any]:
    """The fields of Labelled as a row of LABELS, and of what engines send, takes them."""
    columns = {field.name: getattr(result, field.name) for field in fields(result)}
    if result.top_k is not None:
        columns["top_k"] = [dict(zip(("label", "confidence"), pair, strict=True)) for pair in result.top_k]
    if result.segments is not None:
        columns["segments"] = [dict(zip(("start_s", "end_s", "label", "confidence"), part, strict=True)) for part in result.segments]
    return columns


def explain(schema: pa.Schema) -> str:
    """One line per field: name, type, meaning."""
    return "\n".join(
        f"{field.name}: {field.type}{'?' if field.nullable else ''}  {(field.metadata or {})[b'meaning'].decode()}" for field in schema
    )


def _input_columns(outcome: Outcome) -> dict[str, Any]:
    video = outcome.video
    return {"video_id": video.video_id, "uri": video.uri, "start_s": video.start_s, "end_s": video.end_s, "window": video.window}


def _label_row(outcome: Outcome, result: Labelled, trace: Trace) -> dict[str, Any]:
    return {
        **_input_columns(outcome),
        **answer_columns(result),
        **asdict(trace),
        "labelled_at": _as_time(outcome.unix_time_s),
    }


def _failure_row(outcome: Outcome, result: Failed, trace: Trace) -> dict[str, Any]:
    return {
        **_input_columns(outcome),
        "failure": result.failure,
        "cause": result.cause,
        "advice": result.advice,
        "retryable": result.retryable,
        "job_id": trace.job_id,
        "failed_at": _as_time(outcome.unix_time_s),
    }


def _as_time(unix_time_s: float) -> datetime:
    return datetime.fromtimestamp(unix_time_s, UTC)
