"""The annotation files of captioning data sets -> records like those of a label file; manifest.py says what they mean.

======================  ==================================================================================================
MSVD                    ``.tsv`` without a header, ``video_id<TAB>caption``; or the official ``.csv`` (VideoID, Start, End,
                        Language, Description), of which the English captions are read
MSR-VTT                 ``.json`` with ``videos`` and ``sentences``
VATEX                   ``.json``, a list with ``videoID`` and ``enCap``
COCO captions           ``.json`` with ``images`` and ``annotations``
a folder                those of its files whose names tell a split: ``captions_train.tsv``, ``vatex_validation_v1.0.json``
======================  ==================================================================================================

Videos are looked for by their names, ``video7.mp4`` for ``video7``, in ``videos/`` beside the file, then beside it. Of MSVD's,
``clips.csv`` beside the file (path, video_id) may say which there are. ``youtube_mapping.txt`` gives the official ``.csv`` the standard
splits.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.label_files import READERS, Record, read_text

_CLIPS = "clips.csv"
_OFFICIAL = {"VideoID", "Start", "End", "Language", "Description"}
_SPLITS = {"train": r"train(ing)?", "val": r"val(id(ation|ate)?)?", "test": r"test(ing)?"}
_MSVD_TRAIN, _MSVD_VAL = 1200, 1300  # the last numbers of the standard splits


def is_annotations(path: Path) -> bool:
    """Whether this is a folder or a file of one of these forms, rather than a label file."""
    if path.is_dir():
        return bool(_of_splits(path))
    if path.suffix.lower() == ".json":
        return True
    if path.suffix.lower() not in (".tsv", ".csv"):
        return False
    first = read_text(path).split("\n", 1)[0].rstrip("\r")
    if path.suffix.lower() == ".csv":
        return set(first.split(",")) >= _OFFICIAL
    names = first.split("\t")
    return len(names) == 2 and not {"path", "uri", "video", "caption", "captions"} & {name.strip().lower() for name in names}


def read_annotations(path: Path) -> Iterator[Record]:
    """Records with ``path``, ``video_id``, ``caption`` and, where it is known, ``split``. Raises ManifestError with file and place."""
    if path.is_dir():
        for file, split in _of_splits(path):
            for record in _read(file):
                yield Record(where=f"{file.name}, {record.where}", columns_at=record.columns_at, values={**record.values, "split": split})
    else:
        records = list(_read(path))
        if not records and path.with_name(_CLIPS).is_file():
            raise ManifestError(f"{path}, line 1: neither this caption nor any other of the file is of a clip in {_CLIPS}")
        yield from records


def _of_splits(folder: Path) -> list[tuple[Path, str]]:
    """Annotation files whose names tell a split."""
    found = []
    for file in sorted(folder.glob("*")):
        for split, words in _SPLITS.items():
            if file.suffix.lower() in (".json", ".tsv") and re.search(rf"(?<![a-z]){words}(?![a-z])", file.stem.lower()):
                found.append((file, split))
    return found


def _read(file: Path) -> Iterator[Record]:
    videos = _Videos(file.parent)
    match file.suffix.lower():
        case ".json":
            yield from _read_json(file, videos)
        case ".tsv":
            yield from _read_msvd(file, videos)
        case _:
            yield from _read_official_msvd(file, videos)


class _Videos:
    """Video files by the names that annotations give them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def listed(self) -> dict[str, str] | None:
        """What ``clips.csv`` says; None without one."""
        clips = self.folder / _CLIPS
        if not clips.is_file():
            return None
        rows = [record.values for record in READERS[".csv"](clips)]
        if not rows or not {"path", "video_id"} <= set(rows[0]):
            raise ManifestError(f"{clips}, line 1: expected the columns path and video_id beside captions of MSVD")
        return {row["video_id"]: row["path"] for row in rows}

    @cached_property
    def _files(self) -> dict[str, str]:
        folders = [folder for folder in (self.folder, self.folder / "videos") if folder.is_dir()]
        return {file.stem: str(file.relative_to(self.folder)) for folder in folders for file in sorted(folder.iterdir()) if file.is_file()}

    def path(self, name: str) -> str:
        """The file, or where it should be: what is not there is found out by decoding."""
        stem = name if name in self._files else Path(name).stem
        return self._files.get(stem, f"videos/{name if Path(name).suffix else name + '.mp4'}")


def _record(where: str, path: str, video_id: str, caption: Any, **more: Any) -> Record:
    return Record(where=where, columns_at=where, values={"path": path, "video_id": video_id, "caption": caption, **more})


