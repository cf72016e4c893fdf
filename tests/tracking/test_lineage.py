"""Lineage from every end, copies between stores, and removals, on SQLite and on a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from conftest import tiny_spec
from reelscribe.pipeline.bundle import ModelBundle, load_bundle, save_bundle
from reelscribe.pipeline.errors import ModelError
from reelscribe.pipeline.tracking.comparison import LabelChange
from reelscribe.pipeline.tracking.lineage import LabellingJob, lineage, record_labelling
from reelscribe.pipeline.tracking.registry import fetch_model, label_differences, list_models, register_model, show_model
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.tracking.transfer import COPIED_TAG, copy_version, remove_version

DIGEST = "5e" * 32


@pytest.fixture
def made(uri: str, bundle: ModelBundle, request: pytest.FixtureRequest) -> str:
    """A registered version; returns its run."""
    with RunTracker(uri=uri, experiment="lineage", run_name="maker") as run:
        run.log_params({"seed": 3})
        run.log_metrics({"val/top1": 0.5}, step=2)
        run.log_dataset(name="clips", source="labels.csv", digest=DIGEST, context="training", num_rows=9)
        register_model(bundle.folder, run_id=run.run_id, name="traced", alias="champion", uri=uri)
    return run.run_id


def test_lineage_is_the_same_from_every_end(uri: str, made: str) -> None:
    version = show_model("traced", uri=uri).version
    job = LabellingJob(
        job_id=f"job-{made[:8]}", model="traced", version=str(version.version), state="running", out="/out", input_digest="ab"
    )
    first = record_labelling(job, uri=uri)
    ended = replace(job, state="finished", labelled=7, failed=2)
    assert record_labelling(ended, uri=uri) == first

    (found,) = lineage("models:/traced@champion", uri=uri)
    assert (found.run_id, found.run_name, found.status) == (made, "maker", "FINISHED")
    assert [(data.digest, data.context) for data in found.data] == [(DIGEST, "training")]
    assert [(use.version.version, use.jobs) for use in found.uses] == [(version.version, (ended,))]
    assert len(found.git_commit) == 40
    assert lineage(f"runs:/{made}", uri=uri) == [found]
    assert lineage(f"job:{job.job_id}", uri=uri) == [found]
    assert found in lineage(f"data:{DIGEST[:10]}", uri=uri)
    assert found in lineage(f"data:{DIGEST}", uri=uri)
    for wrong, says in (("data:xyz", "at least 8"), ("data:" + "1" * 64, "no run"), ("job:none", "no labelling job"), ("job:a'b", "quote")):
        with pytest.raises(ModelError, match=says):
            lineage(wrong, uri=uri)

    with pytest.raises(ModelError, match=r"it is @champion; the labels in /out come from it"):
        remove_version(f"traced/{version.version}", uri=uri)
    assert not remove_version(f"traced/{version.version}", uri=uri, dry_run=True).removed
    assert remove_version(f"traced/{version.version}", uri=uri, force=True).jobs == (ended,)
    assert [model.aliases for model in list_models(uri=uri) if model.name == "traced"] == [{}]


@pytest.mark.parametrize("uri", ["server"], indirect=True)
def test_a_version_goes_to_another_store_and_back(uri: str, made: str, tmp_path: Path, bundle: ModelBundle) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    there = copy_version("models:/traced@champion", source=uri, target=other)
    assert (there.copy.version, there.copy.aliases, there.new) == (1, (), True)
    assert there.copy.tags["reelscribe.bundle_digest"] == there.source.tags["reelscribe.bundle_digest"]
    assert (there.copy.metrics, there.copy.params) == (there.source.metrics, there.source.params)
    (found,) = lineage("models:/traced/1", uri=other)
    assert [(data.digest, data.context) for data in found.data] == [(DIGEST, "training")]
    assert load_bundle(fetch_model("models:/traced/1", uri=other).folder).weights_digest == bundle.weights_digest
    again = copy_version("models:/traced@champion", source=uri, target=other)
    assert (again.copy.version, again.new) == (1, False)
    run = MlflowClient(tracking_uri=other).get_run(found.run_id)
    assert run.data.tags[COPIED_TAG].endswith(f"models:/traced/{there.source.version}")
    assert "environment.txt" in [file.path for file in MlflowClient(tracking_uri=other).list_artifacts(found.run_id)]
    with pytest.raises(ModelError, match="two tracking stores"):
        copy_version("traced/1", source=other, target=other)


def test_label_maps_are_compared_by_place(sqlite_uri: str, bundle: ModelBundle, tmp_path: Path) -> None:
    spec = tiny_spec(labels=("right", "left", "stop"))
    other = save_bundle(tmp_path / "other", spec=spec, state=bundle.build().state_dict(), card="")
    with RunTracker(uri=sqlite_uri, experiment="labels") as run:
        for folder in (bundle.folder, other.folder):
            register_model(folder, run_id=run.run_id, name="mapped", alias="", uri=sqlite_uri)
    assert label_differences("mapped/1", "mapped/1", uri=sqlite_uri) == []
    assert label_differences("mapped/1", "mapped/2", uri=sqlite_uri) == [
        LabelChange(label="left", first=0, second=1),
        LabelChange(label="right", first=1, second=0),
        LabelChange(label="winken üben", first=2, second=None),
        LabelChange(label="stop", first=None, second=2),
    ]
