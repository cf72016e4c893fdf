"""Workers on nodes that share no disk with the one that launched the training: an actor there relays what they need.

It sends stored arrays, which each node keeps in a cache of its own, reads and writes checkpoints, and passes a request to stop on. What a
worker reaches by itself it uses as it is.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reelscribe.pipeline.config import user_cache
from reelscribe.pipeline.errors import ReelScribeError, TrainingError
from reelscribe.pipeline.features import FeatureCache
from reelscribe.pipeline.stores import S3
from reelscribe.pipeline.training.checkpoints import CheckpointFacts, Checkpoints
from reelscribe.pipeline.training.data import ClipSet, TrainingData
from reelscribe.pipeline.training.steps.bad_batch import BAD_BATCH_FILE
from reelscribe.pipeline.training.stopping import STOP_FILE

_FILES_PER_CALL = 64
_BYTES_PER_CALL = 64 * 2**20
_STOP_SEEN_WITHIN_S = 1.0


class Relay:
    """The actor, on the node of the process that launched the training."""

    def __init__(self, folder: Path, checkpoints: Checkpoints | None) -> None:
        self.folder, self.checkpoints = folder, checkpoints

    def contents(self, files: list[Path]) -> list[bytes | None]:
        """Of the first of these files, as many as are not too much for one answer; None for one that is not there."""
        found: list[bytes | None] = []
        size = 0
        while len(found) < len(files) and size < _BYTES_PER_CALL:
            file = files[len(found)]
            found.append(file.read_bytes() if file.is_file() else None)
            size += len(found[-1] or b"")
        return found

    def stop_asked(self) -> bool:
        """See `stopping`."""
        return (self.folder / STOP_FILE).exists()

    def keep(self, name: str, data: bytes) -> None:
        """A file for the folder of the run."""
        (self.folder / f".{name}").write_bytes(data)
        (self.folder / f".{name}").replace(self.folder / name)

    def write(self, facts: CheckpointFacts, data: bytes) -> None:
        """See Checkpoints, as of the next two."""
        assert self.checkpoints
        self.checkpoints.write(facts, data)

    def newest(self) -> CheckpointFacts | None:  # noqa: D102
        assert self.checkpoints
        return self.checkpoints.newest()

    def read(self, facts: CheckpointFacts) -> bytes | None:  # noqa: D102
        assert self.checkpoints
        return self.checkpoints.read(facts)


@dataclass(frozen=True, kw_only=True)
class RelayedCheckpoints(Checkpoints):
    """Checkpoints in a folder that this node does not see."""

    relay: Any  # the handle of the actor

    def write(self, facts: CheckpointFacts, data: bytes) -> None:
        """See Checkpoints."""
        _get(self.relay.write.remote(facts, data))

    def newest(self) -> CheckpointFacts | None:
        """See Checkpoints."""
        found: CheckpointFacts | None = _get(self.relay.newest.remote())
        return found

    def read(self, facts: CheckpointFacts) -> bytes | None:
        """See Checkpoints."""
        data: bytes | None = _get(self.relay.read.remote(facts))
        return data


@dataclass(frozen=True, kw_only=True)
class Reachable:
    """What the loop reads and writes, where this worker reaches it."""

    data: TrainingData
    folder: Path
    checkpoints: Checkpoints | None


@contextmanager
def reachable(relay: Any, data: TrainingData, folder: Path, checkpoints: Checkpoints | None, *, share: float = 0.0) -> Iterator[Reachable]:
    """Inside, this worker reaches all it needs; ``relay`` is None where every worker is on the node that launched the training.

    ``folder`` is that of the run. What the loop leaves for a person to look at gets there. Workers that begin to fetch at different
    ``share``s of the files find what others of their node have fetched.
    """
    if relay is not None:
        data = replace(data, train=_fetched(relay, data.train, share), val=_fetched(relay, data.val, share))
        if checkpoints and not checkpoints.root.startswith(S3) and not Path(checkpoints.root).is_dir():
            checkpoints = RelayedCheckpoints(**vars(checkpoints), relay=relay)
    if relay is None or folder.is_dir():
        yield Reachable(data=data, folder=folder, checkpoints=checkpoints)
        return
    with tempfile.TemporaryDirectory() as name, _stop_passed_on(relay, here := Path(name)):
        try:
            yield Reachable(data=data, folder=here, checkpoints=checkpoints)
        except TrainingError as error:
            if (here / BAD_BATCH_FILE).exists():
                _get(relay.keep.remote(BAD_BATCH_FILE, (here / BAD_BATCH_FILE).read_bytes()))
            raise TrainingError(str(error).replace(str(here), str(folder))) from None


def _fetched(relay: Any, clips: ClipSet, share: float) -> ClipSet:
    """The same clips with files of this node; one that is nowhere keeps its path."""
    cache = FeatureCache(user_cache() / "arrays")
    files = list(dict.fromkeys(file for views in clips.files for file in views))
    begin = int(share * len(files))
    wanted = files[begin:] + files[:begin]
    for start in range(0, len(wanted), _FILES_PER_CALL):
        asked = wanted[start : start + _FILES_PER_CALL]
        while asked := [file for file in asked if not file.is_file() and not cache.path(file.stem).is_file()]:
            contents = _get(relay.contents.remote(asked))
            for file, content in zip(asked, contents, strict=False):
                if content is not None:
                    cache.save_bytes(file.stem, content)
            asked = asked[len(contents) :]
    places = {file: file if file.is_file() or not cache.path(file.stem).is_file() else cache.path(file.stem) for file in files}
    return replace(clips, files=tuple(tuple(places[file] for file in views) for views in clips.files))


@contextmanager
def _stop_passed_on(relay: Any, folder: Path) -> Iterator[None]:
    """Inside, a request to stop that appears in the folder of the run appears in this one too."""
    closing = threading.Event()

    def watch() -> None:
        while not closing.wait(_STOP_SEEN_WITHIN_S):
            if _get(relay.stop_asked.remote()):
                (folder / STOP_FILE).touch()
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        closing.set()
        watching.join()


def _get(reference: Any) -> Any:
    """What the actor answers; an error of ours as it was raised there."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ReelScribeError):
            raise error.cause from None
        raise
