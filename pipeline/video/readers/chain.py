"""Which reader serves: the chain of ``auto``, and the one call that turns times into frames."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import numpy as np

from reelscribe.pipeline.errors import UnsupportedCodecError, VideoError
from reelscribe.pipeline.video.containers.probe import Scan
from reelscribe.pipeline.video.types import Backend, Frames, Reader, ReaderName

# The order of trust, by evidence (benchmarks/readers.py: counting videos written in many ways): PyAV is exact in each, notices frames that
# do not decode, seeks, and is as fast as the others; OpenCV lacks AV1 and interlaced pictures, and goes through from the start; decord
# lacks AV1, GIF and MPEG streams, and must go through from the start, too.
CHAIN: tuple[ReaderName, ...] = ("pyav", "opencv", "decord")
_CLASSES: dict[ReaderName, tuple[str, str, str]] = {
    "pyav": ("av", "reelscribe.pipeline.video.readers.pyav", "PyAVReader"),
    "opencv": ("cv2", "reelscribe.pipeline.video.readers.opencv", "OpenCVReader"),
    "decord": ("decord", "reelscribe.pipeline.video.readers.decord", "DecordReader"),
    "torchcodec": ("torchcodec", "reelscribe.pipeline.video.readers.torchcodec", "TorchCodecReader"),  # loads torch: only where asked for
}


def is_installed(name: ReaderName) -> bool:
    """Whether the library of a reader is there; it is not loaded."""
    return find_spec(_CLASSES[name][0]) is not None


def load_reader(name: ReaderName) -> Reader:
    """The reader of that name. Raises UnsupportedCodecError where its library is not installed, or does not load."""
    library, module, attribute = _CLASSES[name]
    if not is_installed(name):
        raise UnsupportedCodecError(f"the reader '{name}' needs the package '{library}', which is not installed here; use backend 'auto'")
    try:
        reader: Reader = getattr(import_module(module), attribute)()
    except (ImportError, OSError, RuntimeError) as error:  # a native library, or one that it needs, is absent or of another version
        raise UnsupportedCodecError(f"the reader '{name}' does not load; 'reelscribe doctor' says why, and backend 'auto' works") from error
    return reader


def read_frames(scan: Scan, times_s: Sequence[float], *, size: tuple[int, int] | None = None, backend: Backend = "auto") -> Frames:
    """The frame on screen at each time, in the order asked for, scaled to ``size`` (height, width).

    ``auto`` goes along CHAIN while a reader cannot decode the file. Every other failure is final: another reader would do no better
    with a file that is cut, or would give frames that nobody can vouch for. Raises the VideoError of the first reader.
    """
    positions = scan.timeline.on_screen(times_s)
    distinct = tuple(sorted(set(positions)))
    failure: VideoError | None = None
    for name in [n for n in CHAIN if is_installed(n)] if backend == "auto" else [backend]:
        try:
            pixels = load_reader(name).read(scan, distinct, size)
        except UnsupportedCodecError as error:
            failure = failure or error
            continue
        return Frames(
            pixels=pixels if positions == distinct else pixels[np.searchsorted(distinct, positions)],
            index=positions,
            pts_seconds=tuple(scan.timeline.seconds(p) for p in positions),
            backend=name,
        )
    raise failure or UnsupportedCodecError(f"{scan.name}: no reader is installed")
