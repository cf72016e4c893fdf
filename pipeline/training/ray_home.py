"""What workers on other nodes have instead of a shared folder: an actor on the node of the process that launched the training.

It gives them the stored arrays, which they keep in their node's cache, it reads and writes checkpoints for them, and it knows whether a
stop was asked for. A worker that sees the folder of the run does all this by itself.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reelscribe.pipeline.errors import ReelScribeError, TrainingError
from reelscribe.pipeline.features import FeatureCache
from reelscribe.pipeline.tracking.fetch import cache_folder
from reelscribe.pipeline.training.checkpoints import CheckpointFacts, Checkpoints
from reelscribe.pipeline.training.data import ClipSet, TrainingData
from reelscribe.pipeline.training.steps.bad_batch import BAD_BATCH_FILE
from reelscribe.pipeline.training.stopping import STOP_FILE

_FILES_PER_CALL = 64
_STOP_SEEN_WITHIN_S = 1.0


class Home:
    """The actor."""

    def __init__(self, folder: Path, checkpoints: Checkpoints | None) -> None:
        self.folder, self.checkpoints = folder, checkpoints

    def contents(self, files: list[Path]) -> list[bytes | None]:
        """None for a file that is not there."""
        return [file.read_bytes() if file.is_file() else None for file in files]

    def stop_asked(self) -> bool:
        """See `stopping`."""
        return (self.folder / STOP_FILE).exists()

    def keep(self, name: str, data: bytes) -> None:
        """A file for the folder of the run."""
        (self.folder / name).write_bytes(data)

    def save(self, state: dict[str, Any], facts: dict[str, Any]) -> None:
        """See Checkpoints, as of those below."""
        assert self.checkpoints
        self.checkpoints.save(state, **facts)

    def newest(self) -> CheckpointFacts | None:  # noqa: D102
        assert self.checkpoints
        return self.checkpoints.newest()

    def load(self, facts: CheckpointFacts) -> dict[str, Any]:  # noqa: D102
        assert self.checkpoints
        return self.checkpoints.load(facts)


@dataclass(frozen=True, kw_only=True)
class CheckpointsAtHome(Checkpoints):
    """Those in a folder that only the node of the launching process sees."""

    home: Any  # the handle of the actor

    def save(self, state: dict[str, Any], **facts: Any) -> None:
        """See Checkpoints."""
        _asked(self.home.save.remote(state, facts))

    def newest(self) -> CheckpointFacts | None:
        """See Checkpoints."""
        found: CheckpointFacts | None = _asked(self.home.newest.remote())
        return found

    def load(self, facts: CheckpointFacts) -> dict[str, Any]:
        """See Checkpoints."""
        state: dict[str, Any] = _asked(self.home.load.remote(facts))
        return state


@dataclass(frozen=True, kw_only=True)
class Belongings:
    """What the loop needs beside its network, within a worker's reach."""

    data: TrainingData
    folder: Path
    checkpoints: Checkpoints | None


@contextmanager
def brought(home: Any, data: TrainingData, folder: Path, checkpoints: Checkpoints | None) -> Iterator[Belongings]:
    """Inside, all is within reach of this worker; ``home`` is None where all workers are on the node of the launching process."""
    if home is None or folder.is_dir():
        yield Belongings(data=data, folder=folder, checkpoints=checkpoints)
        return
    if checkpoints and "://" not in checkpoints.root:
        checkpoints = CheckpointsAtHome(**vars(checkpoints), home=home)
    closing = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        watching = threading.Thread(target=_watch_for_stop, args=(home, here / STOP_FILE, closing), daemon=True)
        watching.start()
        try:
            data = replace(data, train=_brought(home, data.train), val=_brought(home, data.val))
            yield Belongings(data=data, folder=here, checkpoints=checkpoints)
        except TrainingError as error:
            if (here / BAD_BATCH_FILE).exists():
                _asked(home.keep.remote(BAD_BATCH_FILE, (here / BAD_BATCH_FILE).read_bytes()))
            raise TrainingError(str(error).replace(str(here), str(folder))) from None
        finally:
            closing.set()
            watching.join()


def _brought(home: Any, clips: ClipSet) -> ClipSet:
    """The same clips, with files of this node; one that is nowhere keeps its path."""
    cache = FeatureCache(cache_folder().parent / "arrays")
    places = {file: file if file.is_file() else cache.path(file.stem) for views in clips.files for file in views}
    wanted = [file for file, place in places.items() if not place.is_file()]
    for start in range(0, len(wanted), _FILES_PER_CALL):
        # by now another worker of this node may have it
        missing = [file for file in wanted[start : start + _FILES_PER_CALL] if not places[file].is_file()]
        for file, content in zip(missing, _asked(home.contents.remote(missing)), strict=True):
            if content is not None:
                cache.save_bytes(file.stem, content)
    return replace(clips, files=tuple(tuple(places[file] for file in views) for views in clips.files))


def _watch_for_stop(home: Any, file: Path, closing: threading.Event) -> None:
    while not closing.wait(_STOP_SEEN_WITHIN_S):
        if _asked(home.stop_asked.remote()):
            file.touch()
            return


def _asked(reference: Any) -> Any:
    """What the actor answers; an error of ours as it was raised there."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ReelScribeError):
            raise error.cause from None
        raise
