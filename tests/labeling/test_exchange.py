"""What goes between processes as Arrow comes back as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelscribe.pipeline.labeling.exchange import (
    DECODED_SCHEMA,
    decoded_from_table,
    decoded_to_table,
    outcomes_from_table,
    outcomes_to_table,
    videos_from_table,
    videos_to_table,
)
from reelscribe.pipeline.labeling.stages import Decoded, Failed, Labelled, Outcome, Video
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.types import Frames, VideoInfo

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
times = st.floats(allow_nan=False, allow_infinity=False)
videos = st.builds(Video, position=st.integers(0, 2**40), video_id=texts, uri=texts, start_s=st.none() | times, end_s=st.none() | times)
failures = st.builds(Failed, failure=texts, cause=texts, advice=texts, retryable=st.booleans())
answers = st.integers(0, 4).flatmap(
    lambda n: st.builds(
        Labelled,
        label=texts,
        confidence=st.floats(0, 1),
        top_k=st.none() | st.lists(st.tuples(texts, times), max_size=3).map(tuple),
        frame_index=st.lists(st.integers(0, 2**40), min_size=n, max_size=n).map(tuple),
        frame_time_s=st.lists(times, min_size=n, max_size=n).map(tuple),
        reader=texts,
        content_digest=texts,
        duration_s=times,
        accepted=st.none() | st.booleans(),
        labels=st.none() | st.lists(texts, max_size=3).map(tuple),
        value=st.none() | times,
        segments=st.none() | st.lists(st.tuples(times, times, texts, times), max_size=2).map(tuple),
        scores=st.none() | st.lists(st.floats(0, 1, width=32), max_size=3).map(tuple),
    )
)


@given(st.lists(st.builds(Outcome, video=videos, result=failures | answers, unix_time_s=times), max_size=5))
def test_outcomes(outcomes: list[Outcome]) -> None:
    assert outcomes_from_table(outcomes_to_table(outcomes)) == outcomes
    assert videos_from_table(videos_to_table(o.video for o in outcomes)) == [o.video for o in outcomes]


def clip(rng: np.random.Generator, shapes: list[tuple[int, int, int]]) -> Clip:
    views = tuple(
        Frames(
            pixels=rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            index=tuple(range(shape[0])),
            pts_seconds=tuple(i / 7 for i in range(shape[0])),
            backend="decord",
        )
        for shape in shapes
    )
    info = VideoInfo(
        container="mp4", codec="h264", width=9, height=7, rotation_degrees=90, begin_s=0.1, end_s=2.3, frame_rate=29.97, num_frames=66
    )
    return Clip(views=views, info=info, digest="ab" * 32)


@pytest.mark.parametrize("shapes", [[(3, 4, 5)], [(2, 1, 1), (5, 8, 2)]])
def test_decoded_clips_keep_every_pixel_and_can_be_written_to(shapes: list[tuple[int, int, int]]) -> None:
    video = Video(position=1, video_id="a", uri="u", start_s=None, end_s=1.5)
    sent = clip(np.random.default_rng(0), shapes)
    failed = Failed(failure="truncated", cause="c", advice="a", retryable=False)
    table = decoded_to_table([Decoded(video=video, clip=sent), Decoded(video=video, clip=failed)])
    assert table.schema == DECODED_SCHEMA
    first, second = decoded_from_table(table)
    assert second == Decoded(video=video, clip=failed)
    assert isinstance(first.clip, Clip)
    assert (first.clip.info, first.clip.digest) == (sent.info, sent.digest)
    for got, expected in zip(first.clip.views, sent.views, strict=True):
        np.testing.assert_array_equal(got.pixels, expected.pixels)
        assert got.pixels.flags.writeable  # torch warns of arrays that are not
        assert (got.index, got.pts_seconds, got.backend) == (expected.index, expected.pts_seconds, expected.backend)
