"""The drawn data set: order is all that tells the classes of a pair apart, and the files are what their names and tables say."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from reelscribe.pipeline.drawing.order import CLASSES, PAIRS, draw_clip, draw_order_dataset
from reelscribe.pipeline.errors import OutputConflictError, VideoError
from reelscribe.pipeline.manifest import list_videos, read_manifest
from reelscribe.pipeline.video.containers.probe import probe


def decode(file: Path) -> npt.NDArray[np.uint8]:
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def moving_parts(frames: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.intp]]:
    """Rows and columns of the pixels that differ from the median picture, for each frame."""
    background = np.median(frames, axis=0)
    return [np.argwhere(np.abs(frame - background).max(axis=-1) > 60) for frame in frames]


def seen_direction(label: str, frames: npt.NDArray[np.uint8]) -> str:
    """Which class of the label's pair the pictures show, judged without the drawing's own numbers."""
    pair = next(pair for pair in PAIRS if label in pair)
    rest = [part for part in moving_parts(frames) if len(part) > 20]
    centres = np.array([part.mean(axis=0) for part in rest])
    quarter = len(rest) // 4
    match pair[0]:
        case "right":
            change = centres[-quarter:, 1].mean() - centres[:quarter, 1].mean()
        case "down":
            change = centres[-quarter:, 0].mean() - centres[:quarter, 0].mean()
        case "grow":
            change = np.ptp(rest[-1], axis=0).sum() - np.ptp(rest[0], axis=0).sum()
        case _:  # turning: the area swept round the middle of the way, rows counting downwards
            offset = centres - centres.mean(axis=0)
            change = (offset[:-1, 1] * offset[1:, 0] - offset[:-1, 0] * offset[1:, 1]).sum()
    return pair[0] if change > 0 else pair[1]


@pytest.mark.parametrize("pair", PAIRS)
def test_one_class_is_the_other_backwards(pair: tuple[str, str]) -> None:
    for seed in range(5):
        (there, rate), (back, same_rate) = (draw_clip(label, np.random.default_rng(seed)) for label in pair)
        assert np.array_equal(there[::-1], back)
        assert rate == same_rate
        assert 1.5 - 1 / rate <= len(there) / rate <= 3.0 + 1 / rate


@pytest.mark.parametrize("label", [label for label in CLASSES if label not in ("grow", "shrink")])
def test_the_label_is_what_one_sees(label: str) -> None:
    seen = [seen_direction(label, draw_clip(label, np.random.default_rng([7, seed]))[0]) for seed in range(12)]
    assert seen.count(label) >= 11  # the shape may cover its own median place


@pytest.mark.parametrize("label", ["grow", "shrink"])
def test_sizes_change_as_the_label_says(label: str) -> None:
    for seed in range(12):
        frames = draw_clip(label, np.random.default_rng([7, seed]))[0].astype(int)
        first, last = (np.abs(frames[i] - frames[j]).max(axis=-1) > 60 for i, j in ((0, len(frames) // 2), (-1, len(frames) // 2)))
        # What lies between half-way and the big end is more than what lies between half-way and the small one.
        assert (last.sum() > first.sum()) == (label == "grow")


def test_frames_without_order_say_nothing_of_the_direction() -> None:
    """A nearest-mean rule on what is left of a clip without its order (mean and spread of every pixel) is no better than a coin."""
    hits = []
    for pair in PAIRS:
        features: dict[str, list[npt.NDArray[np.float64]]] = {label: [] for label in pair}
        for number in range(40):
            label = pair[number % 2]
            frames = draw_clip(label, np.random.default_rng([11, number]))[0].astype(np.float32)
            features[label].append(np.concatenate([frames.mean(axis=0)[::6, ::6].ravel(), frames.std(axis=0)[::6, ::6].ravel()]))
        means = {label: np.mean(found[:14], axis=0) for label, found in features.items()}
        for label, found in features.items():
            hits += [min(pair, key=lambda c: float(np.linalg.norm(feature - means[c]))) == label for feature in found[14:]]
    assert 0.25 < np.mean(hits) < 0.75


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_order_dataset(tmp_path_factory.mktemp("drawn") / "data", num_videos=64, broken_share=0.2, seed=3)


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def test_the_tables_name_every_file(drawn: Path) -> None:
    folder = drawn.parent
    labelled, truth = read_csv(drawn), read_csv(folder / "truth.csv")
    new = {f"new/{video_id}" for video_id in list_videos(str(folder / "new"))["video_id"].to_pylist()}
    on_disk = {str(file.relative_to(folder)) for file in folder.rglob("*.mp4")}
    assert len(on_disk) == 64
    assert {row["path"] for row in labelled} | new == on_disk
    assert {row["path"] for row in truth} <= new
    assert sorted(file.name for file in folder.iterdir()) == ["drawing.json", "manifest.csv", "new", "truth.csv", "videos"]
    assert not any(label in path for path in on_disk for label in CLASSES)


def test_splits_and_classes_are_balanced(drawn: Path) -> None:
    table = read_manifest(str(drawn), require_labels=True)
    splits = Counter(table["split"].to_pylist())
    assert splits == {"train": 37, "val": 8, "test": 8}
    for split in splits:
        counts = Counter(row["label"] for row in table.to_pylist() if row["split"] == split)
        assert set(counts) == set(CLASSES)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_broken_files_fail_in_several_ways_and_no_other_does(drawn: Path) -> None:
    folder = drawn.parent
    failures: dict[str, str] = {}
    for file in sorted(folder.rglob("*.mp4")):
        try:
            info = probe(str(file))
        except VideoError as error:
            failures[str(file.relative_to(folder))] = error.failure
        else:
            assert (info.codec, info.width, info.height) == ("h264", 128, 96)
            assert 1.4 < info.duration_s < 3.1
    assert len(failures) == 13
    assert set(failures.values()) == {"not_a_video", "no_video_stream", "truncated"}
    assert not set(failures) & {row["path"] for row in read_csv(folder / "truth.csv")}
    assert Counter(Path(path).parent.name for path in failures) == {"new": 8, "videos": 5}
    assert all(row["split"] == "train" for row in read_csv(drawn) if row["path"] in failures)


def test_the_files_show_what_the_tables_say(drawn: Path) -> None:
    folder = drawn.parent
    sound = [row for row in read_csv(drawn) if row["split"] != "train"] + read_csv(folder / "truth.csv")
    moving = [row for row in sound if row["label"] not in ("grow", "shrink")]
    seen = [seen_direction(row["label"], decode(folder / row["path"])) == row["label"] for row in moving]
    assert np.mean(seen) > 0.9


def digests(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    one, other, third = (
        draw_order_dataset(tmp_path / name, num_videos=16, broken_share=0.3, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert digests(one.parent) == digests(other.parent)
    assert {k: v for k, v in digests(one.parent).items() if v in digests(third.parent).values()}.keys() <= {
        path for path in digests(one.parent) if (one.parent / path).stat().st_size < 500
    }  # only broken files of fixed content are the same


def test_drawing_twice_leaves_the_first(tmp_path: Path) -> None:
    draw_order_dataset(tmp_path / "data", num_videos=8)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    draw_order_dataset(tmp_path / "data", num_videos=8)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_two_at_once_give_one_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # an empty folder is no obstacle
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: draw_order_dataset(tmp_path / "data", num_videos=8), range(2)))
    assert paths[0] == paths[1]
    assert [file.name for file in tmp_path.iterdir()] == ["data"]
    assert read_manifest(str(paths[0]), require_labels=True).num_rows == 7


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    with pytest.raises(OutputConflictError, match="holds something else"):
        draw_order_dataset(tmp_path / "thesis", num_videos=8)
    draw_order_dataset(tmp_path / "data", num_videos=8)
    with pytest.raises(OutputConflictError, match="drawn otherwise"):
        draw_order_dataset(tmp_path / "data", num_videos=8, seed=1)
    with pytest.raises(OutputConflictError):
        draw_order_dataset(tmp_path / "thesis" / "chapter.tex", num_videos=8)
    assert [file.name for file in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


@pytest.mark.parametrize(("num_videos", "broken_share"), [(7, 0.0), (8, -0.1), (8, 0.5)])
def test_impossible_sizes(tmp_path: Path, num_videos: int, broken_share: float) -> None:
    with pytest.raises(ValueError, match="expected 8 or more"):
        draw_order_dataset(tmp_path / "data", num_videos=num_videos, broken_share=broken_share)
