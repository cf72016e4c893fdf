"""``job.json``: what a job is, how far it came and what it took. Written when the job starts and when it ends."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reelscribe.pipeline.config import DecodeConfig
from reelscribe.pipeline.labeling.schema import SCHEMA_VERSION, Trace

Engine = Literal["local", "ray"]
MAX_DIFFERENCES = 8  # lines shown when two jobs differ


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Part):
    """Where a session ran."""

    host: str
    platform: str
    python: str
    cores: int


class Session(_Part):
    """One run of the command: a job that was stopped and started again has several. ``ended`` is null in one that was stopped."""

    started: datetime
    ended: datetime | None = None
    engine: Engine
    device: str
    runtime: str = "torch"
    decode: DecodeConfig
    machine: Machine
    videos: int = Field(default=0, description="rows that this session finished")
    seconds: float = Field(default=0.0, description="wall clock, from opening the output folder")
    first_outcome_s: float | None = Field(default=None, description="seconds until the first row")
    predict_s: float | None = Field(default=None, description="seconds spent in the network; on Ray of all its actors together")
    wait_s: float | None = Field(default=None, description="seconds the network waited for decoding; on Ray of all its actors together")
    bound_by: Literal["decoding", "inference"] | None = Field(default=None, description="what kept the job from being faster")
    videos_per_s: float | None = None
    video_s: float = Field(default=0.0, description="length of what this session labelled, seconds")
    memory_mb: int | None = Field(default=None, description="the job's process and its decode workers at their largest; null on Ray")


class Relabelling(_Part):
    """Rows that another model labelled again, in place."""

    started: datetime
    where: str
    model: dict[str, Any]
    rows: int


class Counts(_Part):
    """Rows of the two tables."""

    total: int = 0
    labelled: int = 0
    failed: int = 0
    failed_by_class: dict[str, int] = {}
    labelled_video_s: float = Field(default=0.0, description="length of all labelled videos together, seconds")


class JobRecord(_Part):
    """What ``job.json`` holds."""

    schema_version: int = SCHEMA_VERSION
    job_id: str
    state: Literal["running", "done"] = Field(description="running and without a process that holds _job/lock: it was stopped")
    created: datetime
    finished: datetime | None = None
    fingerprint: dict[str, Any] = Field(description="all that changes results; the same in every session of a job")
    model: dict[str, Any] = Field(description="identity and origin of the model")
    shard_size: int = Field(ge=1, description="rows that are committed together")
    counts: Counts = Counts()
    sessions: list[Session] = []
    relabelled: list[Relabelling] = Field(default=[], description="rows of these say so themselves, in their columns on the model")

    def trace(self) -> Trace:
        """The columns that all labels of this job share."""
        names = ("model_name", "model_version", "model_alias", "run_id", "weights_digest")
        config_digest = self.model.get("config_digest") or None
        return Trace(**{name: self.model[name] for name in names}, config_digest=config_digest, job_id=self.job_id)


def new_job_id() -> str:
    """A name that sorts by time and does not repeat."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """``path: OLD there, NEW now`` for every leaf in which two JSON trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for key in keys for d in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in differences(a, b, f"{path}[{i}]")]
    return [] if old == new else [f"{path}: {_short(old)} there, {_short(new)} now"]


def _short(value: Any) -> str:
    text = f"{len(value)} {value!r}" if isinstance(value, list) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
