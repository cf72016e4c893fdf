"""What the doctor says of this machine and of files whose facts are known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reelscribe.pipeline.doctor import VideoFacts, environment, inspect_inputs, inspect_videos, write_clean
from reelscribe.pipeline.errors import ManifestError, OutputConflictError, UsageError
from reelscribe.pipeline.manifest import read_manifest
from reelscribe.pipeline.show import doctor as show
from reelscribe.pipeline.video.writer import write_video
from videos import CASES


def test_the_environment_is_complete_and_says_versions() -> None:
    checks = {check.name: check for check in environment()}
    assert {"python", "pyav", "opencv", "decord", "ray", "mlflow", "gpu", "disk", "tracking", "cluster"} <= checks.keys()
    assert checks["python"].ok
    assert sys.version.split()[0] in checks["python"].detail
    assert checks["pyav"].ok
    assert "FFmpeg" in checks["pyav"].detail


def test_libraries_that_do_not_load_say_why_and_addresses_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    # torchcodec imports without FFmpeg, and its error at the first video is a table of attempts, one for each FFmpeg.
    attempts = "".join(
        f"FFmpeg version {major}:\nTraceback:\nOSError: libavutil.so.{52 + major}: {words}\nOSError: Could not load this library: a.so\n"
        for major, words in ((6, "cannot open shared object file"), (5, "undefined symbol: av_new"), (4, "cannot open shared object file"))
    )
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("ffmpeg_major_version = None")
    (tmp_path / "torchcodec" / "decoders.py").write_text(f"def VideoDecoder(_): raise RuntimeError({attempts!r})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    checks = {check.name: check for check in environment()}
    assert (checks["opencv"].ok, checks["opencv"].needed) == (False, True)
    assert "libGL.so.1: cannot open" in checks["opencv"].detail
    assert (checks["torchcodec"].ok, checks["torchcodec"].needed) == (False, False)
    assert "is installed and does not load: OSError: libavutil.so.57: undefined symbol" in checks["torchcodec"].detail
    assert "FFmpeg's shared libraries" in checks["torchcodec"].detail
    assert checks["pyav"].ok
    assert checks["tracking"].detail == "http://127.0.0.1:5000"
    assert "'auto' joins 127.0.0.1:6379, which RAY_ADDRESS names" in checks["cluster"].detail


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    for name in ("h264-long-gop", "h264-variable-rate", "h264-late-start", "h264-rotated-90", "av1", "mpeg4-avi"):
        CASES[name].write(folder / f"{name}{CASES[name].suffix}")
    whole = (folder / "h264-long-gop.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no video")
    long_gap = {"g": "1000", "preset": "ultrafast", "x264-params": "scenecut=0"}
    write_video(folder / "gap.mp4", (np.full((32, 32, 3), i, np.uint8) for i in range(120)), frame_rate=5, options=long_gap)
    return folder


def test_facts_of_known_files(folder: Path) -> None:
    facts = {Path(fact.uri).name: fact for fact in inspect_inputs([str(folder)], workers=1)}
    assert len(facts) == 9
    assert {name: fact.failure for name, fact in facts.items() if not fact.ok} == {"cut.mp4": "truncated", "notes.txt": "not_a_video"}
    assert "missing at its end" in facts["cut.mp4"].cause
    assert facts["cut.mp4"].advice
    seen = {name: fact.inspection for name, fact in facts.items() if fact.inspection is not None}
    assert seen["h264-long-gop.mp4"].keyframe_gap_s == pytest.approx(10.0)  # 250 frames of 1/25 s
    assert [name for name, inspection in seen.items() if inspection.variable_rate] == ["h264-late-start.mkv", "h264-variable-rate.mp4"]
    assert seen["h264-rotated-90.mp4"].info.rotation_degrees == 90
    assert seen["h264-rotated-90.mp4"].remarks == ()
    assert seen["h264-rotated-90.mp4"].compared_with == "opencv"
    assert seen["h264-rotated-90.mp4"].largest_difference == 0
    assert seen["av1.mp4"].largest_difference is None
    assert seen["av1.mp4"].remarks == ("opencv cannot read it (unsupported_codec)",)
    assert "the first frame is shown at 3.20 s" in seen["h264-late-start.mkv"].remarks
    assert seen["gap.mp4"].remarks == ("24 s without a keyframe: jumps are slow",)
    assert seen["mpeg4-avi.avi"].remarks == ("no times in the container that can be relied upon: it is decoded from the start",)


def test_the_clean_label_file_keeps_the_columns_of_its_input(folder: Path, tmp_path: Path) -> None:
    manifest = folder / "labels.tsv"
    manifest.write_text("file\tclass\tmood\ngap.mp4\ta, b\tgood\nnotes.txt\tc\tbad\nav1.mp4\tc\t\ngone.mp4\tc\tbad\n")
    inputs = [str(manifest)]
    facts = inspect_inputs(inputs, workers=1)
    assert [fact.failure for fact in facts] == ["", "not_a_video", "", "not_found"]
    assert write_clean(folder / "clean.csv", inputs, facts) == 2
    assert (folder / "clean.csv").read_text() == 'file,class,mood\ngap.mp4,"a, b",good\nav1.mp4,c,\n'
    assert write_clean(tmp_path / "clean.csv", inputs, facts) == 2
    for clean in (folder / "clean.csv", tmp_path / "clean.csv"):
        table = read_manifest(str(clean), require_labels=True)
        assert table["uri"].to_pylist() == [str(folder / "gap.mp4"), str(folder / "av1.mp4")]
        assert table["label"].to_pylist() == ["a, b", "c"]
    both = [str(manifest), str(folder / "h264-rotated-90.mp4"), str(folder / "cut.mp4")]
    assert write_clean(tmp_path / "both.csv", both, inspect_inputs(both, workers=1)) == 3
    assert (tmp_path / "both.csv").read_text().splitlines()[0] == "path,label,mood"
    assert len(read_manifest(str(tmp_path / "both.csv"), require_labels=False)) == 3
    for name in ("labels.tsv", "clean.csv"):
        (folder / name).unlink()


def test_a_clean_label_file_is_a_new_csv_file(folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "a.csv"
    manifest.write_text(f"path\n{folder / 'notes.txt'}\n")
    facts = inspect_inputs([str(manifest)], workers=1)
    with pytest.raises(OutputConflictError, match="is an input"):
        write_clean(manifest, [str(manifest)], facts)
    with pytest.raises(UsageError, match="csv"):
        write_clean(tmp_path / "clean.parquet", [str(manifest)], facts)
    with pytest.raises(UsageError, match="no folder"):
        write_clean(tmp_path / "none" / "clean.csv", [str(manifest)], facts)
    assert write_clean(tmp_path / "none.csv", [str(manifest)], facts) == 0
    assert (tmp_path / "none.csv").read_text() == "path\n"
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a.csv", "none.csv"]


def test_the_verb_writes_it(folder: Path, tmp_path: Path) -> None:
    program = "from reelscribe.pipeline.cli import main; main()"
    command = [sys.executable, "-c", program, "doctor", str(folder / "gap.mp4"), str(folder / "notes.txt")]
    wide = os.environ | {"COLUMNS": "200"}
    done = subprocess.run([*command, "--write-clean", str(tmp_path / "clean.csv")], capture_output=True, text=True, check=False, env=wide)
    assert done.returncode == 1
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["in", f"{folder}/"]
    assert ["gap.mp4", "h264", "32x32", "5.00", "24.00", "120", "24.00", "s", "0.0", "24", "s", "without"] in [line[:12] for line in lines]
    assert ["notes.txt", "not_a_video", "no", "container"] in [line[:4] for line in lines]
    assert done.stdout.endswith("\n1 can be used, 1 cannot: 1 not_a_video\n")
    assert (tmp_path / "clean.csv").read_text().splitlines() == ["path", str(folder / "gap.mp4")]
    done = subprocess.run([*command[:4], "--write-clean", "clean.csv"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs videos" in done.stderr


def test_one_file_is_named_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    missing = VideoFacts(uri="/none.mp4", failure="not_found", cause="/none.mp4: is gone", advice="look again", inspection=None)
    assert not show.videos([missing], as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["/none.mp4", "not_found", "is", "gone", "look", "again"]
    assert lines[-1] == "0 can be used, 1 cannot: 1 not_found"


def test_videos_keep_their_order_and_inputs_are_not_repeated(folder: Path) -> None:
    uris = [str(folder / name) for name in ("notes.txt", "none.mp4", "gap.mp4")]
    assert [(fact.uri, fact.failure) for fact in inspect_videos(uris, workers=2)] == [
        (uris[0], "not_a_video"),
        (uris[1], "not_found"),
        (uris[2], ""),
    ]
    assert len(inspect_inputs([uris[2], uris[2]], workers=1)) == 1


def test_an_input_that_is_not_there_is_an_error_of_use(tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        inspect_inputs([str(tmp_path / "none")])


def test_the_callers_process_loads_no_decoder(folder: Path) -> None:
    program = (
        "import sys; from reelscribe.pipeline.doctor import inspect_videos; facts = inspect_videos([sys.argv[1]], workers=1);"
        "print(facts[0].ok, *{'av', 'cv2', 'decord', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder / "gap.mp4")], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
