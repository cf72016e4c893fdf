"""What the process that launched a training does while it goes on: it tracks, saves, and tells."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from reelscribe.pipeline.bundle import BundleSpec, save_bundle
from reelscribe.pipeline.config import Config
from reelscribe.pipeline.console import note
from reelscribe.pipeline.report.pictures import gradients
from reelscribe.pipeline.tracking.runs import RunTracker
from reelscribe.pipeline.training.progress import EpochMetrics, Speed, Trained
from reelscribe.pipeline.training.steps.gradients import GradientHealth
from reelscribe.pipeline.training.tasks import TASKS


class Follower:
    """Told of every step and every epoch, on every engine.

    An epoch that comes again, as one that was tracked before its process died, is not tracked again. ``advance(done, total, text)`` moves
    the progress line, which counts optimizer steps.
    """

    def __init__(
        self,
        config: Config,
        spec: BundleSpec,
        folder: Path,
        run: RunTracker,
        *,
        clips: int,
        advance: Callable[..., None],
        report: Callable[[EpochMetrics], None] | None = None,
    ) -> None:
        self.config, self.spec, self.folder, self.run, self.advance = config, spec, folder, run, advance
        self.report = report
        self.figure = TASKS[config.task].figure
        self.clips, self.steps = clips, -(-clips // config.training.batch_size)
        self.tracked = run.last_step("train_loss")  # the last epoch
        self.told: set[str] = set()  # a warning comes once, however often it is true
        self.speeds: list[Speed] = []
        self.storing_s = 0.0
        self.text = ""
        self.first: tuple[int, float] | None = None  # steps and time when this process was first told

    @property
    def epoch_s(self) -> float:
        """The median seconds of an epoch; not a number where none was left to train."""
        return statistics.median([speed.seconds for speed in self.speeds] or [math.nan])

    def on_step(self, done: int) -> None:
        """So many optimizer steps are done."""
        epochs = self.config.training.epochs
        epoch = f"epoch {min(done // self.steps + 1, epochs)} of {epochs}"
        self.advance(done, epochs * self.steps, ", ".join(filter(None, (epoch, self.text, self._rate(done)))))

    def on_epoch(self, trained: Trained) -> None:
        """Track it, and save what would be left now as a model that can be used."""
        began = time.perf_counter()
        metrics = trained.history[-1]
        epoch = int(metrics["epoch"])
        for past in trained.history[self.tracked :]:
            self.run.log_metrics({name: value for name, value in past.items() if name != "epoch"}, step=int(past["epoch"]))
        if trained.speed:
            self.speeds.append(trained.speed)
        if epoch > self.tracked:
            if trained.speed:
                self.run.log_metrics(trained.speed.metrics, step=epoch)
            if trained.health:
                self.log_gradients(trained.health, epoch)
        self.tracked = max(self.tracked, epoch)
        save_bundle(self.folder / "checkpoint", spec=self.spec, state=trained.state, card=f"Epoch {trained.epoch} of {self.config.name}.\n")
        self.storing_s += time.perf_counter() - began
        self.text = f"loss {metrics['train_loss']:.3f}, validation {self.figure} {metrics[f'val_{self.figure}']:.3f}"
        self.on_step(epoch * self.steps)
        if self.report:
            self.report(metrics)

    def log_gradients(self, health: GradientHealth, epoch: int) -> None:
        """Track a picture of the gradients, and say what is wrong with them."""
        picture = self.folder / f"gradients_{epoch:04}.png"
        gradients(health.by_frame, health.of_last, health.by_layer, picture)
        self.run.log_artifact(picture, "pictures")
        kind, _, _ = health.warning.partition(":")
        if kind and kind not in self.told:
            self.told.add(kind)
            note(f"epoch {epoch}: {health.warning}")

    def _rate(self, done: int) -> str:
        """Clips in a second since this process was first told."""
        now = time.perf_counter()
        if self.first is None or done <= self.first[0]:  # workers that went back to a checkpoint begin to count anew
            self.first = done, now
            return ""
        steps, began = self.first
        return f"{(done - steps) / self.steps * self.clips / (now - began):.1f} clips/s"
