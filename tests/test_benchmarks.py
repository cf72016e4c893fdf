"""The benchmarks take long and are run by hand; here they only have to start, and one does a little of its work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from videos import CASES

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
PROGRAMS = sorted(file.name for file in FOLDER.glob("*.py") if "__main__" in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "readers.py"])  # it has no arguments
def test_every_program_says_how_to_use_it(name: str) -> None:
    done = subprocess.run([sys.executable, str(FOLDER / name), "--help"], capture_output=True, text=True, check=True)
    assert f"python benchmarks/{name}" in done.stdout


def test_damaged_files_are_counted(tmp_path: Path) -> None:
    video = CASES["h264-short-gop"].write(tmp_path / "h264-short-gop.mp4")
    command = [sys.executable, str(FOLDER / "sandbox.py"), str(video), "--files", "30", "--reads", "0", "--rounds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "30 damaged files (seed 0): " in done.stdout
    assert "outside every class: 0" in done.stdout
