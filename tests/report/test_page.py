"""The report of a labelling job, made of tables that this test writes, on real videos."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import OutputConflictError
from reelscribe.pipeline.report.page import Bar, confidence_bars, label_bars, write_job_report
from reelscribe.pipeline.report.rows import read_results
from reelscribe.pipeline.report.thumbnails import spread
from reelscribe.pipeline.video.writer import write_video

EVIL = "<script>alert('x')</script>\" onload=\"x & <b>"
COLORS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30))


class _Page(HTMLParser):
    """Tags with their attributes, and the text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the parser's signature
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def label_row(video: Path, *, video_id: str, label: str, confidence: float) -> dict[str, Any]:
    return {
        "video_id": video_id,
        "uri": str(video),
        "start_s": None,
        "end_s": None,
        "label": label,
        "confidence": confidence,
        "top_k": [{"label": label, "confidence": confidence}, {"label": "other", "confidence": 1 - confidence}],
        "reader": "pyav",
        "content_digest": hashlib.sha256(video.read_bytes()).hexdigest() if video.is_file() else "",
        "duration_s": 4.0,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of four colours, wide, and a job's folder as the design describes it."""
    out = tmp_path_factory.mktemp("report")
    video = out.parent / "four 'colours'.mp4"
    frames = [np.full((64, 128, 3), COLORS[i // 10], dtype=np.uint8) for i in range(40)]
    write_video(video, frames, frame_rate=10)
    changed = out.parent / "changed.mp4"
    write_video(changed, frames, frame_rate=10)
    labels = [
        label_row(video, video_id="sure", label="up", confidence=0.99),
        label_row(video, video_id=EVIL, label=EVIL, confidence=0.31),
        label_row(out.parent / "gone.mp4", video_id="gone", label="up", confidence=0.62),
        label_row(changed, video_id="changed", label="up", confidence=0.7) | {"content_digest": "00"},
    ]
    failures = [
        {"video_id": f"bad{i}", "uri": "/d/x", "failure": "truncated", "cause": "/d/x: cut", "advice": "fetch it again", "retryable": False}
        for i in range(150)
    ] + [{"video_id": EVIL, "uri": EVIL, "failure": "timeout", "cause": EVIL, "advice": "raise it", "retryable": True}]
    for name, rows in (("labels", labels), ("failures", failures)):
        (out / name).mkdir()
        half = len(rows) // 2
        schema = pa.Table.from_pylist(rows).schema
        if name == "labels":
            schema = schema.set(2, pa.field("start_s", pa.float64())).set(3, pa.field("end_s", pa.float64()))
            segment = pa.struct({"start_s": pa.float64(), "end_s": pa.float64(), "label": pa.string(), "confidence": pa.float64()})
            for task, kind in {"labels": pa.list_(pa.string()), "value": pa.float64(), "segments": pa.list_(segment)}.items():
                schema = schema.append(pa.field(task, kind))
        pq.write_table(pa.Table.from_pylist(rows[:half], schema=schema), out / name / "part-00000.parquet")
        pq.write_table(pa.Table.from_pylist(rows[half:], schema=schema), out / name / "part-00001.parquet")
    (out / "job.json").write_text(json.dumps(job()), encoding="utf-8")
    return out


def job() -> dict[str, Any]:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC).isoformat()
    return {
        "job_id": "20261122T120000-ab",
        "state": "done",
        "fingerprint": {"sampling": {"kind": "uniform", "num_frames": 4}, "transform": {"height": 8, "width": 8, "fit": "stretch"}},
        "model": {
            "model_name": EVIL,
            "model_version": "7",
            "model_alias": "champion",
            "run_id": "r1",
            "weights_digest": "ab" * 32,
            "config_digest": "",
            "data_digest": "dd",
            "git_commit": "",
        },
        "counts": {"total": 155},
        "sessions": [
            {
                "started": now,
                "ended": now,
                "engine": "local",
                "videos": 155,
                "seconds": 75.0,
                "bound_by": "decoding",
                "videos_per_s": 2.07,
                "machine": {"cores": 2},
            }
        ],
    }


@pytest.fixture(scope="module")
def page(folder: Path) -> _Page:
    path = write_job_report(folder, decode=DecodeConfig(workers=1))
    assert path == str(folder / "report.html")
    return _Page(Path(path).read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else_and_says_so(page: _Page) -> None:
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
    for _, attributes in page.tags:
        assert "style" not in attributes  # the policy forbids it
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in page.style
    assert "@import" not in page.style
    [policy] = [meta["content"] or "" for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in policy


def test_what_others_wrote_is_shown_to_the_letter_and_never_run(page: _Page) -> None:
    assert page.text.count(EVIL) >= 5  # model, bar, card, failure
    assert not page.all("b")


def test_the_figures_are_those_of_the_tables(folder: Path, page: _Page) -> None:
    results = read_results(folder, max_videos=2)
    assert (results.labelled, results.failed, results.video_s) == (4, 151, 16.0)
    assert results.by_label == (("up", 3), (EVIL, 1))
    assert [video.confidence for video in results.shown] == [0.31, 0.62]
    assert [i for i, count in enumerate(results.confidence_bins) if count] == [6, 12, 14, 19]
    assert results.mean_confidence == pytest.approx((0.99 + 0.31 + 0.62 + 0.7) / 4)
    assert [(group.failure, group.count, len(group.rows)) for group in results.failures] == [("truncated", 150, 100), ("timeout", 1, 1)]
    assert results.failures[0].rows[0] == ("bad0", "cut")
    words = re.sub(r"\s+", " ", page.text)
    for expected in (
        "videos155",
        "labelled4",
        "failed151",
        "truncated 150 fetch it again",
        "The first 100 of 150",
        "(may work another time)",
    ):
        assert expected in words.replace("</dt>", "")


def test_the_least_confident_come_first(page: _Page) -> None:
    order = [page.text.index(confidence) for confidence in ("0.310", "0.620", "0.700", "0.990")]
    assert order == sorted(order)


def test_pictures_are_the_frames_that_the_model_saw_in_the_video_s_shape(page: _Page) -> None:
    assert len(page.all("img")) == 8  # two readable videos of four frames
    for i, image in enumerate(page.all("img")):
        jpeg = Image.open(io.BytesIO(base64.b64decode((image["src"] or "").split(",")[1])))
        assert jpeg.size == (int(image["width"] or 0), int(image["height"] or 0)) == (192, 96)
        np.testing.assert_allclose(np.asarray(jpeg).mean(axis=(0, 1)), COLORS[i % 4], atol=12)
        assert (image["alt"] or "").startswith(f"frame {5 + 10 * (i % 4)} of ")  # the middle of each quarter
    assert "0.50 s1.50 s2.50 s3.50 s" in re.sub(r"\n\s*", "", page.text)


def test_a_video_that_is_gone_or_changed_is_shown_with_the_cause(page: _Page) -> None:
    assert "not readable any more" in page.text
    assert "the file has changed since it was labelled" in page.text


def test_every_graphic_is_named_or_hidden_for_who_cannot_see_it(page: _Page) -> None:
    assert all(svg.get("aria-hidden") == "true" or svg.get("aria-label") for svg in page.all("svg"))
    [histogram] = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert "0.95 to 1.00: 1 video" in (histogram["aria-label"] or "")
    assert page.all("html") == [{"lang": "en"}]


def test_a_job_that_has_not_ended_and_has_no_rows_yet_says_so(tmp_path: Path) -> None:
    running = job() | {"state": "running", "sessions": []}
    (tmp_path / "job.json").write_text(json.dumps(running), encoding="utf-8")
    text = _Page(Path(write_job_report(tmp_path)).read_text(encoding="utf-8")).text
    assert "This job has not ended: 155 of 155 videos are still to do" in text
    assert "No video has a label." in text


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputConflictError, match="holds no labelling job"):
        write_job_report(tmp_path)


def test_bars() -> None:
    many = [(f"label {i}", 100 - i) for i in range(70)]
    bars = label_bars(many)
    assert len(bars) == 61
    assert bars[1] == Bar(name="label 1", count=99, share=99 / bars[-1].count)
    assert bars[-1] == Bar(name="10 other labels", count=sum(100 - i for i in range(60, 70)), share=1.0)
    assert confidence_bars([0, 2, 0, 4])[1] == Bar(name="0.25 to 0.50", count=2, share=0.5)
    assert confidence_bars([0, 0])[0].share == 0
    assert label_bars([]) == []


def test_spread_keeps_both_ends() -> None:
    assert spread(4, 6) == [0, 1, 2, 3]
    assert spread(16, 6) == [0, 3, 6, 9, 12, 15]
    assert spread(256, 6)[-1] == 255
