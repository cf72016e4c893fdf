"""Checkpoints that can be trusted: whole or none, in a folder or on a real S3 server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import s3_server
from reelscribe.pipeline.config import CheckpointConfig
from reelscribe.pipeline.errors import OutputConflictError, TrainingError, UsageError
from reelscribe.pipeline.training.checkpoints import FACTS_FILE, STATE_FILE, Checkpoints, differences

STATE = {"weights": {"a": torch.arange(5.0)}, "numbers": [1, 2.5, None, "text", True]}


def checkpoints(root: str | Path, **facts: Any) -> Checkpoints:
    keep = facts.pop("keep", 2)
    return Checkpoints(root=str(root), **{"config": CheckpointConfig(keep=keep), "recipe": {"seed": 0}, "data_digest": "d"} | facts)


def fill(kept: Checkpoints, monitored: list[float | None], monitor: str = "val_loss") -> None:
    for epoch, value in enumerate(monitored, start=1):
        kept.save(STATE | {"epoch": epoch}, epoch=epoch, step=0, monitor=monitor, monitored=value)


def names(root: Path) -> list[str]:
    return sorted(folder.name for folder in root.iterdir())


def check_round_trip(kept: Checkpoints) -> None:
    assert kept.newest() is None
    kept.check_writable()
    fill(kept, [0.5, 0.2, 0.9, None])
    newest = kept.newest()
    assert newest is not None
    assert newest.epoch == 4
    state = kept.load(newest)
    assert torch.equal(state["weights"]["a"], STATE["weights"]["a"])  # type: ignore[index,call-overload]
    assert (state["numbers"], state["epoch"]) == (STATE["numbers"], 4)


def test_in_a_folder(tmp_path: Path) -> None:
    check_round_trip(checkpoints(tmp_path / "not there yet"))


@pytest.mark.slow
def test_behind_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server.serve(tmp_path / "words") as address:
        for name, value in {**s3_server.ENVIRONMENT, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        store = s3_server.client(address)
        store.create_dir("models")
        check_round_trip(checkpoints("s3://models/runs/ä 1"))
        with store.open_output_stream(f"models/runs/ä 1/epoch-0004-step-000000/{STATE_FILE}") as file:
            file.write(b"garbage")
        newest = checkpoints("s3://models/runs/ä 1").newest()
        assert newest is not None
        assert newest.epoch == 3
        with pytest.raises(UsageError, match=r"cannot be written to s3://no-such-bucket/x: .*training\.checkpoint\.folder"):
            checkpoints("s3://no-such-bucket/x").check_writable()
        with pytest.raises(TrainingError, match="cannot write a checkpoint to s3://no-such-bucket/x"):
            fill(checkpoints("s3://no-such-bucket/x"), [None])


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    fill(checkpoints(tmp_path / "loss"), [0.5, 0.2, 0.9, None, 0.3])
    assert names(tmp_path / "loss") == [f"epoch-000{epoch}-step-000000" for epoch in (2, 4, 5)]
    fill(checkpoints(tmp_path / "top1", keep=1), [0.5, 0.2, 0.9, None, 0.3], "val_top1")
    assert names(tmp_path / "top1") == [f"epoch-000{epoch}-step-000000" for epoch in (3, 5)]


@pytest.mark.parametrize(
    ("file", "content"), [(STATE_FILE, b"x"), (STATE_FILE, None), (FACTS_FILE, b"{"), (FACTS_FILE, b""), (FACTS_FILE, None)]
)
def test_one_that_was_cut_off_is_none(tmp_path: Path, file: str, content: bytes | None) -> None:
    kept = checkpoints(tmp_path)
    fill(kept, [None, None])
    damaged = tmp_path / "epoch-0002-step-000000" / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    newest = kept.newest()
    assert newest is not None
    assert newest.epoch == 1
    fill(kept, [None, None])  # and is written again
    assert kept.newest() == kept.newest()
    assert len(names(tmp_path)) == 2


def test_what_is_not_a_checkpoint_stays(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    fill(checkpoints(tmp_path), [None, None, None])
    assert "notes" in names(tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path)
    kept.save({"weights": Path("/tmp")}, epoch=1, step=0, monitor="val_loss")  # any class will do
    newest = kept.newest()
    assert newest is not None
    with pytest.raises(UsageError, match="holds more than tensors, numbers and text: not opened"):
        kept.load(newest)


def test_one_of_another_recipe_or_of_other_clips_is_refused(tmp_path: Path) -> None:
    fill(checkpoints(tmp_path, recipe={"seed": 0, "model": {"hidden_size": 16, "layers": 1}}), [None])
    for facts, words in (
        ({"recipe": {"seed": 0, "model": {"hidden_size": 32, "layers": 1}}}, r"model\.hidden_size was 16, now it is 32; give"),
        ({"recipe": {"seed": 0, "model": {"hidden_size": 16, "layers": 1}}, "data_digest": "e"}, "other clips, labels or frames"),
    ):
        other = checkpoints(tmp_path, **facts)
        found = other.newest()
        assert found is not None
        with pytest.raises(OutputConflictError, match=words) as caught:
            other.require_same(found)
        assert caught.value.exit_status == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"checkpoints cannot be written to .*file/below: .*training\.checkpoint\.folder"):
        checkpoints(tmp_path / "file" / "below").check_writable()


def test_differences_in_words() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == [
        "a.c was 2, now it is 4",
        "d was 3, now it is None",
        "e was None, now it is 5",
    ]
