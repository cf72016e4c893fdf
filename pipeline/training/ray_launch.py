"""The training loop on Ray Train: placement and process groups are Ray's, the loop is the one of `loop`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reelscribe.pipeline.bundle import untrained
from reelscribe.pipeline.cluster import cluster
from reelscribe.pipeline.config import Config
from reelscribe.pipeline.errors import TrainingError, UsageError
from reelscribe.pipeline.training.data import TrainingData
from reelscribe.pipeline.training.loop import Trained, Trainer, World


def train_on_ray(config: Config, data: TrainingData, *, folder: Path, on_epoch: Callable[[Trained], None]) -> Trained:
    """Train on ``config.training.workers`` workers of the cluster at ``config.cluster.address``, or of one started here.

    ``on_epoch`` runs in this process, as rank 0 finishes each epoch. ``folder`` is for Ray's own files; every worker must reach it and the
    files of ``data``. Raises UsageError where the cluster lacks what is asked, ServiceUnavailableError where none answers, TrainingError
    where a worker fails.
    """
    with cluster(config.cluster.address):
        import ray
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer
        from ray.util.queue import Queue

        wanted = {"CPU": float(config.training.workers), "GPU": config.training.workers * config.training.gpus_per_worker}
        there = ray.cluster_resources()
        for kind, amount in wanted.items():
            if amount > there.get(kind, 0):
                raise UsageError(
                    f"{config.training.workers} workers need {amount:g} {kind}s, the cluster has {there.get(kind, 0):g}; "
                    "lower training.workers or training.gpus_per_worker"
                )
        queue = Queue(actor_options={"num_cpus": 0})
        trainer = TorchTrainer(
            _train_on_worker,
            train_loop_config={"config": config.model_dump(mode="json"), "data": data, "folder": folder.absolute(), "queue": queue},
            scaling_config=ScalingConfig(
                num_workers=config.training.workers,
                use_gpu=config.training.gpus_per_worker > 0,
                resources_per_worker={"CPU": 1, "GPU": config.training.gpus_per_worker},
            ),
            run_config=RunConfig(name="ray", storage_path=str(folder.absolute())),
        )
        with ThreadPoolExecutor(max_workers=1) as thread:
            last = thread.submit(_hand_on, queue, on_epoch)
            try:
                trainer.fit()
            except TrainingFailedError as error:
                queue.put(TrainingError(f"training on Ray failed: {error}"))  # unless a worker gave its own reason before
            finally:
                queue.put(None)
            trained = last.result()
        if trained is None:
            raise TrainingError("the workers ended without a single epoch")
        return trained


def _hand_on(queue: Any, on_epoch: Callable[[Trained], None]) -> Trained | None:
    """Take what workers send until None comes; returns the last of rank 0's epochs, or raises the first error."""
    last: Trained | None = None
    errors: list[TrainingError] = []
    while (sent := queue.get()) is not None:
        if isinstance(sent, TrainingError):
            errors.append(sent)
        else:
            last = sent
            on_epoch(sent)
    if errors:
        raise errors[0]
    return last


def _train_on_worker(task: dict[str, Any]) -> None:
    """Runs on every worker."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    config = Config.model_validate(task["config"])
    data: TrainingData = task["data"]
    context = ray.train.get_context()
    trainer = Trainer(
        untrained(config, data.labels),
        config.training,
        data,
        seed=config.seed,
        device=get_device(),
        augmentation=config.augmentation,
        caption=config.caption,
        folder=task["folder"],
        world=World(context.get_world_rank(), context.get_world_size()),
        wrap=prepare_model,
    )
    try:
        trainer.fit(task["queue"].put if context.get_world_rank() == 0 else lambda _: None)
    except TrainingError as error:
        task["queue"].put(error)
        raise
