"""What a job will take, from a sample."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.labeling.estimate import SAMPLE_SIZE, estimate
from reelscribe.pipeline.labeling.job import JobOptions
from reelscribe.pipeline.sampling import Windows
from reelscribe.pipeline.video.writer import write_video
from videos import counting_frames

OPTIONS = JobOptions(decode=DecodeConfig(workers=1))


def table(folder: Path, count: int) -> pa.Table:
    """Rows of one video of two seconds; every third has no file."""
    write_video(folder / "clip.mp4", counting_frames(20), frame_rate=10)
    uris = [str(folder / ("gone.mp4" if i % 3 == 2 else "clip.mp4")) for i in range(count)]
    none = pa.nulls(count, pa.float64())
    return pa.table({"video_id": [str(i) for i in range(count)], "uri": uris, "start_s": none, "end_s": none})


def test_a_sample_speaks_for_all(bundle: ModelBundle, tmp_path: Path) -> None:
    found = estimate(bundle, table(tmp_path, 1000), OPTIONS)
    assert (found.videos, found.sampled, found.video_s) == (1000, SAMPLE_SIZE, 2000.0)
    assert 0 < found.sampled_failed < SAMPLE_SIZE
    assert 0 < found.startup_s < found.with_a_second_machine_s < found.seconds
    twice = found.startup_s + 2 * (found.with_a_second_machine_s - found.startup_s)
    assert abs(twice - found.seconds) < 1e-6
    assert 50 < found.memory_mb < 20_000


def test_small_inputs_and_windows(bundle: ModelBundle, tmp_path: Path) -> None:
    assert estimate(bundle, table(tmp_path, 1), OPTIONS).sampled == 1
    windowed = JobOptions(decode=DecodeConfig(workers=1), windows=Windows.parse("500ms"))
    found = estimate(bundle, table(tmp_path, 10), windowed)
    assert (found.videos, found.sampled_failed, found.video_s) == (10, 3, 20.0)
