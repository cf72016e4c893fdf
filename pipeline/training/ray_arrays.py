"""What training reads, decoded and encoded by Ray Data on all nodes of a cluster; the process that launched it stores the arrays."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from reelscribe.pipeline.cluster import quiet_data
from reelscribe.pipeline.errors import TrainingError, UsageError, VideoError, VideoNotFoundError, VideoPermissionError
from reelscribe.pipeline.features import ArrayRequest, Compute, Computed, Spread, decoded_here
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import DecodeLimits

if TYPE_CHECKING:
    from ray import ObjectRef

_CLIPS_PER_TASK = 16  # what is computed again where a worker dies
_TASKS_PER_CPU = 4  # at least so many for each CPU, so that a slow one does not hold up the end


class SpreadOnRay(Spread):
    """On the CPUs of the cluster that this process has joined; workers that die are started again, and their clips decoded again."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.limits = limits

    def arrays(self, requests: Iterable[ArrayRequest], compute: Compute) -> Iterator[tuple[ArrayRequest, Computed | VideoError]]:
        """See Spread. Raises UsageError where a node does not reach a video that this one has read, TrainingError where Ray gives up."""
        import ray
        from ray.exceptions import RayError

        wanted = list(dict.fromkeys(requests))
        if not wanted:
            return
        quiet_data()
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        size = max(1, min(_CLIPS_PER_TASK, len(wanted) // (cpus * _TASKS_PER_CPU)))
        starts = range(0, len(wanted), size)
        dataset = ray.data.from_arrow([_numbered(start, wanted[start : start + size]) for start in starts]).map_batches(
            ArrayActor,
            fn_constructor_args=(ray.put((compute, self.limits)),),
            batch_format="pyarrow",
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(cpus, len(starts))),
            num_cpus=1,
        )
        try:
            for table in dataset.iter_batches(batch_format="pyarrow", batch_size=None):
                for row in cast("pa.Table", table).to_pylist():
                    request, computed = wanted[row["number"]], pickle.loads(row["computed"])  # noqa: S301 - of our own worker
                    _require_reached(request, computed, row["node"])
                    yield request, computed
        except RayError as error:
            raise TrainingError(f"decoding on Ray failed: {error}; the same command goes on from what was stored") from error


class ArrayActor:
    """Runs on a node: a decode process of its own, and the encoder."""

    def __init__(self, work: ObjectRef[tuple[Compute, DecodeLimits]]) -> None:
        import ray

        self.compute, limits = ray.get(work)
        self.node = ray.util.get_node_ip_address()
        self.pool = DecodePool(1, limits).__enter__()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Numbered requests to numbered arrays, a table each."""
        numbers: dict[ArrayRequest, int] = {pickle.loads(row["request"]): row["number"] for row in table.to_pylist()}  # noqa: S301
        for request, computed in decoded_here(self.pool, numbers, self.compute):
            rows: dict[str, list[Any]] = {"number": [numbers[request]], "computed": [pickle.dumps(computed)], "node": [self.node]}
            yield pa.table(rows, schema=_COMPUTED)

    def __del__(self) -> None:  # what Ray Data calls when it gives an actor up
        self.pool.__exit__(None, None, None)


_COMPUTED = pa.schema([("number", pa.int64()), ("computed", pa.large_binary()), ("node", pa.string())])


def _numbered(start: int, requests: list[ArrayRequest]) -> pa.Table:
    return pa.table({"number": range(start, start + len(requests)), "request": [pickle.dumps(request) for request in requests]})


def _require_reached(request: ArrayRequest, computed: Computed | VideoError, node: str) -> None:
    if isinstance(computed, (VideoNotFoundError, VideoPermissionError)):
        raise UsageError(
            f"the node {node} does not read {request.clip.uri}, which can be read here: {computed}; put the videos on a disk that all "
            "nodes share, under the same path, or behind s3:// or https://, with what they need to sign in"
        )
