"""Content-addressed cache of arrays computed from clips: encoder outputs, or frames where the encoder itself learns.

A file's name is the digest of everything that its content depends on (the video's bytes, the cut, the sampling plan, the frame
size, the augmentation and the encoder's weights), so an entry can be absent but never stale.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from reelscribe.pipeline.errors import TruncatedVideoError, VideoError
from reelscribe.pipeline.video.clip import Clip, ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.sources.source import content_digest

if TYPE_CHECKING:
    from torch import nn

AnyArray = npt.NDArray[Any]
_FORMAT = 2  # to be raised when decoding, augmentation or encoding give other numbers for the same request


@dataclass(frozen=True, kw_only=True)
class ArrayRequest:
    """One array to have: how its clip is decoded, and whatever else ``compute`` depends on."""

    clip: ClipRequest
    recipe: tuple[str, ...]  # e.g. the encoder's digest and the augmentation with its seed


Compute = Callable[[Clip, ArrayRequest], AnyArray]


@dataclass(frozen=True, kw_only=True)
class Computed:
    """An array, and the digest of the file whose bytes were decoded for it."""

    digest: str
    array: AnyArray


class Spread(ABC):
    """Decodes and computes elsewhere, as on the nodes of a cluster."""

    @abstractmethod
    def arrays(self, requests: Iterable[ArrayRequest], compute: Compute) -> Iterator[tuple[ArrayRequest, Computed | VideoError]]:
        """What each request gives, in order of completion. ``compute`` goes where the clips are, so it must travel."""


class FeatureCache:
    """A folder of ``.npy`` files named by digest; many processes may fill it at once.

    An object of this class digests each video once: it is for one training, or a series over the same files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str | VideoError] = {}

    def digest(self, uri: str) -> str | VideoError:
        """See source.content_digest; a video that cannot be read gives the reason."""
        if uri not in self._digests:
            self._digests[uri] = _digest_or_error(uri)
        return self._digests[uri]

    def path(self, key: str) -> Path:
        """Where the array of this key is, or would be."""
        return self.folder / key[:2] / f"{key}.npy"

    def save(self, key: str, array: AnyArray) -> None:
        """Store an array; readers see it whole or not at all."""
        with self._new(key) as temporary:
            np.save(temporary, array)

    def save_bytes(self, key: str, content: bytes) -> None:
        """Store what another cache has in the file of this key."""
        with self._new(key) as temporary:
            temporary.write_bytes(content)

    @contextmanager
    def _new(self, key: str) -> Iterator[Path]:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{key}.{uuid.uuid4().hex}.npy")
        try:
            yield temporary
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)

    def fill(
        self,
        requests: Iterable[ArrayRequest],
        *,
        pool: DecodePool | Spread,
        compute: Compute,
    ) -> Iterator[tuple[ArrayRequest, Path | VideoError]]:
        """Have every array, decoding only for those that are missing; yields each request once, in order of completion."""
        missing: list[ArrayRequest] = []
        for request in requests:
            content = self.digest(request.clip.uri)
            if isinstance(content, VideoError):
                yield request, content
                continue
            key = _key(request, content)
            if self.path(key).exists():
                yield request, self.path(key)
            else:
                missing.append(request)
        arrays = pool.arrays(missing, compute) if isinstance(pool, Spread) else decoded_here(pool, missing, compute)
        for request, computed in arrays:
            if isinstance(computed, VideoError):
                yield request, computed
            else:
                key = _key(request, computed.digest)  # of the bytes that were decoded, should the file have changed meanwhile
                self.save(key, computed.array)
                yield request, self.path(key)


def decoded_here(
    pool: DecodePool, requests: Iterable[ArrayRequest], compute: Compute
) -> Iterator[tuple[ArrayRequest, Computed | VideoError]]:
    """As ``Spread.arrays``, by the decode processes of ``pool`` and this one."""
    for request, clip in pool.map((request, request.clip) for request in requests):
        yield request, clip if isinstance(clip, VideoError) else Computed(digest=clip.digest, array=compute(clip, request))


def module_digest(module: nn.Module) -> str:
    """SHA-256 over the names and values of a network's tensors, hex."""
    total = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().numpy().tobytes())
    return total.hexdigest()


def _digest_or_error(uri: str) -> str | VideoError:
    try:
        return content_digest(uri)
    except VideoError as error:
        return error
    except OSError as error:
        return TruncatedVideoError(f"{uri}: cannot be read to its end: {error.strerror or error}")


def _key(request: ArrayRequest, file_digest: str) -> str:
    clip = request.clip
    content = {
        "format": _FORMAT,
        "file": file_digest,
        "cut": [clip.start_s, clip.end_s],
        "sampling": clip.sampling.model_dump(mode="json"),
        "size": [clip.size.height, clip.size.width, clip.size.fit],
        "jitter": clip.jitter_seed,
        "backend": clip.backend,
        "recipe": request.recipe,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
