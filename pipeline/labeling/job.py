"""A labelling job: every row of the input becomes exactly one row of labels or failures, whatever is killed when."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from reelscribe.pipeline.bundle import ModelBundle
from reelscribe.pipeline.config import DecodeConfig, usable_cores
from reelscribe.pipeline.console import note
from reelscribe.pipeline.labeling.local import Clock, label_locally
from reelscribe.pipeline.labeling.record import Engine, JobRecord, Machine, Session, new_job_id
from reelscribe.pipeline.labeling.schema import SCHEMA_VERSION
from reelscribe.pipeline.labeling.stages import DecodeStage, Outcome, PredictStage, Video
from reelscribe.pipeline.labeling.store import open_store
from reelscribe.pipeline.labeling.work import JobSummary, Progress, Work, count
from reelscribe.pipeline.runtimes.choice import choose
from reelscribe.pipeline.runtimes.names import RuntimeChoice
from reelscribe.pipeline.sampling import Windows

# What of a model's spec changes its answers.
_ANSWERING = (
    *("task", "labels", "model", "caption", "sampling", "transform", "temperature", "precision", "threshold"),
    *("value_mean", "value_deviation", "caption_slope", "caption_offset"),
)
SHARD_SIZE = 128  # rows committed together: what a killed job does again at most, for each shard it had open
WINDOWED_SHARD_SIZE = 8  # of videos that may be hours long


class ModelIdentity(Protocol):
    """Where a model comes from; ``tracking.registry.ResolvedModel`` is one. None where it was taken from a folder."""

    @property
    def name(self) -> str | None:
        """Registered name."""

    @property
    def version(self) -> str | None:
        """Registered version."""

    @property
    def alias(self) -> str | None:
        """Alias it was asked for by."""

    @property
    def run_id(self) -> str | None:
        """Training run."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How a job is done, and what its rows are to hold."""

    engine: Engine = "local"
    cluster_address: str = ""  # for the engine ``ray``; empty starts a cluster on this machine
    device: str = "auto"
    runtime: RuntimeChoice = "torch"  # auto takes the fastest that agrees with torch, or that of the job that goes on
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    windows: Windows | None = None  # each window of a video has its own row
    scores: bool = False  # a row has the probability of every class
    retry: frozenset[str] = frozenset()  # classes of failures of earlier sessions that are tried again
    shard_size: int = 0  # 0: SHARD_SIZE or WINDOWED_SHARD_SIZE; a job that goes on keeps its first

    def fingerprint(self) -> dict[str, Any]:
        """What of it changes results."""
        windows = self.windows and self.windows.model_dump(mode="json")
        return {"runtime": self.runtime, "windows": windows, "scores": self.scores, "decode": {"backend": self.decode.backend}}


def run_job(
    *,
    bundle: ModelBundle,
    identity: ModelIdentity,
    videos: pa.Table,
    out: str | Path,
    options: JobOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_record: Callable[[JobRecord], None] | None = None,
) -> JobSummary:
    """Label ``videos`` (columns video_id, uri, start_s, end_s) into the folder ``out``; goes on where the same job stopped.

    ``on_record`` is given the job's record when it begins and when it has ended.
    Files under ``out`` itself are no input, so it may lie inside the folder that is labelled. Raises ManifestError for ids that are there
    twice, OutputConflictError where ``out`` holds something else or is in use, ReelScribeError where it cannot be written; never anything
    for a bad video.
    """
    options, tell = options or JobOptions(), on_record or (lambda _: None)
    with open_store(out) as store:
        options = with_runtime(bundle, options, store.job())
        job = store.begin(_new_job(bundle, identity, options))
        plan = store.plan(_outside(videos, out), job)
        marks = store.committed()
        pending = [shard for shard in plan.shards if shard.number not in marks]
        redo = store.failed_rows(plan, marks.values(), options.retry)
        job = job.model_copy(
            update={"state": "running", "sessions": [*job.sessions, new_session(options)], "counts": count(plan, marks.values())}
        )
        work = Work(store, job, plan, marks, redo)
        if pending or redo.positions or job.finished is None:
            store.write_job(job)
            tell(job)
            clock = Clock()
            wanted = chain(plan.videos(pending), plan.videos_at(redo))
            num_videos = sum(shard.stop - shard.start for shard in pending) + redo.num_videos
            if num_videos:
                with closing(outcomes_of(bundle, options, wanted, num_videos, clock)) as outcomes:
                    work.consume(outcomes, on_progress)
            job = work.finish(clock)
            store.write_job(job)
            tell(job)
        return work.summary(job)


