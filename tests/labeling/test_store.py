"""The commit protocol, without decoding: whatever stops it when, each row ends in one table, once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelscribe.pipeline.errors import ManifestError, OutputConflictError, ReelScribeError
from reelscribe.pipeline.labeling.folder import TEMPORARY_FOLDER, LocalFolder
from reelscribe.pipeline.labeling.record import JobRecord, differences
from reelscribe.pipeline.labeling.stages import Failed, Labelled, Outcome, Video
from reelscribe.pipeline.labeling.store import Plan, ShardStore, cut, open_store, read_failures, read_job, read_labels

MODEL = {"model_name": "m", "model_version": "1", "model_alias": None, "run_id": None, "weights_digest": "ab"}


def record(shard_size: int = 3, **fingerprint: object) -> JobRecord:
    return JobRecord(job_id="job", state="running", created=datetime.now(UTC), fingerprint=fingerprint, model=MODEL, shard_size=shard_size)


def rows(names: Sequence[str], **columns: list[float | None]) -> pa.Table:
    none = pa.nulls(len(names), pa.float64())
    return pa.table(
        {
            "video_id": pa.array(names, pa.string()),
            "uri": pa.array([f"/videos/{name}.mp4" for name in names], pa.string()),
            "start_s": pa.array(columns["start_s"], pa.float64()) if "start_s" in columns else none,
            "end_s": pa.array(columns["end_s"], pa.float64()) if "end_s" in columns else none,
            "label": pa.nulls(len(names), pa.string()),
        }
    )


def outcome(video: Video) -> Outcome:
    """Every third row fails."""
    failed = Failed(failure="truncated", cause=f"cut {video.video_id}", advice="", retryable=False)
    labelled = Labelled(
        label=f"label of {video.video_id}",
        confidence=0.5,
        top_k=(),
        frame_index=(1,),
        frame_time_s=(0.5,),
        reader="pyav",
        content_digest=video.video_id,
        duration_s=2.0,
    )
    return Outcome(video=video, result=failed if video.position % 3 == 2 else labelled, unix_time_s=0.0)


def work(store: ShardStore, videos: pa.Table, job: JobRecord) -> Plan:
    """What the job does, with outcomes out of order inside each shard."""
    job = store.begin(job)
    plan = store.plan(videos, job)
    done = store.committed()
    for shard in plan.shards:
        if shard.number not in done:
            store.commit(plan, shard, [outcome(video) for video in reversed(list(plan.videos([shard])))], job.trace())
    return plan


def ids(out: Path) -> tuple[list[str], list[str]]:
    return read_labels(out)["video_id"].to_pylist(), read_failures(out)["video_id"].to_pylist()


NAMES = [f"v{i:02}" for i in range(11)]
EXPECTED = ([n for i, n in enumerate(NAMES) if i % 3 != 2], [n for i, n in enumerate(NAMES) if i % 3 == 2])


def test_every_row_ends_in_one_table_in_the_order_of_the_input(tmp_path: Path) -> None:
    with open_store(tmp_path / "out") as store:
        plan = work(store, rows(NAMES), record())
    assert [(s.start, s.stop) for s in plan.shards] == [(0, 3), (3, 6), (6, 9), (9, 11)]
    assert ids(tmp_path / "out") == EXPECTED
    # a plain reader of the folders sees the same
    assert pq.read_table(tmp_path / "out" / "labels")["video_id"].to_pylist() == EXPECTED[0]
    assert pq.read_table(tmp_path / "out" / "failures")["video_id"].to_pylist() == EXPECTED[1]


class _FailingFolder(LocalFolder):
    """Stops like a killed process at one of the writes: before it, in the middle of it, or right after it."""

    def __init__(self, root: Path, *, at: int, moment: str) -> None:
        super().__init__(root)
        self.left = at
        self.moment = moment

    def put(self, name: str, data: bytes) -> None:
        self.left -= 1
        if self.left >= 0:
            super().put(name, data)
            return
        if self.moment == "middle":
            temporary = Path(self.base) / TEMPORARY_FOLDER / name.replace("/", "-")
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data[: len(data) // 2])
        if self.moment == "after":
            super().put(name, data)
        raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["before", "middle", "after"])
@pytest.mark.parametrize("at", range(14))  # job.json, inputs, and three files for each of four shards
def test_stopped_at_any_write_and_started_again_it_ends_like_an_undisturbed_job(tmp_path: Path, at: int, moment: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), open_store(out):
        work(ShardStore(_FailingFolder(out, at=at, moment=moment)), rows(NAMES), record())
    seen = [table["video_id"].to_pylist() for table in (read_labels(out), read_failures(out))]
    whole = len(seen[0]) + len(seen[1])
    assert whole % 3 == 0 or whole == len(NAMES)  # only whole shards
    with open_store(out) as store:
        work(store, rows(NAMES), record())
    assert ids(out) == EXPECTED
    assert pq.read_table(out / "labels")["video_id"].to_pylist() == EXPECTED[0]
    assert not list((out / TEMPORARY_FOLDER).iterdir())


@pytest.mark.parametrize("folder", ["labels", "failures"])
@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_committed_shard_whose_files_are_not_as_marked_is_done_again(tmp_path: Path, folder: str, damage: str) -> None:
    with open_store(tmp_path) as store:
        work(store, rows(NAMES), record())
    part = tmp_path / folder / "part-00001.parquet"
    part.unlink() if damage == "removed" else part.write_bytes(part.read_bytes()[:-40])
    assert len(read_labels(tmp_path)) == len(EXPECTED[0]) - 2
    with open_store(tmp_path) as store:
        assert sorted(store.committed()) == [0, 2, 3]
        work(store, rows(NAMES), record())
    assert ids(tmp_path) == EXPECTED


def test_rows_that_the_input_gains_become_new_shards(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        work(store, rows(NAMES[1::2]), record())
    first = (tmp_path / "labels" / "part-00000.parquet").read_bytes()
    with open_store(tmp_path) as store:
        plan = work(store, rows(NAMES), record())  # the new ones lie between the old ones
        assert plan.inputs["video_id"].to_pylist() == NAMES[1::2] + NAMES[::2]
        assert [(s.number, s.start, s.stop) for s in plan.shards] == [(0, 0, 3), (1, 3, 5), (2, 5, 8), (3, 8, 11)]
    assert (tmp_path / "labels" / "part-00000.parquet").read_bytes() == first
    assert sorted(name for table in ids(tmp_path) for name in table) == NAMES


@pytest.mark.parametrize(
    ("second", "difference"),
    [
        (rows(NAMES[2:]), "input: 2 of 4 rows are gone, e.g. 'v00'"),
        (rows(NAMES[:4], start_s=[None, 1.5, None, None]), "input 'v01' start_s: None there, 1.5 now"),
        (rows(NAMES[:4], end_s=[None, None, 0.0, 7.0]), r"input 'v02' end_s: None there, 0.0 now \(2 rows differ so\)"),
        (rows(NAMES[:4]).set_column(1, "uri", pa.array(["/x"] * 4)), "input 'v00' uri: '/videos/v00.mp4' there, '/x' now"),
    ],
)
def test_an_input_that_lost_or_changed_rows_is_another_job(tmp_path: Path, second: pa.Table, difference: str) -> None:
    with open_store(tmp_path) as store:
        work(store, rows(NAMES[:4]), record())
    with open_store(tmp_path) as store, pytest.raises(OutputConflictError, match=difference) as caught:
        work(store, second, record())
    assert caught.value.exit_status == 2
    assert ids(tmp_path) == (["v00", "v01", "v03"], ["v02"])


def test_times_that_stay_the_same_are_the_same_job(tmp_path: Path) -> None:
    videos = rows(NAMES[:2], start_s=[None, 0.1], end_s=[0.3, None])
    for _ in range(2):
        with open_store(tmp_path) as store:
            work(store, videos, record())
    assert len(read_labels(tmp_path)) == 2


def test_another_fingerprint_is_refused_with_each_difference(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        work(store, rows(NAMES), record(weights="aa", sampling={"kind": "uniform", "num_frames": 16}, labels=["x", "y"]))
    with open_store(tmp_path) as store, pytest.raises(OutputConflictError) as caught:
        store.begin(record(weights="bb", sampling={"kind": "rate", "frames_per_second": 4.0}, labels=["x", "z"]))
    for line in (
        "weights: 'aa' there, 'bb' now",
        "sampling.kind: 'uniform' there, 'rate' now",
        "sampling.num_frames: 16 there, None now",
        "sampling.frames_per_second: None there, 4.0 now",
        "labels[1]: 'y' there, 'z' now",
    ):
        assert f"  {line}\n" in str(caught.value)


def test_the_first_shard_size_is_kept(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.begin(record(shard_size=3))
        job = store.begin(record(shard_size=100))
    assert job.shard_size == 3


def test_ids_that_are_there_twice_are_named(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(ManifestError, match="names 2 video ids more than once: 'a', 'b'"):
        work(store, rows(["a", "b", "a", "c", "b", "a"]), record())


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputConflictError, match=r"holds other files \(thesis\.tex\)"), open_store(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(OutputConflictError, match="is a file"), open_store(tmp_path / "thesis.tex"):
        pass


@pytest.mark.parametrize("text", ["{", "[]", '{"job_id": 1}', "\xff"])
def test_a_job_file_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text, encoding="latin-1")
    with open_store(tmp_path) as store, pytest.raises(OutputConflictError, match="not a labelling job"):
        store.begin(record())


HOLD = """
import sys
from pathlib import Path
from reelscribe.pipeline.labeling.folder import LocalFolder
with LocalFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(OutputConflictError, match=rf"being written by another job \(process {first.pid} on "), open_store(tmp_path):
            pass
        first.kill()
    assert json.loads((tmp_path / "_job" / "lock").read_text())["pid"] == first.pid  # it had no time to tidy up
    with open_store(tmp_path):
        pass


