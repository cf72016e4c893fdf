"""Captions out of label files and out of the annotation files of known data sets; faults named by file and place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from reelscribe.pipeline import cli
from reelscribe.pipeline.config import DataConfig
from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.manifest import read_manifest, table_digest
from reelscribe.pipeline.training.recipes.splits import split_rows

MSRVTT: dict[str, Any] = {
    "videos": [{"video_id": "video0", "split": "train"}, {"video_id": "video1", "split": "validate"}],
    "sentences": [
        {"caption": "A car drives.", "video_id": "video0", "sen_id": 0},
        {"caption": "a man sings", "video_id": "video1", "sen_id": 1},
        {"caption": "The car's red", "video_id": "video0", "sen_id": 2},
    ],
}
VATEX = [{"videoID": "abc_000010_000020", "enCap": ["One.", "Two!"], "chCap": ["一"]}]
COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "seven.mp4"}, {"id": 8, "file_name": "eight.mp4"}],
    "annotations": [{"image_id": 8, "id": 1, "caption": "eight"}, {"image_id": 7, "id": 2, "caption": "seven"}],
}


def write(file: Path, content: Any) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def read(path: Path) -> pa.Table:
    return read_manifest(str(path), require_labels=True, task="caption")


def said(path: Path) -> dict[str, tuple[str, str | None, list[str]]]:
    folder = path if path.is_dir() else path.parent
    return {row["video_id"]: (str(Path(row["uri"]).relative_to(folder)), row["split"], row["captions"]) for row in read(path).to_pylist()}


def test_rows_of_one_clip_are_put_together(tmp_path: Path) -> None:
    csv = write(
        tmp_path / "labels.csv", 'path,caption,split\na.mp4,"A dog, it runs.",train\nb.mp4,a cat,val\na.mp4,the dog isn\'t slow,train\n'
    )
    expected = {"a.mp4": ("a.mp4", "train", ["a dog it runs", "the dog is n't slow"]), "b.mp4": ("b.mp4", "val", ["a cat"])}
    assert said(csv) == expected
    lines = [{"path": "a.mp4", "captions": ["A dog, it runs.", "the dog isn't slow"], "split": "train"}]
    jsonl = write(
        tmp_path / "labels.jsonl", "\n".join(json.dumps(line) for line in [*lines, {"path": "b.mp4", "captions": "a cat", "split": "val"}])
    )
    assert said(jsonl) == expected
    assert table_digest(read(csv)) == table_digest(read(jsonl))
    splits = split_rows(read(csv), DataConfig(manifest=str(csv)), "caption")
    assert ([row["video_id"] for row in splits.train], [row["video_id"] for row in splits.val]) == (["a.mp4"], ["b.mp4"])


def test_parts_of_a_video_are_clips_of_their_own(tmp_path: Path) -> None:
    csv = write(tmp_path / "labels.csv", "path,caption,start,end\na.mp4,one,0,2\na.mp4,two,2,4\na.mp4,again two,2,4\n")
    assert [row["captions"] for row in read(csv).to_pylist()] == [["one"], ["two", "again two"]]


def test_msvd_with_its_list_of_clips(shared_data: Path) -> None:
    table = read(shared_data / "msvd" / "captions_train.tsv")
    rows = table.to_pylist()
    assert len(rows) == 7
    assert all(Path(row["uri"]).is_file() for row in rows)
    (kitten,) = (row for row in rows if row["video_id"] == "vid98")
    assert kitten["uri"].endswith("videos/0lh_UWF9ZP4_62_69.gif")
    lines = (shared_data / "msvd" / "captions_train.tsv").read_text(encoding="utf-8").splitlines()
    assert len(kitten["captions"]) == sum(line.startswith("vid98\t") for line in lines)
    assert read(shared_data / "msvd").column("split").unique().to_pylist() == ["train"]


def test_msvd_of_the_official_csv(tmp_path: Path) -> None:
    header = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description\n"
    rows = "xY-z,3,9,1,clean,10,English,A dog.\nxY-z,3,9,2,clean,10,German,Ein Hund.\nq,1,2,3,clean,9,English,A cat.\n"
    csv = write(tmp_path / "corpus.csv", header + rows)
    (tmp_path / "videos").mkdir()
    write(tmp_path / "videos" / "xY-z_3_9.avi", "")
    assert said(csv) == {"xY-z_3_9": ("videos/xY-z_3_9.avi", None, ["a dog"]), "q_1_2": ("videos/q_1_2.mp4", None, ["a cat"])}
    write(tmp_path / "youtube_mapping.txt", "xY-z_3_9 vid1200\nq_1_2 vid1301\n")
    assert [split for _, split, _ in said(csv).values()] == ["train", "test"]


def test_msrvtt(tmp_path: Path) -> None:
    write(tmp_path / "video1.webm", "")
    file = write(tmp_path / "train_val_videodatainfo.json", MSRVTT)
    assert said(file) == {
        "video0": ("videos/video0.mp4", "train", ["a car drives", "the car 's red"]),
        "video1": ("video1.webm", "validate", ["a man sings"]),
    }


def test_vatex_and_coco_in_a_folder_are_split_by_the_names_of_their_files(tmp_path: Path) -> None:
    write(tmp_path / "vatex_training_v1.0.json", VATEX)
    write(tmp_path / "vatex_validation_v1.0.json", [{**VATEX[0], "videoID": "d"}])
    write(tmp_path / "captions_test2017.json", COCO)
    assert said(tmp_path) == {
        "8": ("videos/eight.mp4", "test", ["eight"]),
        "7": ("videos/seven.mp4", "test", ["seven"]),
        "abc_000010_000020": ("videos/abc_000010_000020.mp4", "train", ["one", "two"]),
        "d": ("videos/d.mp4", "val", ["one", "two"]),
    }


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tsv", "vid1\ta dog\nvid2\n", r"a\.tsv, line 2: 1 fields, expected video_id and caption with a tab"),
        ("a.tsv", "vid1\ta dog\nvid2\t \n", r"a\.tsv, line 2: the caption is empty"),
        ("a.csv", "path,caption\na.mp4,a dog\nb.mp4,\n", r"a\.csv, line 3: the caption is empty"),
        ("a.csv", "path,caption\na.mp4,a dog\nb.mp4,...\n", r"a\.csv, line 3: the caption '\.\.\.' has no word"),
        ("a.csv", "path,caption\n,a dog\n", r"a\.csv, line 2: the path is empty"),
        ("a.csv", "path,label\na.mp4,dog\n", r"a\.csv, line 1: no column 'caption'"),
        (
            "a.csv",
            "path,caption,split\na.mp4,x,train\na.mp4,y,val\n",
            r"line 3: the split of this clip is 'val', and 'train' in an earlier row",
        ),
        ("a.jsonl", '{"path": "a.mp4", "captions": []}', r"a\.jsonl, line 1: there is no caption"),
        ("a.json", "[1, 2", r"a\.json, line 1: not JSON"),
        ("a.json", {"info": 1}, r"a\.json, line 1: not the JSON of MSR-VTT .*, VATEX .* or COCO"),
        ("a.json", [*VATEX, {"videoID": "a"}], r"a\.json, \[1\]: expected an object with videoID, enCap; it lacks enCap"),
        ("a.json", [{"videoID": "a", "enCap": "one"}], r"a\.json, \[0\]: enCap is 'one', expected a list of captions"),
        ("a.json", [{"videoID": "a", "enCap": ["x", ""]}], r"a\.json, \[0\]: the caption is empty"),
        ("a.json", {**MSRVTT, "videos": ["video0"]}, r"a\.json, videos\[0\]: expected an object with video_id; it lacks video_id"),
        ("a.json", {**COCO, "annotations": [{"image_id": 7}]}, r"a\.json, annotations\[0\]: .* it lacks caption"),
        (
            "a.json",
            {**MSRVTT, "sentences": [*MSRVTT["sentences"], {"caption": "x", "video_id": "video9"}]},
            r"a\.json, sentences\[3\]: its video 'video9' is not among the videos",
        ),
        ("a.json", {**MSRVTT, "sentences": MSRVTT["sentences"][:1]}, r"a\.json, videos\[1\]: video1 has no sentence"),
        ("a.json", {**COCO, "images": COCO["images"][:1]}, r"a\.json, annotations\[0\]: its image '8' is not among the images"),
    ],
)
def test_faults_are_named_with_file_and_place(tmp_path: Path, name: str, content: Any, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        read(write(tmp_path / name, content))


def test_captions_of_clips_that_are_not_listed(shared_data: Path) -> None:
    with pytest.raises(ManifestError, match=r"captions_val\.tsv, line 1: neither this caption nor any other .* clips\.csv"):
        read(shared_data / "msvd" / "captions_val.tsv")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", {"info": 1}, "line 1: not the JSON of MSR-VTT"),
        ("a.tsv", "vid1\ta dog\nvid2\n", "line 2: 1 fields"),
        ("a.csv", "path,caption\n,a dog\n", "line 2: the path is empty"),
        ("a.csv", "path,caption\na.mp4,\n", "line 2: the caption is empty"),
    ],
)
def test_training_on_a_faulty_file_ends_with_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, content: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    file = write(tmp_path / name, content)
    monkeypatch.setattr(sys, "argv", ["reelscribe", "train", "caption_demo", f"data.manifest={file}", f"output={tmp_path / 'runs'}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert f"{name}, {words}" in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "runs").exists()
