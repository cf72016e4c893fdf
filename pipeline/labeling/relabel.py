"""Another model for some rows of a finished job, in place: the others stay to the letter, and each row says which model it has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.console import OpenProgress
from reelscribe.pipeline.errors import ModelError, QueryError, UsageError
from reelscribe.pipeline.labeling.job import JobOptions, ModelIdentity, model_facts, new_session, outcomes_of, with_runtime
from reelscribe.pipeline.labeling.launch import shown
from reelscribe.pipeline.labeling.local import Clock
from reelscribe.pipeline.labeling.record import JobRecord, Relabelling
from reelscribe.pipeline.labeling.store import JOB_FILE, open_store
from reelscribe.pipeline.labeling.work import JobSummary, Progress, Work
from reelscribe.pipeline.report.page import write_job_report
from reelscribe.pipeline.sampling import Windows
from reelscribe.pipeline.tracking.registry import fetch_model

if TYPE_CHECKING:
    import pandas


def relabel_videos(out: str, model: str, *, where: str, options: JobOptions, tracking: str, progress: OpenProgress) -> JobSummary:
    """Fetch the model, label the rows again that meet ``where``, write the report anew."""
    found = fetch_model(model, uri=tracking)
    with progress("labelling again") as advance:
        summary = relabel(load_bundle(found.folder), found, out=out, where=where, options=options, on_progress=shown(advance))
    write_job_report(out, decode=options.decode)
    return summary


def relabel(
    bundle: ModelBundle,
    identity: ModelIdentity,
    *,
    out: str,
    where: str,
    options: JobOptions,
    on_progress: Callable[[Progress], None] | None = None,
) -> JobSummary:
    """Label the rows of the job in ``out`` again whose labels meet ``where``; their windows and scores are as the job has them.

    ``where`` is an expression of pandas' ``DataFrame.query`` over the columns of labels, ``model_version`` taken as a number. Stopped in
    the middle, the same command goes on with the rows that still meet it. Raises UsageError where there is no finished job, QueryError for
    an expression that cannot be used, ModelError for a model of another task or with other labels.
    """
    with open_store(out) as store:
        job = store.job()
        if job is None or job.finished is None:
            raise UsageError(f"{out} holds no finished labelling job (see {JOB_FILE}); let `reelscribe label` finish it first")
        _require_same_answers(bundle, job)
        plan, marks = store.planned(job), store.committed()
        redo = store.redo_of(plan, marks.values(), lambda labels, _: labels.filter(_meets(labels, where)))
        again = Relabelling(started=datetime.now(UTC), where=where, model=model_facts(bundle, identity), rows=redo.rows)
        session = {"model": again.model, "sessions": [*job.sessions, new_session(options)]}
        work = Work(store, job.model_copy(update=session), plan, marks, redo)
        if redo.positions:
            windows = job.fingerprint["windows"]
            names = {"scores": job.fingerprint["scores"], "runtime": job.fingerprint.get("runtime", "torch")}
            options = replace(options, windows=windows and Windows.model_validate(windows), **names)
            options = with_runtime(bundle, options, None)
            clock = Clock()
            with closing(outcomes_of(bundle, options, plan.videos_at(redo), redo.num_videos, clock)) as outcomes:
                work.consume(outcomes, on_progress)
            job = work.finish(clock).model_copy(update={"model": job.model, "relabelled": [*job.relabelled, again]})
            store.write_job(job)
        return work.summary(job)


def _require_same_answers(bundle: ModelBundle, job: JobRecord) -> None:
    """Raises ModelError where rows of both models could not stand in one table."""
    for name, got in (("task", bundle.spec.task), ("labels", list(bundle.spec.labels))):
        if got != job.fingerprint[name]:
            raise ModelError(f"the model has other {name} than the job: {got} and {job.fingerprint[name]}; label into a folder of its own")


def _meets(labels: pa.Table, where: str) -> pa.Array:
    """Which rows meet a condition. Raises QueryError."""
    import pandas as pd

    table: pandas.DataFrame = labels.drop_columns(["frame_index", "frame_time_s", "scores"]).to_pandas()
    table["model_version"] = pd.to_numeric(table["model_version"], errors="coerce")
    try:
        met: Any = table.eval(where, engine="python")
        if getattr(met, "dtype", None) not in (bool, "boolean"):
            raise TypeError("it is no condition")
        return pa.array(met.to_numpy(dtype=bool))
    except Exception as error:  # whatever pandas makes of somebody's expression
        raise QueryError(
            f'--where {where!r}: {error}; expected a condition on {", ".join(table.columns)}, e.g. "model_version < 5" or '
            "\"confidence < 0.6 and label == 'left'\""
        ) from error
