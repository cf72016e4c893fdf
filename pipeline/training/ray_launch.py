"""The training loop on Ray Train: placement, restarts, elasticity and process groups are Ray's, the loop is the one of `loop`.

Workers go on from the newest checkpoint of the run (see `checkpoints`), whoever left it: Ray's own list of checkpoints can be read by
the same version of Ray alone, and a run may go on in one process.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from reelscribe.pipeline.bundle import untrained
from reelscribe.pipeline.cluster import LOCAL, cluster, cluster_address
from reelscribe.pipeline.config import Config, TrainingConfig
from reelscribe.pipeline.errors import ReelScribeError, TrainingError, UsageError
from reelscribe.pipeline.features import Spread
from reelscribe.pipeline.training.checkpoints import Checkpoints
from reelscribe.pipeline.training.data import TrainingData
from reelscribe.pipeline.training.loop import Trainer, World
from reelscribe.pipeline.training.progress import Trained
from reelscribe.pipeline.training.ray_arrays import SpreadOnRay
from reelscribe.pipeline.training.ray_relay import Reachable, Relay, reachable

STEP_EVERY_S = 1.0  # between two words on how far it is


def train_on_ray(
    config: Config,
    data: TrainingData,
    *,
    folder: Path,
    on_epoch: Callable[[Trained], None],
    on_step: Callable[[int], None],
    checkpoints: Checkpoints | None,
) -> Trained:
    """Train on ``config.training.workers`` workers of the cluster at ``config.cluster.address``, or of one started here. See `ready`.

    ``on_epoch`` runs in this process, as rank 0 finishes each epoch, and again for the last one of a checkpoint that workers go on from;
    ``on_step`` with the steps done, once a second.
    ``folder`` is that of the run; workers that do not see it have what they need from this node, see `ray_relay`. Raises UsageError where a
    stored array is gone, TrainingError where workers fail more often than ``training.max_restarts``.
    """
    with cluster(config.cluster.address):
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        session = ray.get_runtime_context().get_session_name()
        logging.getLogger("reelscribe").info("Ray %s; its own logs are in %s/logs, on each node", ray.__version__, session)
        on_this_node = {"num_cpus": 0, "scheduling_strategy": here}  # another one may die
        queue = Queue(actor_options=on_this_node)
        relay = None
        if cluster_address(config.cluster.address) != LOCAL:  # nodes may also come later
            options = {**on_this_node, "max_restarts": -1, "max_task_retries": -1}
            relay = ray.remote(Relay).options(**options).remote(folder.absolute(), checkpoints)
        task = {
            "config": config.model_dump(mode="json"),
            "data": data,
            "folder": folder.absolute(),
            "queue": queue,
            "checkpoints": checkpoints,
            "relay": relay,
        }
        trainer = TorchTrainer(
            _train_on_worker,
            train_loop_config=task,
            scaling_config=ScalingConfig(
                num_workers=_num_workers(config.training),
                use_gpu=config.training.gpus_per_worker > 0,
                resources_per_worker={"CPU": 1, "GPU": config.training.gpus_per_worker},
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(folder.absolute()),
                failure_config=FailureConfig(max_failures=config.training.max_restarts),
            ),
        )
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(_fit, trainer, queue)  # what came of it comes through the queue
            trained = _hand_on(queue, on_epoch, on_step)
        if trained is None:
            raise TrainingError("the workers ended without a single epoch")
        return trained


@contextmanager
def ready(config: Config) -> Iterator[Spread | None]:
    """Inside, the cluster that a training needs is at hand, and large enough; one process needs none.

    The value decodes on all nodes of a cluster; None where this machine is all there is. Raises UsageError or ServiceUnavailableError,
    before hours of decoding.
    """
    if not on_ray(config):
        yield None
        return
    with cluster(config.cluster.address):
        import ray

        nodes = [node for node in ray.nodes() if node["Alive"]]
        require_places(config.training, [node["Resources"] for node in nodes])
        yield SpreadOnRay(config.decode.limits) if len(nodes) > 1 else None


def _num_workers(training: TrainingConfig) -> Any:
    """With two numbers, Ray Train goes on with fewer workers and takes more again."""
    if not training.min_workers:
        return training.workers
    # Ray counts on a dead node for some seconds; then it would wait a minute for its place before it tries with fewer.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    return training.min_workers, training.workers


def on_ray(config: Config) -> bool:
    """Whether a training runs on Ray."""
    return config.training.workers > 1 or bool(config.cluster.address)


def require_places(training: TrainingConfig, nodes: Iterable[Mapping[str, float]]) -> None:
    """Raises UsageError unless nodes with these resources hold all workers: Ray would wait for more nodes, for ever."""
    gpus = training.gpus_per_worker
    resources = list(nodes)
    places = sum(
        int(min(node.get("CPU", 0), node.get("GPU", 0) / gpus if gpus else training.workers)) if node.get("CPU") else 0
        for node in resources
    )
    key = "min_workers" if training.min_workers else "workers"
    if places < (wanted := getattr(training, key)):
        total = {kind: sum(node.get(kind, 0) for node in resources) for kind in ("CPU", "GPU")}
        raise UsageError(
            f"{wanted} workers need 1 CPU and {gpus:g} GPUs each, the cluster has {total['CPU']:g} CPUs "
            f"and {total['GPU']:g} GPUs on {len(resources)} node(s), room for {places} workers; "
            f"lower training.{key} or training.gpus_per_worker"
        )


def _fit(trainer: Any, queue: Any) -> None:
    """In a thread, as Ray Train would else take Ctrl-C over; None in the queue says that nothing more comes."""
    from ray.train import TrainingFailedError

    try:
        trainer.fit()
    except TrainingFailedError as error:
        queue.put(TrainingError(f"training on Ray failed: {error}"))  # unless a worker gave its own reason before
    except Exception as error:
        queue.put(error)
    finally:
        queue.put(None)


def _hand_on(queue: Any, on_epoch: Callable[[Trained], None], on_step: Callable[[int], None]) -> Trained | None:
    """Take what workers send until None comes; returns the last of rank 0's epochs, or raises the first error."""
    last: Trained | None = None
    errors: list[Exception] = []
    while (sent := queue.get()) is not None:
        if isinstance(sent, Exception):
            errors.append(sent)
        elif isinstance(sent, int):
            on_step(sent)
        else:
            last = sent
            on_epoch(sent)
    if errors:
        raise errors[0]
    return last


