"""Label files: what the formats share, what they refuse, and where they say the fault is."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import string
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.manifest import MANIFEST_SCHEMA, list_videos, read_manifest, table_digest

NAMES = MANIFEST_SCHEMA.names


def write(folder: Path, text: str | bytes, name: str = "labels.csv") -> str:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


def rows(table: pa.Table) -> list[dict[str, Any]]:
    assert table.schema.equals(MANIFEST_SCHEMA)
    listed: list[dict[str, Any]] = table.to_pylist()
    return listed


def refused(path: str, *, require_labels: bool = True) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, require_labels=require_labels)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------------------- the formats


def test_every_column_of_a_csv(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "path,label,split,group,start_s,end_s,video_id,fold\nvideos/a b.mp4,left,train,cam1,1.5,3,first,0\nb.mp4,right,val,,,,,\n",
    )
    assert rows(read_manifest(path, require_labels=True)) == [
        dict(zip(NAMES, ["first", str(tmp_path / "videos/a b.mp4"), 1.5, 3.0, "left", "cam1", "train", "0"], strict=True)),
        dict(zip(NAMES, ["b.mp4", str(tmp_path / "b.mp4"), None, None, "right", None, "val", None], strict=True)),
    ]


def _as_csv(file: Path, table: list[dict[str, Any]], delimiter: str = ",") -> None:
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, NAMES, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)


def _as_tsv(file: Path, table: list[dict[str, Any]]) -> None:
    _as_csv(file, table, "\t")


def _as_json_lines(file: Path, table: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in table), encoding="utf-8")


def _as_parquet(file: Path, table: list[dict[str, Any]]) -> None:
    parquet.write_table(pa.Table.from_pylist(table, schema=MANIFEST_SCHEMA), file)


def _as_pandas_csv(file: Path, table: list[dict[str, Any]]) -> None:
    # With pandas' own nameless index column; it leaves a lone carriage return without quotes unless told otherwise.
    pd.DataFrame(table, columns=NAMES).to_csv(file, quoting=csv.QUOTE_NONNUMERIC)


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "a.csv": _as_csv,
    "a.tsv": _as_tsv,
    "a.jsonl": _as_json_lines,
    "a.parquet": _as_parquet,
    "pandas.csv": _as_pandas_csv,
}

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
word = text.map(str.strip).filter(bool).map(lambda s: unicodedata.normalize("NFC", s)).filter(lambda s: s == s.strip())
time_s = st.floats(0, 1e6, allow_nan=False)


@st.composite
def manifests(draw: st.DrawFn) -> list[dict[str, Any]]:
    ids = draw(st.lists(text.filter(str.strip), min_size=1, max_size=6, unique=True))
    table = []
    for number, video_id in enumerate(ids):
        start, length = draw(st.none() | time_s), draw(st.none() | st.floats(0.01, 1e3))
        end = None if length is None else (start or 0.0) + length
        table.append(
            {
                "video_id": video_id,
                "uri": f"/data/{number}{draw(st.text(string.printable.replace('/', ''), max_size=8))}é.mp4",
                "start_s": start,
                "end_s": end,
                "label": draw(word),
                "group": draw(st.none() | word),
                "split": draw(st.none() | word),
                "fold": draw(st.none() | word),
            }
        )
    return table


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=manifests())
def test_what_is_written_is_read(tmp_path: Path, name: str, table: list[dict[str, Any]]) -> None:
    WRITERS[name](tmp_path / name, table)
    read = read_manifest(str(tmp_path / name), require_labels=True)
    assert rows(read) == table
    assert table_digest(read) == table_digest(pa.Table.from_pylist(list(reversed(table)), schema=MANIFEST_SCHEMA))


def test_spreadsheet_habits(tmp_path: Path) -> None:
    """A byte order mark, CRLF, semicolons, blanks round names and labels, capital letters, lines of separators."""
    path = write(tmp_path, b'\xef\xbb\xbfPath; Label ;Split\r\n"videos/a;b.mp4"; left;train\r\n;;\r\n\r\nc.mp4;left ;train\r\n')
    read = rows(read_manifest(path, require_labels=True))
    assert [(r["video_id"], r["label"], r["split"]) for r in read] == [("videos/a;b.mp4", "left", "train"), ("c.mp4", "left", "train")]


def test_quotes_blanks_and_letters_in_paths(tmp_path: Path) -> None:
    names = ['say "hi".mp4', "two  blanks.mp4", "naïve–файл 動画.mp4", "comma, semicolon;.mp4", "line\nbreak.mp4", "it's #1 50%.mp4"]
    out = io.StringIO()
    csv.writer(out).writerows([["path", "label"], *[[n, "x"] for n in names]])
    read = rows(read_manifest(write(tmp_path, out.getvalue()), require_labels=True))
    assert [r["uri"] for r in read] == [str(tmp_path / n) for n in names]
    assert [r["video_id"] for r in read] == names


def test_labels_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na.mp4,caf\u00e9\nb.mp4,cafe\u0301\n")
    assert len(set(read_manifest(path, require_labels=True)["label"].to_pylist())) == 1


def test_whole_number_labels_stay_what_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, '{"video": "a.mp4", "class": 0}\n\n{"class": 12, "video": "b.mp4"}\n', "a.jsonl")
    assert read_manifest(path, require_labels=True)["label"].to_pylist() == ["0", "12"]


def test_a_frame_with_gaps_from_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"file": ["a.mp4", "b.mp4"], "class": pd.Categorical(["x", "y"]), "start": [None, 2.0], "split": ["train", None]})
    frame.to_parquet(tmp_path / "a.parquet")
    read = rows(read_manifest(str(tmp_path / "a.parquet"), require_labels=True))
    assert [(r["start_s"], r["split"], r["video_id"]) for r in read] == [(None, "train", "a.mp4"), (2.0, None, "b.mp4#t=2")]


def test_other_columns_are_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,fold,confidence,class_id\na.mp4,x,3,0.5,7\n")
    assert rows(read_manifest(path, require_labels=True))[0]["split"] is None


def test_labels_may_be_missing_where_they_are_not_needed(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\na.mp4,\nb.mp4,x\n")
    assert read_manifest(path, require_labels=False)["label"].to_pylist() == [None, "x"]
    assert read_manifest(write(tmp_path, "path\na.mp4\n", "b.csv"), require_labels=False).num_rows == 1


@pytest.mark.parametrize(
    ("segment", "video_id"),
    [("1.5,3", "a.mp4#t=1.5,3"), ("2,", "a.mp4#t=2"), (",4.25", "a.mp4#t=,4.25"), (",", "a.mp4"), ("0,1e1", "a.mp4#t=0,10")],
)
def test_parts_of_a_video_have_their_own_ids(tmp_path: Path, segment: str, video_id: str) -> None:
    path = write(tmp_path, f"path,start,end,label\na.mp4,{segment},x\na.mp4,20,21,x\n")
    assert read_manifest(path, require_labels=True)["video_id"].to_pylist() == [video_id, "a.mp4#t=20,21"]


# -------------------------------------------------------------------------------------------------------------------------- paths


def test_where_paths_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data" / "labels"
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    given_to_read = {
        "a.mp4": str(folder / "a.mp4"),
        "./b/./c.mp4": str(folder / "b/c.mp4"),
        "../videos/d.mp4": str(tmp_path / "data/videos/d.mp4"),
        "link/../e.mp4": str(tmp_path / "e.mp4"),  # as the system reads it: up from where the link leads
        "/far/away.mp4": "/far/away.mp4",
        "s3://bucket/f.mp4": "s3://bucket/f.mp4",
        "HTTPS://host/g.mp4?x=1,2": "HTTPS://host/g.mp4?x=1,2",
        "file:///tmp/h%20i.mp4": "file:///tmp/h%20i.mp4",
        "concat:a|b": str(folder / "concat:a|b"),  # a file of that name, never FFmpeg's protocol
    }
    out = io.StringIO()
    csv.writer(out).writerows([["path"], *[[p] for p in given_to_read]])
    write(folder, out.getvalue())
    monkeypatch.chdir(tmp_path)
    read = read_manifest("data/../data/labels/labels.csv", require_labels=False)
    assert dict(zip(given_to_read, read["uri"].to_pylist(), strict=True)) == given_to_read
    assert read["video_id"].to_pylist()[1] == "b/c.mp4"


def test_an_absolute_path_inside_the_folder_has_the_relative_id(tmp_path: Path) -> None:
    path = write(tmp_path, f"path\n{tmp_path}/a/b.mp4\n/other/b.mp4\n")
    assert read_manifest(path, require_labels=False)["video_id"].to_pylist() == ["a/b.mp4", "/other/b.mp4"]


# -------------------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,lable,split\na.mp4,x,train\n", ["line 1", "no column 'label'", "is 'lable' meant?", "columns here: path, lable, split"]),
        ("pth,label\na.mp4,x\n", ["line 1", "no column 'path'", "'pth'"]),
        ("path,label,spilt\na.mp4,x,train\n", ["line 1", "unknown column 'spilt'", "did you mean 'split'?"]),
        ("path,label,path\na.mp4,x,b.mp4\n", ["line 1", "two columns are named 'path'"]),
        ("path,video,label\na.mp4,b.mp4,x\n", ["line 1", "'path' and 'video' both name"]),
        ("path,label\n", ["no rows"]),
        ("path,label\n\n , \n", ["no rows"]),
        ("", ["empty", "path,label"]),
        ("\n \n", ["empty"]),
        ("path,label\na.mp4,x\nb.mp4\n", ["line 3", "1 fields, expected 2 (path,label)"]),
        ("path,label\na.mp4,x\nmy, video.mp4,y\n", ["line 3", "3 fields, expected 2", "quotes"]),
        ("path,label\na.mp4,x\nb.mp4,  \n", ["line 3", "the label is empty"]),
        ("path,label\na.mp4,x\n,y\n", ["line 3", "the path is empty"]),
        ("path,label,start,end\na.mp4,x,5,2.5\n", ["line 2", "the end, 2.5 s, is not after the start, 5 s"]),
        ("path,label,start,end\na.mp4,x,5,5\n", ["line 2", "not after"]),
        ("path,label,start\na.mp4,x,00:01:30\n", ["line 2", "start", "'00:01:30'", "seconds"]),
        ("path,label,end\na.mp4,x,-1\n", ["line 2", "'-1'", "from 0 on"]),
        ("path,label,end\na.mp4,x,inf\n", ["line 2", "'inf'"]),
        ('path,label\n"two\nlines.mp4",x\nb.mp4,x\nb.mp4,y\n', ["line 5", "video_id 'b.mp4'", "already in line 4"]),
        ("id,path,label\n1,a.mp4,x\n1,b.mp4,y\n", ["line 3", "video_id '1'", "already in line 2"]),
        ("id,path,label,start\n1,a.mp4,x,2\n2,./a.mp4,y,2.0\n", ["line 3", "the clip", "a.mp4#t=2'", "already in line 2"]),
        ('path,label\na.mp4,x\n"b.mp4,y\nc.mp4,z\n', ["line 3", "unexpected end of data", "quote"]),
        ('path,label\n"a" b.mp4,x\n', ["line 2", "quote"]),
        ("path,label\nsftp://host/a.mp4,x\n", ["line 2", "sftp:// is not read here", "http://"]),
        ("path,label\ngs://bucket/a.mp4,x\n", ["line 2", "gs:// is not read here", "s3://"]),
        ("path,label\na\0.mp4,x\n", ["line 2", "character"]),
    ],
)
def test_faults_of_a_csv_are_named_with_their_line(tmp_path: Path, text: str, says: list[str]) -> None:
    path = write(tmp_path, text)
    message = refused(path)
    assert path in message
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"path": "a.mp4", "label": "x"}\n{"path": "b.mp4" "label": "x"}\n', ["line 2", "not JSON", "column 18"]),
        ('{"path": "a.mp4", "label": "x"}\n["b.mp4", "x"]\n', ["line 2", 'expected an object {"path": ...}', '["b.mp4", "x"]']),
        ('{"path": "a.mp4", "label": "x"}\n\n{"path": "b.mp4"}\n', ["line 3", "no column 'label'"]),
        ('{"path": "a.mp4", "label": ["x", "y"]}\n', ["line 1", 'the label is ["x", "y"], expected text']),
        ('{"path": "a.mp4", "label": true}\n', ["line 1", "the label is true"]),
        ('{"path": "a.mp4", "label": 1.5}\n', ["line 1", "the label is 1.5"]),
        ('{"path": "a.mp4", "label": "x", "start": true}\n', ["line 1", "the start is True"]),
        ('{"path": "a.mp4", "label": "\\ud800"}\n', ["line 1", "character"]),
        ("\n", ["empty"]),
    ],
)
def test_faults_of_json_lines(tmp_path: Path, text: str, says: list[str]) -> None:
    path = write(tmp_path, text, "a.jsonl")
    message = refused(path)
    assert path in message
    assert all(part in message for part in says), message


def test_faults_of_parquet(tmp_path: Path) -> None:
    assert "cannot be read as Parquet" in refused(write(tmp_path, "path,label\n", "text.parquet"))
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"path": ["a.mp4", "b.mp4"], "label": ["x", None]}), file)
    assert f"{file}, row 2: the label is empty" in refused(str(file))
    parquet.write_table(pa.table({"path": ["a.mp4"], "lable": ["x"]}), file)
    assert f"{file}, schema: no column 'label'" in refused(str(file))
    parquet.write_table(pa.table({"path": pa.array([], pa.string()), "label": pa.array([], pa.string())}), file)
    assert "no rows" in refused(str(file))


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "path,label\na.mp4,x\nb.mp4,café\n".encode("latin-1")))
    assert "line 3: byte 0xe9 is not UTF-8" in message
    assert "line 1: byte 0xff" in refused(write(tmp_path, "path,label\n".encode("utf-16")))


def test_many_faults_come_at_once_but_not_too_many(tmp_path: Path) -> None:
    message = refused(write(tmp_path, "path,label\n" + "".join(f"{i}.mp4,\n" for i in range(40))))
    assert message.count("the label is empty") == 10
    assert "line 11:" in message
    assert "and 30 more" in message


def test_files_that_are_not_there_or_not_label_files(tmp_path: Path) -> None:
    write(tmp_path, "path,label\na.mp4,x\n")
    assert "no label file" in refused(str(tmp_path / "label.csv"))
    assert "did you mean 'labels.csv'?" in refused(str(tmp_path / "label.csv"))
    assert "no label file" in refused(str(tmp_path / "no" / "folder.csv"))
    assert ".csv, .tsv, .jsonl" in refused(write(tmp_path, "x", "clip.mp4"))


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be entered; root may enter every one, so root steps back."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_what_may_not_be_read(closed_folder: Path) -> None:
    for read in (lambda p: read_manifest(p, require_labels=True), list_videos):
        with pytest.raises(ManifestError, match=r"labels\.csv: cannot be read: Permission denied"):
            read(f"{closed_folder}/labels.csv")


# ------------------------------------------------------------------------------------------------------------------------ folders


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "left/b.mp4", "left/deep/a.mp4", "turn right/c.mp4", "README.md", ".cache/d.mp4", "left/.hidden")
    read = rows(read_manifest(str(tmp_path), require_labels=True))
    assert [(r["video_id"], r["label"], r["split"]) for r in read] == [
        ("left/b.mp4", "left", None),
        ("left/deep/a.mp4", "left", None),
        ("turn right/c.mp4", "turn right", None),
    ]
    assert read[0]["uri"] == str(tmp_path / "left/b.mp4")


def test_class_folders_in_split_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/left/a.mp4", "val/left/b.mp4", "val/c.mp4")
    read = rows(read_manifest(str(tmp_path), require_labels=True))
    assert [(r["video_id"], r["label"], r["split"]) for r in read] == [
        ("train/left/a.mp4", "left", "train"),
        ("val/left/b.mp4", "left", "val"),
    ]


def test_class_folders_and_their_label_file_say_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "left/a.mp4", "right/b.mp4")
    path = write(tmp_path, "label,path\nright,right/b.mp4\nleft,left/a.mp4\n")
    assert table_digest(read_manifest(str(tmp_path), require_labels=True)) == table_digest(read_manifest(path, require_labels=True))


def test_a_folder_without_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    assert "no files in class folders" in refused(str(tmp_path))
    assert read_manifest(str(tmp_path), require_labels=False).num_rows == 1


def test_every_file_below_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/z.mkv", "a/deep/notes.txt", ".hidden.mp4", ".git/x.mp4")
    (tmp_path / "dead.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    read = rows(list_videos(str(tmp_path)))
    assert [r["video_id"] for r in read] == ["a/deep/notes.txt", "a/z.mkv", "b.mp4", "dead.mp4"]
    assert all(r["label"] is None and Path(r["uri"]).is_absolute() for r in read)


def test_a_linked_folder_is_walked(tmp_path: Path) -> None:
    touch(tmp_path, "disk/left/a.mp4", "data/readme")
    (tmp_path / "data" / "left").symlink_to(tmp_path / "disk" / "left")
    assert read_manifest(str(tmp_path / "data"), require_labels=True)["label"].to_pylist() == ["left"]


def test_a_name_that_is_no_text_is_still_listed(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 1.mp4"))).touch()
    (row,) = rows(list_videos(str(tmp_path)))
    assert row["uri"] == f"{tmp_path.as_uri()}/caf%E9%201.mp4"
    assert row["video_id"] == "caf%E9%201.mp4"


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "v/a.mp4", "v/b.avi", "v/deep/c.mp4", "w/d.mp4", "[x].mp4")
    monkeypatch.chdir(tmp_path)
    assert list_videos("v/*.mp4")["video_id"].to_pylist() == ["a.mp4"]
    assert list_videos("*/*.mp4")["video_id"].to_pylist() == ["v/a.mp4", "w/d.mp4"]
    assert list_videos("v/**/*.mp4")["video_id"].to_pylist() == ["a.mp4", "deep/c.mp4"]
    assert list_videos(f"{tmp_path}/v/*")["video_id"].to_pylist() == ["a.mp4", "b.avi", "deep/c.mp4"]
    assert list_videos("[x].mp4")["uri"].to_pylist() == [str(tmp_path / "[x].mp4")]  # a file of that name comes first
    with pytest.raises(ManifestError, match="no files match"):
        list_videos("v/*.webm")


def test_one_video_one_uri_one_label_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "v/a.mp4")
    monkeypatch.chdir(tmp_path / "v")
    assert rows(list_videos("a.mp4"))[0]["uri"] == str(tmp_path / "v/a.mp4")
    assert rows(list_videos("../v/a.mp4"))[0] == rows(list_videos("a.mp4"))[0]
    assert rows(list_videos("s3://bucket/a.mp4"))[0]["uri"] == "s3://bucket/a.mp4"
    assert list_videos(write(tmp_path, "path\nx.mp4\ny.mp4\n")).num_rows == 2


@pytest.mark.parametrize(
    ("path", "says"), [("clps", "did you mean 'clips'?"), ("clips", "no files here"), ("concat://x", "concat:// is not read here")]
)
def test_nothing_to_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, says: str) -> None:
    (tmp_path / "clips").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError) as caught:
        list_videos(path)
    assert says in str(caught.value)


# ------------------------------------------------------------------------------------------------------------------------- digest


def test_the_digest_changes_with_every_column_but_the_place(tmp_path: Path) -> None:
    row = dict(zip(NAMES, ["a", "/x/a.mp4", 1.0, 2.0, "left", "g", "train", "0"], strict=True))

    def digest(**changes: Any) -> str:
        return table_digest(pa.Table.from_pylist([row | changes], schema=MANIFEST_SCHEMA))

    changed = [digest(**{name: (3.5 if name.endswith("_s") else "other")}) for name in NAMES if name not in ("uri", "fold")]
    assert len({digest(), *changed, digest(group=None), digest(group="")}) == len(changed) + 3
    assert digest(uri="/y/a.mp4", fold="1") == digest()
    text = '["video_id", "start_s", "end_s", "label", "group", "split"]\n["a", 1.0, 2.0, "left", "g", "train"]'
    assert digest() == hashlib.sha256(text.encode()).hexdigest()  # runs of other releases must stay comparable


def test_real_label_files(shared_data: Path) -> None:
    gestures = read_manifest(str(shared_data / "gestures" / "labels.csv"), require_labels=True)
    frame = pd.read_csv(shared_data / "gestures" / "labels.csv")
    assert gestures["label"].to_pylist() == frame["label"].tolist()
    assert all(Path(uri).is_file() for uri in gestures["uri"].to_pylist())
    fights = read_manifest(str(shared_data / "fights" / "labels.csv"), require_labels=True)
    assert fights.num_rows == 239
    assert len(set(fights["group"].to_pylist())) == pd.read_csv(shared_data / "fights" / "labels.csv")["group"].nunique()
    zoo = list_videos(str(shared_data / "zoo"))["uri"].to_pylist()
    assert sorted(zoo) == sorted(str(p) for p in (shared_data / "zoo").resolve().rglob("*") if p.is_file())


# --------------------------------------------------------------------------------------------------------------- tasks with more


def test_several_labels_by_bars_and_as_a_list(tmp_path: Path) -> None:
    bars = read_manifest(write(tmp_path, "path,label\na.mp4,run | jump|run\nb.mp4,\n"), require_labels=True, task="multi_label")
    assert bars["label"].to_pylist() == ["run|jump", None]
    (tmp_path / "a.jsonl").write_text('{"path": "a.mp4", "label": ["run", "jump"]}\n{"path": "b.mp4", "label": []}\n')
    lists = read_manifest(str(tmp_path / "a.jsonl"), require_labels=True, task="multi_label")
    assert lists == bars
    assert read_manifest(str(tmp_path / "a.jsonl"), require_labels=False)["label"].to_pylist() == ["run|jump", None]
    with pytest.raises(ManifestError, match=r'line 1: the label is \["run", "jump"\], expected text'):
        read_manifest(str(tmp_path / "a.jsonl"), require_labels=True)


def test_a_value_is_a_finite_number_of_its_own_column(tmp_path: Path) -> None:
    path = write(tmp_path, "path,value\na.mp4,-1.5\nb.mp4,3e2\n")
    table = read_manifest(path, require_labels=True, task="value")
    assert table["value"].to_pylist() == [-1.5, 300.0]
    other = read_manifest(write(tmp_path, "path,value\na.mp4,-1.5\nb.mp4,3e1\n", "b.csv"), require_labels=True, task="value")
    assert table_digest(table) != table_digest(other)
    for text, words in (("", "is empty"), ("high", "expected a number"), ("inf", "expected a number")):
        with pytest.raises(ManifestError, match=f"line 2: the value {words}|line 2: the value is '{text}', {words}"):
            read_manifest(write(tmp_path, f"path,value\na.mp4,{text}\nb.mp4,1\n", "c.csv"), require_labels=True, task="value")
    with pytest.raises(ManifestError, match=r"no column 'value'; is 'valeu' meant\? \(columns here: path, valeu\)"):
        read_manifest(write(tmp_path, "path,valeu\na.mp4,1\n", "d.csv"), require_labels=True, task="value")
    with pytest.raises(ManifestError, match=r"folders name labels; the task 'value' needs a label file with the column 'value'"):
        read_manifest(str(tmp_path), require_labels=True, task="value")


def test_a_column_called_value_is_another_task_s_own_affair(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,value\na.mp4,x,high\n")
    assert read_manifest(path, require_labels=True).schema.equals(MANIFEST_SCHEMA)


def test_segments_are_sorted_parts_of_the_file(tmp_path: Path) -> None:
    cells = ('[[2, 3.5, "shut"], [0, 1, "open"]]', '[{"start_s": 0, "end_s": 1, "label": "open"}]', "[]")
    rows = [{"path": f"{i}.mp4", "segments": cell} for i, cell in enumerate((*cells[:2], json.loads(cells[2])))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened, shut = {"start_s": 0.0, "end_s": 1.0, "label": "open"}, {"start_s": 2.0, "end_s": 3.5, "label": "shut"}
    table = read_manifest(str(tmp_path / "a.jsonl"), require_labels=True, task="dense")
    assert table["segments"].to_pylist() == [[opened, shut], [opened], []]
    for cell, words in (
        ("", "expected"),
        ("[[0, 1]]", "expected"),
        ('[[1, 0, "x"]]', "has no length"),
        ('[[0, 2, "x"], [1, 3, "y"]]', "starts before 2 s"),
    ):
        (tmp_path / "b.jsonl").write_text(json.dumps({"path": "a.mp4", "segments": cell}) + "\n")
        with pytest.raises(ManifestError, match=words):
            read_manifest(str(tmp_path / "b.jsonl"), require_labels=True, task="dense")
