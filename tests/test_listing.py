"""What a labelling job is given beside files and folders; object stores are in labeling/test_object_store.py."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from reelscribe.pipeline.errors import ManifestError
from reelscribe.pipeline.listing import list_input


def test_lines_are_paths_and_uris_to_the_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = list_input("-", lines=io.StringIO("a b.mp4\n\n/videos/c.mp4\r\ns3://bucket/d%20.mp4\n"))
    assert table["video_id"].to_pylist() == ["a b.mp4", "/videos/c.mp4", "s3://bucket/d%20.mp4"]
    assert table["uri"].to_pylist() == [str(tmp_path / "a b.mp4"), "/videos/c.mp4", "s3://bucket/d%20.mp4"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no lines"), ("\n \n", "no lines"), ("a.mp4\nconcat:x|y://\nconcat://x\n", r"standard input, line 3: 'concat://x'")],
)
def test_lines_that_cannot_be_used_are_named(text: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        list_input("-", lines=io.StringIO(text))


def test_a_store_that_holds_nothing_there(s3: str) -> None:
    assert s3
    with pytest.raises(ManifestError, match=r"cannot be listed: .*does not exist"):
        list_input("s3://no-such-bucket-here/prefix/")


def test_anything_else_is_listed_as_ever(drawn: Path) -> None:
    assert list_input(str(drawn / "new")).num_rows == len([file for file in (drawn / "new").iterdir() if file.is_file()])
