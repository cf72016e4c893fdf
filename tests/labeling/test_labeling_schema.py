"""The two tables: types, words, order."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reelscribe.pipeline.errors import DecodeTimeoutError
from reelscribe.pipeline.labeling.schema import FAILURES, LABELS, SCHEMA_VERSION, Trace, explain, failures_table, labels_table
from reelscribe.pipeline.labeling.stages import Failed, Labelled, Outcome, Video

TRACE = Trace(model_name="m", model_version=None, model_alias="champion", run_id=None, weights_digest="ab", config_digest=None, job_id="j")
NOON = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)


def video(position: int) -> Video:
    return Video(position=position, video_id=f"v{position}", uri=f"/d/v {position}.mp4", start_s=None, end_s=2.5)


LABELLED = Outcome(
    video=video(0),
    result=Labelled(
        label="up",
        confidence=0.75,
        top_k=(("up", 0.75), ("down", 0.25)),
        frame_index=(3, 9),
        frame_time_s=(0.1, 0.3),
        reader="pyav",
        content_digest="cd",
        duration_s=4.0,
        accepted=False,
    ),
    unix_time_s=NOON.timestamp(),
)
FAILED = Outcome(video=video(1), result=Failed.of(DecodeTimeoutError("slow")), unix_time_s=NOON.timestamp())


def test_a_label_becomes_one_row_with_all_it_rests_on() -> None:
    table = labels_table([LABELLED, FAILED], TRACE)
    assert table.schema.equals(LABELS, check_metadata=True)
    assert table.to_pylist() == [
        {
            "video_id": "v0",
            "uri": "/d/v 0.mp4",
            "start_s": None,
            "end_s": 2.5,
            "window": None,
            "label": "up",
            "confidence": 0.75,
            "accepted": False,
            "labels": None,
            "value": None,
            "segments": None,
            "top_k": [{"label": "up", "confidence": 0.75}, {"label": "down", "confidence": 0.25}],
            "scores": None,
            "frame_index": [3, 9],
            "frame_time_s": [0.1, 0.3],
            "reader": "pyav",
            "content_digest": "cd",
            "duration_s": 4.0,
            "model_name": "m",
            "model_version": None,
            "model_alias": "champion",
            "run_id": None,
            "weights_digest": "ab",
            "config_digest": None,
            "job_id": "j",
            "labelled_at": NOON,
        }
    ]


def test_a_failure_becomes_one_row_that_says_what_to_do() -> None:
    [row] = failures_table([LABELLED, FAILED], TRACE).to_pylist()
    assert row == {
        "video_id": "v1",
        "uri": "/d/v 1.mp4",
        "start_s": None,
        "end_s": 2.5,
        "window": None,
        "failure": "timeout",
        "cause": "slow",
        "advice": DecodeTimeoutError.advice,
        "retryable": True,
        "job_id": "j",
        "failed_at": NOON,
    }


@pytest.mark.parametrize("schema", [LABELS, FAILURES])
def test_a_parquet_file_carries_version_and_meaning_of_each_field(schema: pa.Schema, tmp_path: Path) -> None:
    pq.write_table(schema.empty_table(), tmp_path / "x.parquet")
    read = pq.read_schema(tmp_path / "x.parquet")
    assert read.metadata[b"reelscribe.schema_version"] == str(SCHEMA_VERSION).encode()
    assert [line.split(":")[0] for line in explain(read).splitlines()] == schema.names
    assert all(len((read.field(name).metadata or {})[b"meaning"]) > 10 for name in read.names)


def test_a_label_whose_frames_and_times_do_not_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="2 frame indices and 1 times"):
        Labelled(label="a", confidence=1, top_k=(), frame_index=(1, 2), frame_time_s=(0.1,), reader="", content_digest="", duration_s=1)
