"""An output folder that one process writes at a time, and in which a file is there whole or not at all.

A store of objects needs no more than ``put``, ``get`` and ``sizes``: nothing here is ever appended to or changed in place.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from reelscribe.pipeline.errors import OutputConflictError, ReelScribeError, UsageError

LOCK_FILE = "_job/lock"
TEMPORARY_FOLDER = "_job/tmp"  # on the same file system as all the rest, and where no reader looks


class OutputFolder:
    """Files under ``root``, by names relative to it such as ``labels/part-00000.parquet``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, data: bytes) -> None:
        """Store a file durably, replacing one of that name in one step. Raises ReelScribeError where the disk refuses."""
        target = self.root / name
        temporary = self.root / TEMPORARY_FOLDER / name.replace("/", "-")
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise ReelScribeError(
                f"cannot write {target}: {error.strerror or error}; what was committed stays, and the same command goes on from there"
            ) from error

    def get(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is none."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def sizes(self, folder: str) -> dict[str, int]:
        """Names and sizes in bytes of the files of a folder; empty where there is no such folder."""
        try:
            with os.scandir(self.root / folder) as entries:
                return {e.name: e.stat().st_size for e in entries if e.is_file()}
        except FileNotFoundError:
            return {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises OutputConflictError while another process holds it.

        The kernel drops the lock with the process that holds it, however that ends, so no lock is ever stale.
        """
        path = self.root / LOCK_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write to the output folder {self.root}: {error.strerror or error}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputConflictError(f"{self.root} is being written by another job{_holder(path)}; wait for it or stop it") from None
            file.truncate(0)
            json.dump({"pid": os.getpid(), "host": platform.node(), "since": datetime.now(UTC).isoformat(timespec="seconds")}, file)
            file.flush()
            yield

    def sweep(self) -> None:
        """Remove what a killed process left half written. Only for the holder of the lock."""
        for name in self.sizes(TEMPORARY_FOLDER):
            (self.root / TEMPORARY_FOLDER / name).unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _holder(path: Path) -> str:
    """`` (process 123 on HOST since TIME)``, or nothing where the holder has not written it yet."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f" (process {holder['pid']} on {holder['host']} since {holder['since']})"
    except (ValueError, KeyError):
        return ""
