"""The Ray engine: the same stages, placed by Ray Data. Decoding spreads over every CPU of the cluster, the network over its GPUs, or over
its CPUs where there are none; Ray Data moves CPUs between the two as one or the other falls behind, and holds back whoever runs ahead."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from reelscribe.pipeline.bundle import ModelBundle, load_bundle
from reelscribe.pipeline.cluster import cluster, quiet_data
from reelscribe.pipeline.errors import ReelScribeError
from reelscribe.pipeline.labeling.exchange import (
    decoded_from_table,
    decoded_to_table,
    outcomes_from_table,
    outcomes_to_table,
    videos_from_table,
    videos_to_table,
)
from reelscribe.pipeline.labeling.local import Clock
from reelscribe.pipeline.labeling.stages import DecodeStage, Outcome, PredictStage, Video

if TYPE_CHECKING:
    from ray import ObjectRef

MAX_VIDEOS_PER_TASK = 32  # videos that one decoding task takes; their frames travel together
_WAIT_S, _PREDICT_S = "wait_s", "predict_s"
TASKS_PER_CPU = 4  # at least so many tasks for each CPU, so that a slow one does not hold up the end


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How the stages' actors share a cluster. One actor of each kind always fits, so neither waits for the other for ever."""

    decode_cpus: float
    max_decoders: int
    predict_cpus: float
    predict_gpus: float
    max_predictors: int


def place(cpus: float, gpus: float) -> Placement:
    """Actors for a cluster of so many CPUs and GPUs.

    With few CPUs an actor asks for half a CPU or less: then there are four places at least, and the pool that is behind gets the others.
    """
    share = 1.0 if cpus >= 4 else cpus / 4
    places = max(2, math.floor(cpus / share))
    if gpus >= 1:
        return Placement(decode_cpus=share, max_decoders=places, predict_cpus=0, predict_gpus=1, max_predictors=math.floor(gpus))
    return Placement(decode_cpus=share, max_decoders=places - 1, predict_cpus=share, predict_gpus=0, max_predictors=places - 1)


def label_on_ray(
    videos: Iterable[Video], decode: DecodeStage, predict: PredictStage, *, num_videos: int, address: str, clock: Clock
) -> Generator[Outcome]:
    """One outcome per video, in order of completion, from the cluster at ``address`` (empty starts one here).

    The model is sent to the workers; videos must be under a path or URI that every worker reaches.
    Raises ServiceUnavailableError where no cluster answers, ReelScribeError where it fails for good.
    """
    with cluster(address):
        import ray
        from ray.exceptions import RayError

        quiet_data()
        resources: dict[str, Any] = ray.cluster_resources()
        placement = place(resources.get("CPU", 1.0), resources.get("GPU", 0.0))
        per_task = min(MAX_VIDEOS_PER_TASK, max(1, num_videos // (TASKS_PER_CPU * placement.max_decoders)))
        dataset = (
            ray.data.from_arrow([videos_to_table(chunk) for chunk in _chunks(videos, per_task)])
            .map_batches(
                DecodeActor,
                fn_constructor_args=(decode,),
                batch_format="pyarrow",
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=placement.max_decoders),
                num_cpus=placement.decode_cpus,
            )
            .map_batches(
                PredictActor,
                fn_constructor_args=(ray.put(_model_files(predict.bundle)),),
                fn_constructor_kwargs={"device": predict.device, "scores": predict.scores, "runtime": predict.runtime},
                batch_format="pyarrow",
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=placement.max_predictors),
                num_cpus=placement.predict_cpus,
                num_gpus=placement.predict_gpus,
            )
        )
        try:
            for table in cast("Iterable[pa.Table]", dataset.iter_batches(batch_format="pyarrow", batch_size=None)):
                clock.wait_s += pc.sum(table[_WAIT_S]).as_py() or 0.0
                clock.predict_s += pc.sum(table[_PREDICT_S]).as_py() or 0.0
                yield from outcomes_from_table(table)
        except RayError as error:
            raise ReelScribeError(
                f"the Ray cluster gave up: {_in_short(str(error))}; what was committed stays, and the same command goes on from there"
            ) from error


class DecodeActor:
    """DecodeStage with Arrow tables in and out; one decode process each."""

    def __init__(self, stage: DecodeStage) -> None:
        self.stage = stage
        stage.setup()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """VIDEO_SCHEMA to tables of one row of DECODED_SCHEMA."""
        for decoded in self.stage(videos_from_table(table)):
            yield decoded_to_table([decoded])

    def __del__(self) -> None:  # what Ray Data calls when it gives an actor up
        self.stage.teardown()


class PredictActor:
    """PredictStage with Arrow tables in and out; opens the model from the bytes of its files."""

    def __init__(self, files: ObjectRef[dict[str, bytes]], **options: Any) -> None:
        import ray

        with tempfile.TemporaryDirectory() as folder:
            for name, data in ray.get(files).items():
                (Path(folder) / name).write_bytes(data)
            self.stage = PredictStage(load_bundle(Path(folder)), **options)
            self.stage.setup()
        self.free_since = time.monotonic()

    def __call__(self, table: pa.Table) -> pa.Table:
        """DECODED_SCHEMA to OUTCOME_SCHEMA, with each row's share of the time that this actor waited and worked."""
        asked = time.monotonic()
        outcomes = outcomes_to_table(self.stage(decoded_from_table(table)))
        times = {_WAIT_S: asked - self.free_since, _PREDICT_S: time.monotonic() - asked}
        for name, seconds in times.items():
            outcomes = outcomes.append_column(name, pa.array([seconds / len(outcomes)] * len(outcomes), pa.float64()))
        self.free_since = time.monotonic()
        return outcomes


def _in_short(trace: str) -> str:
    """Our own error in a worker's trace in its own words; of any other, the first and the last line."""
    ours = re.findall(r"^reelscribe\.pipeline\.errors\.\w+: (.+)$", trace, flags=re.MULTILINE)
    if ours:
        return str(ours[-1])
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else "without a word"


def _model_files(bundle: ModelBundle) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.folder.iterdir() if file.is_file()}


def _chunks(videos: Iterable[Video], size: int) -> Iterator[list[Video]]:
    rest = iter(videos)
    while chunk := list(islice(rest, size)):
        yield chunk
