"""The leak guard: what is held out must not be trained on, nor a copy of it, nor a clip of the same source.

Three kinds are found: a group on both sides, the same bytes on both sides, and clips that look the same (a copy at another size, quality or
brightness). A copy that starts later, is mirrored or carries a logo may pass, and clips cut from one recording at different times do look
different: of those only a group can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reelscribe.pipeline.config import Config
from reelscribe.pipeline.errors import ManifestError, VideoError
from reelscribe.pipeline.features import AnyArray, ArrayRequest, FeatureCache, Spread
from reelscribe.pipeline.training.recipes.splits import Row, Splits, row_request
from reelscribe.pipeline.video import fingerprint as look
from reelscribe.pipeline.video.clip import Clip
from reelscribe.pipeline.video.sandbox.pool import DecodePool

_SHOWN = 10  # leaks listed in one message


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A training clip and a held-out clip that are not independent."""

    kind: Literal["group", "file", "look"]
    train: str  # video id
    held_out: str  # video id
    detail: str

    def __str__(self) -> str:
        return f"{self.detail}: {self.train} is trained on, {self.held_out} held out"


def find_leaks(
    splits: Splits, config: Config, *, pool: DecodePool | Spread, cache: FeatureCache, progress: Callable[[int, int], None]
) -> tuple[Leak, ...]:
    """Every leak between training and held-out rows; of a group or a file that is on both sides, one pair.

    A clip that cannot be decoded is not trained on and leaks nothing. Raises ManifestError that lists the leaks, unless
    ``data.allow_leaks``.
    """
    train, held_out = splits.train, splits.val + splits.test
    leaks = list(_shared(train, held_out, "group", "group '{}'", lambda row: row["group"]))
    _refuse(leaks, config)  # before anything is decoded
    prints: dict[str, look.Fingerprint] = {}
    if config.data.leak_check == "frames":
        prints = _fingerprints(train + held_out, config, pool, cache, progress)
        train, held_out = ([row for row in rows if row["video_id"] in prints] for rows in (train, held_out))
    leaks += _shared(train, held_out, "file", "the same file", lambda row: _digest(cache, row))
    known = {(leak.train, leak.held_out) for leak in leaks}
    leaks += [leak for leak in _alike(train, held_out, prints) if (leak.train, leak.held_out) not in known]
    _refuse(leaks, config)
    return tuple(leaks)


def _shared(
    train: list[Row], held_out: list[Row], kind: Literal["group", "file"], words: str, key: Callable[[Row], str | None]
) -> Iterator[Leak]:
    """One leak per key that rows of both sides have."""
    trained = {name: row for row in reversed(train) if (name := key(row))}
    seen: set[str] = set()
    for row in held_out:
        name = key(row)
        if name and name in trained and name not in seen:
            seen.add(name)
            yield Leak(kind=kind, train=trained[name]["video_id"], held_out=row["video_id"], detail=words.format(name))


def _digest(cache: FeatureCache, row: Row) -> str | None:
    digest = cache.digest(row["uri"])
    return None if isinstance(digest, VideoError) else digest


def _alike(train: list[Row], held_out: list[Row], prints: dict[str, look.Fingerprint]) -> Iterator[Leak]:
    """Pairs of clips that look the same, most alike first."""
    if not (prints and train and held_out):
        return
    first, second = (np.stack([prints[row["video_id"]] for row in rows]) for rows in (train, held_out))
    for i, j, bits in sorted(look.similar(first, second), key=lambda found: found[2]):
        words = f"they look the same ({bits} of {look.BITS} bits differ)"
        yield Leak(kind="look", train=train[i]["video_id"], held_out=held_out[j]["video_id"], detail=words)


def _fingerprints(
    rows: list[Row], config: Config, pool: DecodePool | Spread, cache: FeatureCache, progress: Callable[[int, int], None]
) -> dict[str, look.Fingerprint]:
    """By video id, for the rows that can be decoded; kept in the cache."""
    clips = {row["video_id"]: row_request(row, sampling=look.SAMPLING, size=look.SIZE, backend=config.decode.backend) for row in rows}
    requests = {video_id: ArrayRequest(clip=clip, recipe=(look.FORMAT,)) for video_id, clip in clips.items()}
    files = {}
    for done, (request, result) in enumerate(cache.fill(requests.values(), pool=pool, compute=_compute), start=1):
        if not isinstance(result, VideoError):
            files[request] = result
        progress(done, len(requests))
    return {video_id: np.load(files[request]) for video_id, request in requests.items() if request in files}


def _compute(clip: Clip, request: ArrayRequest) -> AnyArray:  # noqa: ARG001 - as FeatureCache.fill calls it
    return look.fingerprint(clip.views[0].pixels)


def _refuse(leaks: list[Leak], config: Config) -> None:
    """Raises ManifestError that lists the leaks, if there are any and they are not allowed."""
    if not leaks or config.data.allow_leaks:
        return
    lines = [f"{config.data.manifest}: {len(leaks)} leak(s) between training and held-out clips, so that scores would not be true:"]
    lines += [f"  {leak}" for leak in leaks[:_SHOWN]]
    if len(leaks) > _SHOWN:
        lines.append(f"  ... and {len(leaks) - _SHOWN} more")
    lines.append(
        "remove one of each pair or put both on one side, or train nevertheless by data.allow_leaks=true: the result is then marked"
    )
    raise ManifestError("\n".join(lines))
