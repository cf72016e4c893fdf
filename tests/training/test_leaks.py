"""The leak guard on real files: copies are found, other clips pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reelscribe.pipeline.config import Config
from reelscribe.pipeline.drawing.order import CLASSES, draw_clip
from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.features import FeatureCache
from reelscribe.pipeline.manifest import read_manifest
from reelscribe.pipeline.training.recipes.leaks import Leak, find_leaks
from reelscribe.pipeline.training.recipes.splits import split_rows
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.scaling import scale
from reelscribe.pipeline.video.writer import write_video

Find = Callable[..., list[tuple[str, str, str]]]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn clips 0.mp4 to 5.mp4; small.mp4 is 0.mp4 encoded anew at another size."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(6):
        frames, rate = draw_clip(CLASSES[seed], np.random.default_rng(seed))
        frames = np.stack([scale(frame, (192, 256)) for frame in frames])
        write_video(folder / f"{seed}.mp4", frames, frame_rate=rate)
        if seed == 0:
            write_video(folder / "small.mp4", [scale(f, (144, 192)) for f in frames], frame_rate=rate, options={"crf": "30"})
    return folder


@pytest.fixture
def find(videos: Path, tmp_path: Path) -> Find:
    """Leaks of the clips (file, label, split, group), as (kind, train, held out)."""

    def find(*rows: str, **settings: object) -> list[tuple[str, str, str]]:
        manifest = videos / f"{tmp_path.name}.csv"
        manifest.write_text("\n".join(["path,label,split,group", *rows]) + "\n")
        config = Config.model_validate({"name": "x", "data": {"manifest": str(manifest), **settings}})
        splits = split_rows(read_manifest(str(manifest), require_labels=True), config.data)
        with DecodePool(1) as pool:
            leaks = find_leaks(splits, config, pool=pool, cache=FeatureCache(tmp_path / "cache"), progress=lambda *_: None)
        return [(leak.kind, leak.train, leak.held_out) for leak in leaks]

    return find


GOOD = ("1.mp4,a,train,", "2.mp4,b,train,", "3.mp4,a,val,", "4.mp4,b,test,")


def test_different_clips_pass(find: Find) -> None:
    assert find(*GOOD) == []


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_a_copy_of_another_size_is_found_and_refused_unless_allowed(find: Find, held_out: str) -> None:
    rows = (*GOOD, "0.mp4,a,train,", f"small.mp4,a,{held_out},")
    with pytest.raises(ManifestError, match=r"look the same \(\d+ of 768 bits differ\): 0\.mp4 is trained on, small\.mp4 held out"):
        find(*rows)
    assert find(*rows, allow_leaks=True) == [("look", "0.mp4", "small.mp4")]
    assert find(*rows, leak_check="files") == []


@pytest.mark.parametrize("leak_check", ["frames", "files"])
def test_the_same_bytes_under_another_name_are_found(find: Find, videos: Path, leak_check: str) -> None:
    shutil.copy(videos / "0.mp4", videos / "copy.mp4")
    rows = (*GOOD, "0.mp4,a,train,", "copy.mp4,b,val,")
    assert find(*rows, leak_check=leak_check, allow_leaks=True) == [("file", "0.mp4", "copy.mp4")]
    with pytest.raises(ManifestError, match=r"the same file: 0\.mp4 is trained on, copy\.mp4 held out"):
        find(*rows, leak_check=leak_check)


def test_a_shared_group_is_refused_before_anything_is_decoded(find: Find) -> None:
    rows = ("gone.mp4,a,train,camera 1", "lost.mp4,a,val,camera 1", "2.mp4,b,train,camera 2", "4.mp4,b,val,")
    with pytest.raises(ManifestError, match=r"group 'camera 1': gone\.mp4 is trained on, lost\.mp4 held out"):
        find(*rows)
    assert find(*rows, allow_leaks=True) == [("group", "gone.mp4", "lost.mp4")]


def test_files_that_cannot_be_used_leak_nothing(find: Find, videos: Path) -> None:
    for name in ("page.mp4", "page2.mp4"):
        (videos / name).write_text("<html>404 Not Found</html>")
    assert find(*GOOD, "page.mp4,a,train,", "page2.mp4,b,val,") == []


def test_ten_of_many_leaks_are_listed(find: Find, videos: Path) -> None:
    rows = ["5.mp4,a,train,", "2.mp4,b,train,"]
    for i in range(13):
        shutil.copy(videos / "5.mp4", videos / f"again {i}.mp4")
        with (videos / f"again {i}.mp4").open("ab") as file:
            file.write(b"\0\0\0\x09free" + bytes([i]))  # other bytes, the same pictures
        rows.append(f"again {i}.mp4,{'ab'[i % 2]},val,")
    with pytest.raises(ManifestError) as caught:
        find(*rows)
    assert str(caught.value).count("look the same (0 of 768") == 10
    assert "13 leak(s)" in str(caught.value)
    assert "... and 3 more" in str(caught.value)
    assert "data.allow_leaks=true" in str(caught.value)


def test_a_leak_in_words() -> None:
    leak = Leak(kind="group", train="a", held_out="b", detail="group 'g'")
    assert str(leak) == "group 'g': a is trained on, b held out"
