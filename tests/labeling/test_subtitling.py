"""Subtitle files of jobs and predictions, as FFmpeg reads them."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labeling_model import Identity

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.errors import UsageError
from reelscribe.pipeline.labeling.job import JobOptions, run_job
from reelscribe.pipeline.labeling.predict import predict_videos
from reelscribe.pipeline.labeling.store import read_labels
from reelscribe.pipeline.labeling.subtitling import subtitle_name, write_subtitles
from reelscribe.pipeline.manifest import list_videos
from reelscribe.pipeline.sampling import Windows
from reelscribe.pipeline.video.writer import write_video
from videos import counting_frames

Cues = list[tuple[float, float, str]]


def played(file: Path) -> Cues:
    """Times in seconds and text of what a player shows."""
    found = []
    with av.open(str(file)) as container:
        assert container.streams[0].type == "subtitle"
        for packet in container.demux(subtitles=0):
            if packet.pts is not None and packet.duration and packet.time_base:
                begin = float(packet.pts * packet.time_base)
                found.append((begin, begin + float(packet.duration * packet.time_base), bytes(packet).decode()))
    return found


def merged(rows: Cues) -> Cues:
    """Neighbours that say the same as one; tags lose their brackets, as the labels of the tests have some."""
    cues: Cues = []
    for start, end, text in rows:
        plain = text.replace("<", "").replace(">", "")
        if cues and cues[-1][2] == plain:
            cues[-1] = (cues[-1][0], end, plain)
        else:
            cues.append((start, end, plain))
    return cues


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos that only their suffix tells apart, and what is no video."""
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "long.mkv", counting_frames(70), frame_rate=10)
    write_video(tmp_path / "in" / "long.mp4", counting_frames(30), frame_rate=10)
    (tmp_path / "in" / "text.mp4").write_text("no video")
    return tmp_path / "in"


@pytest.mark.parametrize("windows", [Windows.parse("2s/1s"), None], ids=["overlapping", "whole"])
def test_a_player_shows_the_labels_of_a_job_at_their_times(
    bundle: ModelBundle, folder: Path, tmp_path: Path, windows: Windows | None
) -> None:
    run_job(bundle=bundle, identity=Identity(), videos=list_videos(str(folder)), out=tmp_path / "out", options=JobOptions(windows=windows))
    assert write_subtitles(tmp_path / "out", "srt") == 2
    files = {"long.srt": "long.mkv", "long.mp4.srt": "long.mp4"}
    assert sorted(file.name for file in (tmp_path / "out" / "subtitles").iterdir()) == sorted(files)
    for name, video_id in files.items():
        rows = [row for row in read_labels(tmp_path / "out").to_pylist() if row["video_id"] == video_id]
        ends = [row["start_s"] for row in rows[1:]] + [rows[-1]["duration_s"]]  # each until the next begins
        expected = merged([(row["start_s"] or 0, end, row["label"]) for row, end in zip(rows, ends, strict=True)])
        found = played(tmp_path / "out" / "subtitles" / name)
        assert [text for *_, text in found] == [text for *_, text in expected]
        assert [t for cue in found for t in cue[:2]] == pytest.approx([t for cue in expected for t in cue[:2]], abs=2e-3)


def test_a_prediction_leaves_subtitles_beside_the_video_and_never_over_a_file(
    bundle: ModelBundle, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def predict() -> None:
        video = str(folder / "long.mkv")
        settings = DecodeConfig(workers=1)
        predict_videos(
            str(bundle.folder), [video], tracking="", device="cpu", decode=settings, windows=Windows.parse("2s"), subtitles="vtt"
        )

    predict()
    assert played(folder / "long.vtt")[-1][1] == pytest.approx(7, abs=2e-3)
    assert "long.vtt" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"long\.vtt is there already"):
        predict()


@settings(deadline=None)  # the first draw of texts takes long
@given(
    st.lists(
        st.text(max_size=20) | st.sampled_from(["../../a.mp4", "/a.mp4", "a.mkv", "s3://a/../b.mp4", "a", "..", "x" * 400]), unique=True
    )
)
def test_no_id_leads_out_of_the_folder_or_to_the_file_of_another(ids: list[str]) -> None:
    taken: set[str] = set()
    for video_id in ids:
        name = subtitle_name(video_id, "srt", taken)
        assert name not in taken
        taken.add(name)
        parts = name.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert all(len(part.encode()) < 255 and part.isprintable() for part in parts)
