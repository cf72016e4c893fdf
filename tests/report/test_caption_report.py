"""The page of captions: pictures of what was seen and looked at, and nothing of a text that a browser would run."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.report.captions import ShownCaption, lit, write_caption_report
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import ClipRequest
from reelscribe.pipeline.video.types import FrameSize
from reelscribe.pipeline.video.writer import write_video


def test_a_frame_is_bright_where_it_was_looked_at() -> None:
    white = np.full((6, 8, 3), 200, np.uint8)
    weights = np.zeros((2, 4), np.float32)
    weights[1, 3] = 0.25
    shown = lit(white, weights)
    assert (shown[3:, 6:] == 200).all()
    assert (shown[:3] == 50).all()
    assert (shown[:, :6] == 50).all()
    assert lit(white, np.float32(0.3)) is white


def test_the_page_shows_the_frame_of_each_word(tmp_path: Path) -> None:
    frames = np.stack([np.full((32, 32, 3), 40 * i, np.uint8) for i in range(6)])
    write_video(tmp_path / "a.mp4", frames, frame_rate=6.0, options={"preset": "veryfast"})
    attention = np.zeros((3, 6, 2, 2), np.float32)
    attention[0, 5, 0, 0] = attention[1, 2, 1, 1] = attention[2, 0] = 1
    caption = ShownCaption(
        video_id="a<script>.mp4",
        request=ClipRequest(
            uri=str(tmp_path / "a.mp4"), sampling=UniformSampling(num_frames=6), size=FrameSize(height=32, width=32, fit="stretch")
        ),
        said="bright <b>dark</b>",
        confidence=0.5,
        score=1.25,
        references=("one", "two", "three", "four"),
        tokens=("bright", "dark", "<end>"),
        attention=attention,
    )
    gone = replace(caption, request=replace(caption.request, uri=str(tmp_path / "gone.mp4")))
    page = write_caption_report(
        tmp_path / "page.html", title="t", metrics={"cider": "1"}, captions=[caption, gone], decode=DecodeConfig(workers=1)
    ).read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "bright &lt;b&gt;dark&lt;/b&gt;" in page
    assert "people said: one; two; three and 1 more" in page
    assert "not readable any more" in page
    looks = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"[^>]*alt="where the model looked before ([^:]+):', page)
    assert [word for _, word in looks] == ["bright", "dark", "&lt;end&gt;"]
    first, second, end = (np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).astype(int).mean(axis=2) for picture, _ in looks)
    assert first[10, 10] > 170  # the last frame, of 200, in the corner that was looked at
    assert first[80, 80] < 70
    assert second[80, 80] > 60 > 35 > second[10, 10]
    assert end.max() < 15