def _train_on_worker(task: dict[str, Any]) -> None:
    """Runs on every worker. An error of ours is told and ends the training: the same would come again."""
    import ray.train
    from ray.train.torch import get_device

    context, queue = ray.train.get_context(), task["queue"]
    world = World(context.get_world_rank(), context.get_world_size())
    try:
        share = world.rank / world.size
        with reachable(task["relay"], task["data"], task["folder"], task["checkpoints"], share=share) as found:
            _require_files(found.data, world, get_device())
            _trainer(task, found, world, get_device()).fit(queue.put if world.rank == 0 else lambda _: None)
    except ReelScribeError as error:
        queue.put(error)


def _trainer(task: dict[str, Any], found: Reachable, world: World, device: torch.device) -> Trainer:
    from ray.train.torch import prepare_model

    config = Config.model_validate(task["config"])
    # Buckets that DDP makes anew after the first step would add gradients up in another order after a resumption than without one.
    options = {"find_unused_parameters": device.type == "cpu"}
    return Trainer(
        untrained(config, found.data.labels),
        config.training,
        found.data,
        seed=config.seed,
        device=device,
        augmentation=config.augmentation,
        caption=config.caption,
        folder=found.folder,
        world=world,
        wrap=lambda module: prepare_model(module, parallel_strategy_kwargs=options),
        checkpoints=found.checkpoints,
        on_step=_now_and_then(task["queue"].put),
    )


def _now_and_then(tell: Callable[[int], None]) -> Callable[[int], None]:
    told = time.monotonic()

    def on_step(done: int) -> None:
        nonlocal told
        if time.monotonic() - told >= STEP_EVERY_S:
            told = time.monotonic()
            tell(done)

    return on_step


def _require_files(data: TrainingData, world: World, device: torch.device) -> None:
    """Raises UsageError, on every worker, where one of them lacks a file of the data."""
    files = [file for clips in (data.train, data.val) for views in clips.files for file in views]
    missing = [file for file in files if not file.is_file()]
    if world.total(torch.tensor(float(len(missing)), device=device)):
        where = (
            f"worker {world.rank} lacks {len(missing)} of {len(files)} stored arrays, e.g. {missing[0]}" if missing else "another worker"
        )
        raise UsageError(f"{where}: it is gone from the output folder; the same command decodes it anew")
