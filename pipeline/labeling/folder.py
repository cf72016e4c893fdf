"""An output folder that one process writes at a time, and in which a file is there whole or not at all.

A store of objects needs no more than ``put``, ``get`` and ``sizes``: nothing here is ever appended to or changed in place.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyarrow import fs

from reelscribe.pipeline.console import note
from reelscribe.pipeline.errors import OutputConflictError, ReelScribeError, UsageError
from reelscribe.pipeline.stores import S3, locate

LOCK_FILE = "_job/lock"
TEMPORARY_FOLDER = "_job/tmp"  # on the same file system as all the rest, and where no reader looks
PATIENCE_S = 300.0  # how long a store of objects may be away in the middle of a job
_PASSING = re.compile(
    "NETWORK_CONNECTION|SLOW_DOWN|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|THROTTLING|REQUEST_TIMEOUT|HTTP status 5|imed out|curlCode"
)
LEASE_S = 120.0  # a writer that has not renewed its lock for so long is gone; clocks of machines that share a store must agree better


class OutputFolder(ABC):
    """Files by names relative to the folder, such as ``labels/part-00000.parquet``."""

    def __init__(self, where: str | Path) -> None:
        self.name = str(where).rstrip("/")
        try:
            self.files, self.base = locate(where)
        except OSError as error:
            raise UsageError(f"cannot write to {where}: {error}") from error

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Store a file durably, replacing one of that name in one step. Raises ReelScribeError where the store refuses."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder for this process, and remove what a killed one left. Raises OutputConflictError while another holds it."""

    @abstractmethod
    def holder(self) -> dict[str, Any] | None:
        """The process that holds the folder: ``pid``, ``host``, ``since``; None where nobody does."""

    def get(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is none. Raises ReelScribeError where the store fails."""
        try:
            with self.files.open_input_stream(f"{self.base}/{name}") as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ReelScribeError(f"cannot read {self.name}/{name}: {error}") from error

    def sizes(self, folder: str) -> dict[str, int]:
        """Names and sizes in bytes of the files of a folder; empty where there is no such folder."""
        return {info.base_name: info.size for info in self.entries(folder) if info.is_file}

    def is_file(self) -> bool:
        """Whether there is a file and no folder."""
        return bool(self.files.get_file_info(self.base).is_file)

    def names(self) -> list[str]:
        """Files and folders at the top, sorted."""
        return sorted(info.base_name for info in self.entries(""))

    def entries(self, folder: str) -> list[Any]:
        """Arrow's facts of what lies in a folder. Raises ReelScribeError where the store fails."""
        try:
            found: list[Any] = self.files.get_file_info(fs.FileSelector(f"{self.base}/{folder}".rstrip("/"), allow_not_found=True))
        except OSError as error:
            raise ReelScribeError(f"cannot list {self.name}/{folder}: {error}") from error
        return found

    def _refused(self, name: str, error: OSError) -> ReelScribeError:
        return ReelScribeError(
            f"cannot write {self.name}/{name}: {error.strerror or error}; what was committed stays, and the same command goes on from there"
        )


def open_folder(where: str | Path) -> OutputFolder:
    """The folder at a path or ``s3://bucket/prefix``. Raises UsageError for another scheme, or a bucket alone."""
    text = str(where)
    if text.startswith(S3):
        if not text.removeprefix(S3).rstrip("/").partition("/")[2]:
            raise UsageError(f"{text}: expected s3://bucket/folder")
        return ObjectFolder(text)
    if "://" in text:
        raise UsageError(f"cannot write to {text}: expected a folder or s3://bucket/folder")
    return LocalFolder(where)


class LocalFolder(OutputFolder):
    """A folder of this machine, or of a network file system that has locks."""

    def put(self, name: str, data: bytes) -> None:
        """See OutputFolder."""
        target = Path(self.base) / name
        temporary = Path(self.base) / TEMPORARY_FOLDER / target.name  # one file at a time is written
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
            raise self._refused(name, error) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The kernel drops the lock with the process that holds it, however that ends, so no lock is ever stale."""
        path = Path(self.base) / LOCK_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write to the output folder {self.name}: {error.strerror or error}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _held(self.name, self._said()) from None
            file.truncate(0)
            json.dump(_this_process(), file)
            file.flush()
            for name in self.sizes(TEMPORARY_FOLDER):
                (Path(self.base) / TEMPORARY_FOLDER / name).unlink()
            yield

    def holder(self) -> dict[str, Any] | None:
        """See OutputFolder."""
        try:
            with (Path(self.base) / LOCK_FILE).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return self._said()
        return None

    def _said(self) -> dict[str, Any]:
        """What the holder has written of itself; nothing where it has not yet."""
        try:
            said: dict[str, Any] = json.loads(self.get(LOCK_FILE) or b"{}")
        except ValueError:
            return {}
        return said


class ObjectFolder(OutputFolder):
    """A prefix of an object store, where an object appears when it is complete.

    Such a store has no lock that ends with a process: the holder writes its name with a time until which it holds, and renews that. Should
    two have begun at the same moment, the one that finds the other's name gives up, and both have written the same rows.
    """

    def put(self, name: str, data: bytes) -> None:
        """See OutputFolder. A store that answers that it cannot now, or does not answer, is asked again for PATIENCE_S."""
        until, pause_s = time.monotonic() + PATIENCE_S, 1.0
        while True:
            try:
                self._store(name, data)
            except OSError as error:
                if not _PASSING.search(str(error)) or time.monotonic() + pause_s > until:
                    raise self._refused(name, error) from error
                note(f"{self.name} cannot be written to now; trying again for {until - time.monotonic():.0f} s ({error})")
                time.sleep(pause_s)
                pause_s *= 2
            else:
                return

    def _store(self, name: str, data: bytes) -> None:
        with self.files.open_output_stream(f"{self.base}/{name}") as file:
            file.write(data)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See OutputFolder."""
        if (other := self.holder()) is not None:
            raise _held(self.name, other)
        lease = _Lease(self)
        lease.renew()
        thread = threading.Thread(target=lease.keep, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            lease.ended.set()
            thread.join()
            if not lease.lost:
                with suppress(OSError):  # a store that does not answer: the lease ends by itself
                    self.files.delete_file(f"{self.base}/{LOCK_FILE}")
        if lease.lost:
            raise OutputConflictError(f"{self.name} was taken over by another job; its rows are the ones that count")

    def holder(self) -> dict[str, Any] | None:
        """See OutputFolder."""
        said: dict[str, Any] = json.loads(self.get(LOCK_FILE) or b"{}")
        return said if said.get("until", 0.0) > time.time() and not _has_ended(said) else None


class _Lease:
    """The lock of one writer on a store of objects."""

    def __init__(self, folder: ObjectFolder) -> None:
        self.folder = folder
        self.said = _this_process() | {"token": secrets.token_hex(8)}
        self.ended = threading.Event()
        self.lost = False

    def renew(self) -> None:
        self.folder.put(LOCK_FILE, json.dumps(self.said | {"until": time.time() + LEASE_S}).encode())

    def keep(self) -> None:
        """Renew until the end, or until another writer's name stands there. A store that fails for a while is asked again."""
        while not self.ended.wait(LEASE_S / 4):
            try:
                other = self.folder.holder()
                if other is not None and other.get("token") != self.said["token"]:
                    self.lost = True
                    return
                self.renew()
            except ReelScribeError:
                continue


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node(), "since": datetime.now(UTC).isoformat(timespec="seconds")}


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether a holder is a process of this machine that is gone; of other machines nothing is known."""
    if holder.get("host") != platform.node():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _held(name: str, holder: dict[str, Any]) -> OutputConflictError:
    who = f" (process {holder['pid']} on {holder['host']} since {holder['since']})" if "pid" in holder else ""
    return OutputConflictError(f"{name} is being written by another job{who}; wait for it or stop it")


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
