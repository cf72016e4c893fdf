"""What is written is what was given, and what cannot be written is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reelscribe.pipeline.video.containers.probe import scan
from reelscribe.pipeline.video.readers.chain import read_frames
from reelscribe.pipeline.video.writer import write_video
from videos import counting_frames, number_shown


def test_times_colours_and_size_survive(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (230, 230, 230)]
    path = tmp_path / "a.mp4"
    write_video(path, (np.full((64, 80, 3), c, np.uint8) for c in colours), frame_rate=12.5)
    found = scan(str(path))
    assert (found.info.width, found.info.height, found.info.num_frames, found.info.frame_rate) == (80, 64, 4, 12.5)
    frames = read_frames(found, [0.0, 0.08, 0.16, 0.24])
    assert np.abs(frames.pixels.reshape(4, -1, 3).mean(axis=1) - colours).max() < 4


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, counting_frames(30), frame_rate=25)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_rate_that_is_a_fraction(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", counting_frames(40), frame_rate=30000 / 1001)
    found = scan(str(tmp_path / "a.mp4"))
    assert found.info.frame_rate == pytest.approx(30000 / 1001, abs=1e-6)
    assert number_shown(read_frames(found, [39.5 * 1001 / 30000]).pixels[0]) == 39


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(ValueError, match="no frames"):
        write_video(path, [], frame_rate=25)
    with pytest.raises(ValueError, match="even sides"):
        write_video(path, [np.zeros((33, 32, 3), np.uint8)], frame_rate=25)
    with pytest.raises(ValueError, match="frame 1 is 64 x 32"):
        write_video(path, [np.zeros((32, 32, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)], frame_rate=25)