def test_a_folder_is_held_against_this_very_process_too(tmp_path: Path) -> None:
    with open_store(tmp_path), pytest.raises(OutputConflictError, match="another job"), open_store(tmp_path):
        pass


def test_a_full_disk_ends_the_job_with_a_clear_word(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    (tmp_path / TEMPORARY_FOLDER).mkdir(parents=True)
    (tmp_path / TEMPORARY_FOLDER / "part-00000.parquet").symlink_to("/dev/full")
    with pytest.raises(ReelScribeError, match=r"cannot write .*: No space left on device; what was committed stays") as caught:
        folder.put("labels/part-00000.parquet", b"x")
    assert caught.value.exit_status == 1


def test_an_empty_folder_has_no_job_and_no_rows(tmp_path: Path) -> None:
    assert read_job(tmp_path) is None
    assert ids(tmp_path) == ([], [])


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(1, 20))
def test_shards_cover_all_rows_once_and_never_span_segments(segments: list[int], size: int) -> None:
    shards = cut(segments, size)
    assert [s.number for s in shards] == list(range(len(shards)))
    assert [i for s in shards for i in range(s.start, s.stop)] == list(range(sum(segments)))
    ends = {sum(segments[:k]) for k in range(len(segments) + 1)}
    assert all(0 < s.stop - s.start <= size for s in shards)
    assert all(s.stop - s.start == size or s.stop in ends for s in shards)
    plan = Plan(inputs=rows([]), shards=shards)
    assert all(plan.shard_of(i) == s for s in shards for i in (s.start, s.stop - 1))


trees = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(trees, trees)
def test_trees_differ_where_they_are_not_equal(old: object, new: object) -> None:
    without_null = json.dumps(old).count("null") + json.dumps(new).count("null") == 0
    assert not differences(old, old)
    if without_null:  # a missing key and null are the same
        assert bool(differences(old, new)) == (old != new)
