"""Where the time of a training went, and what would shorten it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from reelscribe.pipeline.training.progress import Speed


@dataclass(frozen=True, kw_only=True)
class TimeSpent:
    """Seconds of this process, and of rank 0 where there are several workers; what an earlier process did is not in them."""

    decoding_s: float  # frames of videos, and features of a frozen encoder
    computing_s: float  # training and validation
    loading_s: float  # waiting for stored arrays
    storing_s: float  # checkpoints, and what is tracked
    clips: int  # trained on

    @property
    def samples_per_s(self) -> float:
        """Clips in a second of training, validation and storing included."""
        seconds = self.computing_s + self.loading_s + self.storing_s
        return self.clips / seconds if seconds else 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """Names and numbers for the tracked run."""
        return {f"time/{name}": value for name, value in asdict(self).items() if name.endswith("_s")}

    @property
    def verdict(self) -> str:
        """What most of the time went to, and what to change."""
        advice = {
            "decoding": (self.decoding_s, "more decode.workers, fewer augmentation.views, or nothing: it is stored for the next training"),
            "computing": (self.computing_s, "a GPU, more training.workers, a smaller model.encoder or model.trainable_stages=0"),
            "reading stored arrays": (self.loading_s, "output=FOLDER on a disk of this machine, or more training.workers"),
            "storing": (self.storing_s, "training.checkpoint less often or in a nearer folder, a tracking.uri that answers quicker"),
        }
        total = sum(seconds for seconds, _ in advice.values())
        name, (seconds, change) = max(advice.items(), key=lambda item: item[1][0])
        shares = ", ".join(f"{one} {100 * part / total:.0f} %" for one, (part, _) in advice.items()) if total else ""
        return f"bound by {name} ({shares}); to change that: {change}" if seconds else "nothing was left to do"


def time_spent(decoding_s: float, speeds: Sequence[Speed], tracking_s: float) -> TimeSpent:
    """Summed over the epochs of this process."""
    loading_s = sum(speed.loading_s for speed in speeds)
    return TimeSpent(
        decoding_s=decoding_s,
        computing_s=sum(speed.seconds for speed in speeds) - loading_s,
        loading_s=loading_s,
        storing_s=tracking_s + sum(speed.storing_s for speed in speeds),
        clips=sum(speed.clips for speed in speeds),
    )
