"""The benchmarks take long and are run by hand; here they only have to start, and one does a little of its work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from videos import CASES

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
PROGRAMS = sorted(file.name for file in FOLDER.glob("*.py") if "__main__" in file.read_text(encoding="utf-8"))


HELP = """
import contextlib, io, json, runpy, sys
from pathlib import Path
said = {}
for file in sys.argv[1:]:
    sys.argv, sys.path[0], text = [file, "--help"], str(Path(file).parent), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        runpy.run_path(file, run_name="__main__")
    said[Path(file).name] = text.getvalue()
print(json.dumps(said))
"""


def test_every_program_says_how_to_use_it() -> None:
    """In one process, as each imports torch."""
    programs = [str(FOLDER / name) for name in PROGRAMS if name != "readers.py"]  # it has no arguments
    done = subprocess.run([sys.executable, "-c", HELP, *programs], capture_output=True, text=True, check=True)
    for name, said in json.loads(done.stdout).items():
        assert f"python benchmarks/{name}" in said


def test_damaged_files_are_counted(tmp_path: Path) -> None:
    video = CASES["h264-short-gop"].write(tmp_path / "h264-short-gop.mp4")
    command = [sys.executable, str(FOLDER / "sandbox.py"), str(video), "--files", "30", "--reads", "0", "--rounds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "30 damaged files (seed 0): " in done.stdout
    assert "outside every class: 0" in done.stdout
