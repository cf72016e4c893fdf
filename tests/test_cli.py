"""The command line as a user meets it: what it prints, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.dataset as ds
import pytest

from reelscribe.pipeline import cli
from reelscribe.pipeline.training.job import TrainingResult


class Ended(NamedTuple):
    status: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command in this process (a new one takes seconds to import torch), in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["reelscribe", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


VERBS = ["train", "tune", "submit", "submitted status", "submitted logs", "submitted stop", "compare", "evaluate", "label", "relabel"]
VERBS += ["job status", "predict", "demo", "doctor"]
VERBS += [f"registry {verb}" for verb in ("list", "show", "query", "promote", "rollback", "history", "compare", "diff")]
VERBS += [f"registry {verb}" for verb in ("lineage", "push", "pull", "rm")]


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(run: Run, verb: str) -> None:
    ended = run(*verb.split(), "--help")
    assert ended.status == 0
    assert f"Example: reelscribe {verb}" in ended.out


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "reelscribe", "--version"], capture_output=True, text=True, check=False)
    import reelscribe

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{reelscribe.__version__}\n", "")


def test_labels_equal_what_evaluate_and_predict_say(run: Run, trained: TrainingResult, drawn: Path, tmp_path: Path) -> None:
    store = ("--tracking-uri", trained.tracking_uri)
    evaluated = run("evaluate", "models:/tiny@champion", drawn / "manifest.csv", *store, "--json").json()
    labelled = run("label", "models:/tiny@champion", drawn / "manifest.csv", "--out", tmp_path / "out", *store, "--json").json()
    rows = {row["video_id"]: row for row in ds.dataset(tmp_path / "out" / "labels").to_table().to_pylist()}
    failed = {row["video_id"]: row for row in ds.dataset(tmp_path / "out" / "failures").to_table().to_pylist()}
    assert {i: (r["label"], r["confidence"]) for i, r in rows.items()} == {
        i: (p["label"], pytest.approx(p["confidence"], abs=1e-6)) for i, p in evaluated["predictions"].items()
    }
    assert {i: r["failure"] for i, r in failed.items()} == {f["video_id"]: f["failure"] for f in evaluated["failures"]}
    assert labelled["labelled"] == len(rows)
    assert labelled["failed"] == len(failed) > 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert run("job", "status", tmp_path / "out", "--json").json()["state"] == "done"
    [made] = run("registry", "lineage", "models:/tiny@champion", *store, "--json").json()
    [used] = [job for use in made["uses"] for job in use["jobs"] if job["job_id"] == labelled["job_id"]]
    assert (used["state"], used["labelled"], used["failed"]) == ("done", labelled["labelled"], labelled["failed"])
    some = sorted(rows)[:3]
    predicted = run("predict", trained.bundle.folder, *(rows[i]["uri"] for i in some), "--json").json()
    assert [p["label"] for p in predicted] == [rows[i]["label"] for i in some]
    threshold = trained.bundle.spec.threshold
    accepted = {i: threshold is not None and row["confidence"] >= threshold for i, row in rows.items()}
    assert {i: row["accepted"] for i, row in rows.items()} == accepted
    assert [p["accepted"] for p in predicted] == [accepted[i] for i in some]
    assert {(r["model_name"], r["model_version"], r["model_alias"]) for r in rows.values()} == {("tiny", "1", "champion")}


def test_predict_says_why_a_video_has_no_label(run: Run, trained: TrainingResult, tmp_path: Path) -> None:
    (tmp_path / "a b ö.mp4").write_text("not a video")
    ended = run("predict", trained.bundle.folder, tmp_path / "a b ö.mp4")
    assert ended.status == 0
    assert "not_a_video" in ended.out


def test_the_registry_answers(run: Run, trained: TrainingResult) -> None:
    store = ("--tracking-uri", trained.tracking_uri)
    assert ("tiny", {"champion": 1}) in [(m["name"], m["aliases"]) for m in run("registry", "list", *store, "--json").json()]
    shown = run("registry", "show", "models:/tiny@champion", *store)
    assert f"run       {trained.run_id} tiny FINISHED" in shown.out
    assert "tiny version 1" in shown.out
    assert "## Validation" in shown.out
    assert trained.run_id in shown.out
    hits = run("registry", "query", "metrics.top1 >= 0 and alias = 'champion' and params.model.recurrent = 'gru'", *store, "--json").json()
    assert [(hit["name"], hit["version"]) for hit in hits] == [("tiny", 1)]
    assert run("registry", "query", "metrics.top1 > 1", *store, "--json").json() == []
    (row,) = csv.DictReader(io.StringIO(run("registry", "query", "alias = 'champion' and name = 'tiny'", *store, "--csv").out))
    assert (row["version"], row["aliases"], float(row["metrics.top1"])) == ("1", "champion", hits[0]["metrics"]["top1"])
    assert (row["params.model.recurrent"], row["tags.reelscribe.task"]) == ("gru", "single_label")
    moved = run("registry", "promote", "models:/tiny/1", "--to", "live", *store)
    assert "models:/tiny@live: none -> version 1" in moved.out
    assert "already" in run("registry", "promote", "models:/tiny/1", "--to", "live", *store).out
    moves = run("registry", "history", "tiny", *store, "--json").json()
    assert (moves[0]["alias"], moves[0]["after"]) == ("live", 1)
    assert "models:/tiny@live: version 1 -> none" in run("registry", "rollback", "tiny", "--alias", "live", *store).out
    assert "0 labels better, 0 worse" in run("registry", "compare", "models:/tiny/1", "models:/tiny@champion", *store).out
    assert "labels: the same" in run("registry", "compare", "models:/tiny/1", "models:/tiny@champion", *store).out
    assert "the same labels" in run("registry", "diff", "models:/tiny/1", "models:/tiny@champion", *store).out
    (chain,) = run("registry", "lineage", "models:/tiny@champion", *store, "--json").json()
    assert (chain["run_id"], chain["data"][0]["digest"]) == (trained.run_id, trained.bundle.spec.data_digest)
    assert "would remove   models:/tiny/1 @champion" in run("registry", "rm", "models:/tiny/1", "--dry-run", *store).out


def test_a_gate_that_refuses_is_status_1(run: Run, trained: TrainingResult, drawn: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text(f"data: {{manifest: {drawn / 'manifest.csv'}, min_clips: 1000}}\ndecode: {{workers: 1}}\n")
    ended = run("registry", "promote", "models:/tiny/1", "--to", "judged", "--gate", gate, "--tracking-uri", trained.tracking_uri)
    assert ended.status == 1, ended
    assert "the gate refuses: clips" in ended.out


def test_shuffling_frames_is_the_same_for_the_same_seed(run: Run, trained: TrainingResult, drawn: Path) -> None:
    arguments = ("evaluate", trained.bundle.folder, drawn / "manifest.csv", "--split", "test", "--json", "--shuffle-frames")
    first, again, other = (run(*arguments, seed).json()["predictions"] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_wrong_use_is_one_clear_message_and_status_2(run: Run, trained: TrainingResult, drawn: Path, tmp_path: Path) -> None:
    store = ("--tracking-uri", trained.tracking_uri)
    model, manifest = trained.bundle.folder, drawn / "manifest.csv"
    (tmp_path / "no_columns.csv").write_text("clip,what\na.mp4,left\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "holiday.txt").write_text("mine")
    assert run("label", model, drawn / "new", "--out", tmp_path / "job").status == 0
    (other := tmp_path / "other").mkdir()
    cases: list[tuple[tuple[object, ...], str]] = [
        (("train", "demo", "training.epohcs=3"), "unknown key 'training.epohcs'; did you mean 'epochs'?"),
        (("train", "gestuers"), "did you mean 'gestures'?"),
        (("train", "demo", "data.manifest=nowhere.csv"), "nowhere.csv"),
        (("train", "demo", "data.manifest=no_columns.csv"), "no_columns.csv"),
        (("train", "demo", "model.encoder=resnet81", f"data.manifest={manifest}", f"output={tmp_path / 'r'}"), "resnet18"),
        (("train", "demo", "--folds", "1"), "one fold holds everything out"),
        (("train", "demo", f"data.manifest={manifest}", f"output={tmp_path / 'r'}", "--folds", "99"), "cannot make"),
        (("train", "demo", "--seeds", "1,x"), "--seeds 1,x: expected different whole numbers"),
        (("compare", "demo", "model.recurrent=lstm"), "nothing to compare"),
        (("compare", "demo", "model.recurrent=lstm,grü"), "'model.recurrent'"),
        (("compare", "demo", "model.recurent=lstm,gru"), "did you mean 'recurrent'?"),
        (("compare", "demo", "model.recurrent=lstm,gru", "--seeds", "1,1"), "--seeds 1,1"),
        (("evaluate", model, manifest, "--split", "tset"), "did you mean 'test'?"),
        (("evaluate", "models:/tyni@champion", manifest, *store), "did you mean 'tiny'?"),
        (("evaluate", "models:/tiny@champoin", manifest, *store), "did you mean 'champion'?"),
        (("evaluate", "models:/tiny/99", manifest, *store), "99"),
        (("evaluate", "runs:/0123456789abcdef0123456789abcdef", manifest, *store), "no run"),
        (("predict", other, manifest), "holds no model"),
        (("predict", model, tmp_path / "nothing.mp4"), "nothing.mp4"),
        (("label", model, drawn / "nothing", "--out", tmp_path / "x"), "nothing"),
        (("label", model, drawn / "new", "--out", tmp_path / "used"), "used"),
        (("label", "models:/tiny@champion", drawn / "new", "--out", tmp_path / "job", *store), "model_version"),
        (("registry", "query", "metrics.top1 >> 3", *store), "metrics.top1 >> 3"),
        (("registry", "query", "--json", "--csv", *store), "choose one"),
        (("registry", "rm", "models:/tiny/1", *store), "in use: it is @champion"),
        (("registry", "lineage", "job:nothing", *store), "no labelling job 'nothing'"),
        (("registry", "promote", "models:/tiny/1", "--gate", tmp_path / "no.yaml", *store), "no.yaml"),
        (("registry", "promote", "models:/tiny/1", "--dry-run", *store), "--dry-run is for --gate"),
        (("registry", "list", "--tracking-uri", "http://127.0.0.1:9"), "127.0.0.1:9"),
        (("registry", "list"), "no tracking store"),
    ]
    for arguments, words in cases:
        ended = run(*arguments)
        assert ended.status == 2, (arguments, ended)
        assert words in ended.err, (arguments, ended)
        assert "Traceback" not in ended.err
        assert not ended.out