def with_runtime(bundle: ModelBundle, options: JobOptions, job: JobRecord | None) -> JobOptions:
    """The options with the runtime to use: ``auto`` becomes that of the job that goes on, else the fastest. Raises as ``choose`` does."""
    wanted: RuntimeChoice = job.fingerprint.get("runtime", "torch") if job is not None and options.runtime == "auto" else options.runtime
    chosen = choose(bundle, wanted, options.device)
    if options.runtime == "auto":
        note(f"runtime {chosen.runtime}: {chosen.why if wanted == 'auto' else 'as this job began'}")
    return replace(options, runtime=chosen.runtime)


def _outside(videos: pa.Table, out: str | Path) -> pa.Table:
    """The rows whose files do not lie in the output folder."""
    uris = videos["uri"]
    folders = {str(out)} if "://" in str(out) else {str(Path(out).absolute()), str(Path(out).resolve())}
    inside = functools.reduce(pc.or_, [pc.starts_with(uris, pattern=f"{folder.rstrip('/')}/") for folder in folders])
    return videos.filter(pc.invert(inside)) if pc.any(inside).as_py() else videos  # of a million rows no copy


def outcomes_of(bundle: ModelBundle, options: JobOptions, videos: Iterable[Video], num_videos: int, clock: Clock) -> Generator[Outcome]:
    """The outcomes of videos, in any order, from the engine."""
    decode, predict = stages_of(bundle, options)
    if options.engine == "local":
        return label_locally(videos, decode, predict, clock)
    from reelscribe.pipeline.labeling.ray_launch import label_on_ray

    return label_on_ray(videos, decode, predict, num_videos=num_videos, address=options.cluster_address, clock=clock)


def stages_of(bundle: ModelBundle, options: JobOptions) -> tuple[DecodeStage, PredictStage]:
    """The stages as a job with these options runs them; on Ray each decoding actor has one worker."""
    decode = DecodeStage(
        bundle,
        backend=options.decode.backend,
        limits=options.decode.limits,
        workers=options.decode.num_workers if options.engine == "local" else 1,
        windows=options.windows,
    )
    runtime = with_runtime(bundle, options, None).runtime if options.runtime == "auto" else options.runtime
    assert runtime != "auto"
    return decode, PredictStage(bundle, device=options.device, scores=options.scores, runtime=runtime)


def _new_job(bundle: ModelBundle, identity: ModelIdentity, options: JobOptions) -> JobRecord:
    """The record of a job that starts now."""
    spec, model = bundle.spec.model_dump(mode="json"), model_facts(bundle, identity)
    return JobRecord(
        job_id=new_job_id(),
        state="running",
        created=datetime.now(UTC),
        fingerprint={
            "schema_version": SCHEMA_VERSION,
            **{key: model[key] for key in ("model_name", "model_version", "run_id", "weights_digest")},
            **{key: spec[key] for key in _ANSWERING},
            **options.fingerprint(),
        },
        model=model,
        shard_size=options.shard_size or (WINDOWED_SHARD_SIZE if options.windows else SHARD_SIZE),
    )


def model_facts(bundle: ModelBundle, identity: ModelIdentity) -> dict[str, Any]:
    """Identity and origin of a model, as a job's record has them."""
    spec = bundle.spec.model_dump(mode="json")
    return {
        "model_name": identity.name or bundle.spec.name,
        "model_version": identity.version,
        "run_id": identity.run_id,
        "weights_digest": bundle.weights_digest,
        "model_alias": identity.alias,
        **{key: spec[key] for key in ("config_digest", "data_digest", "git_commit", "metrics")},
    }


def new_session(options: JobOptions) -> Session:
    """The record of a session that starts now."""
    machine = Machine(host=platform.node(), platform=platform.platform(), python=platform.python_version(), cores=usable_cores())
    return Session(
        started=datetime.now(UTC),
        engine=options.engine,
        device=options.device,
        runtime=options.runtime,
        decode=options.decode,
        machine=machine,
    )