def _read_msvd(file: Path, videos: _Videos) -> Iterator[Record]:
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != 2:
            raise ManifestError(f"{file}, line {number}: {len(fields)} fields, expected video_id and caption with a tab between them")
        video_id, caption = fields
        if videos.listed is None or video_id in videos.listed:
            path = videos.path(video_id) if videos.listed is None else videos.listed[video_id]
            yield _record(f"line {number}", path, video_id, caption)


def _read_official_msvd(file: Path, videos: _Videos) -> Iterator[Record]:
    mapping = file.with_name("youtube_mapping.txt")
    numbers = dict(re.findall(r"^(\S+)\s+vid(\d+)\s*$", read_text(mapping), flags=re.MULTILINE)) if mapping.is_file() else {}
    for record in READERS[".csv"](file):
        row = record.values
        if row["Language"] != "English":
            continue
        name = f"{row['VideoID']}_{row['Start']}_{row['End']}"
        if numbers and name not in numbers:
            raise ManifestError(f"{file}, {record.where}: {name} is not in {mapping.name}")
        split = _standard_split(int(numbers[name])) if numbers else None
        yield _record(record.where, videos.path(name), name, row["Description"], split=split)


def _standard_split(number: int) -> str:
    return "train" if number <= _MSVD_TRAIN else "val" if number <= _MSVD_VAL else "test"


def _read_json(file: Path, videos: _Videos) -> Iterator[Record]:
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ManifestError(f"{file}, line {error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    match content:
        case {"videos": list(entries), "sentences": list(sentences)}:
            yield from _read_msrvtt(file, entries, sentences, videos)
        case {"images": list(entries), "annotations": list(sentences)}:
            yield from _read_coco(file, entries, sentences, videos)
        case [{"videoID": _}, *_]:
            yield from _read_vatex(file, content, videos)
        case _:
            raise ManifestError(
                f"{file}, line 1: not the JSON of MSR-VTT (videos, sentences), VATEX (a list with videoID, enCap) or COCO captions "
                "(images, annotations)"
            )


def _require(file: Path, list_name: str, entries: list[Any], *keys: str) -> None:
    """Raises ManifestError for the first entry that is no object with these keys."""
    for i, entry in enumerate(entries):
        lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if lacking:
            raise ManifestError(f"{file}, {list_name}[{i}]: expected an object with {', '.join(keys)}; it lacks {', '.join(lacking)}")


def _read_vatex(file: Path, entries: list[Any], videos: _Videos) -> Iterator[Record]:
    _require(file, "", entries, "videoID", "enCap")
    for i, clip in enumerate(entries):
        if not isinstance(clip["enCap"], list):
            raise ManifestError(f"{file}, [{i}]: enCap is {clip['enCap']!r}, expected a list of captions")
        yield _record(f"[{i}]", videos.path(clip["videoID"]), clip["videoID"], clip["enCap"])


def _read_msrvtt(file: Path, entries: list[Any], sentences: list[Any], videos: _Videos) -> Iterator[Record]:
    _require(file, "videos", entries, "video_id")
    _require(file, "sentences", sentences, "video_id", "caption")
    splits = {video["video_id"]: video.get("split") for video in entries}
    said = Counter(sentence["video_id"] for sentence in sentences)
    for i, video in enumerate(entries):
        if not said[video["video_id"]]:
            raise ManifestError(f"{file}, videos[{i}]: {video['video_id']} has no sentence")
    for i, sentence in enumerate(sentences):
        name = sentence["video_id"]
        if name not in splits:
            raise ManifestError(f"{file}, sentences[{i}]: its video '{name}' is not among the videos")
        yield _record(f"sentences[{i}]", videos.path(name), name, sentence["caption"], split=splits[name])


def _read_coco(file: Path, entries: list[Any], sentences: list[Any], videos: _Videos) -> Iterator[Record]:
    _require(file, "images", entries, "id")
    _require(file, "annotations", sentences, "image_id", "caption")
    names = {entry["id"]: entry.get("file_name") or str(entry["id"]) for entry in entries}
    for i, sentence in enumerate(sentences):
        if sentence["image_id"] not in names:
            raise ManifestError(f"{file}, annotations[{i}]: its image '{sentence['image_id']}' is not among the images")
        yield _record(f"annotations[{i}]", videos.path(names[sentence["image_id"]]), str(sentence["image_id"]), sentence["caption"])
