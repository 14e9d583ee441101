"""Writing that survives a kill: a file or folder is complete and synced, or it does not exist.

Temporary names live in the target's own directory, so that the final rename never crosses a file
system; data and directory are synced before and after it. Folders are published under names that
are never reused, and a symbolic link such as ``last`` is swapped to point at the newest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genpolicy.errors import UsageError

__all__ = [
    "RunLock",
    "clean_staging",
    "lock_holder",
    "publish_file",
    "publish_folder",
    "sha256_of",
    "swap_link",
    "write_bytes",
    "write_json",
]

_STAGE = ".staging-"


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _staging_name(target: Path) -> Path:
    return target.parent / f"{_STAGE}{target.name}-{uuid.uuid4().hex[:8]}"


@contextmanager
def publish_file(path: str | Path) -> Iterator[Path]:
    """Yield a name to write to, in the same directory, that becomes ``path`` without an error.

    Readers of ``path`` see the old content or the new.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = _staging_name(target)
    try:
        yield stage
        with open(stage, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(stage, target)
    except BaseException:
        stage.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically: readers see the old content or the new."""
    with publish_file(path) as stage:
        stage.write_bytes(data)


def write_json(path: str | Path, data: Any) -> None:
    """Write ``data`` as sorted, indented, strict JSON (no NaN) to ``path`` atomically."""
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


@contextmanager
def publish_folder(path: str | Path) -> Iterator[Path]:
    """Yield a staging folder that becomes ``path`` when the block ends without an error.

    Args:
        path: the folder to publish. Where it exists already it is replaced: the old one is renamed
            away first and removed last, so a kill between the two leaves a complete old copy that
            ``clean_staging`` puts back.

    Yields:
        The staging folder, in the same directory as ``path``.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = _staging_name(target)
    stage.mkdir()
    try:
        yield stage
        for file in sorted(p for p in stage.rglob("*") if p.is_file()):
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        for folder in [stage, *sorted(p for p in stage.rglob("*") if p.is_dir())]:
            _sync_directory(folder)
        if target.exists():
            old = target.parent / f"{_STAGE}old~{target.name}"
            shutil.rmtree(old, ignore_errors=True)
            os.rename(target, old)
            os.rename(stage, target)
            _sync_directory(target.parent)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(stage, target)
            _sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def clean_staging(directory: str | Path) -> None:
    """Undo what a kill left in ``directory``: stages go, a folder set aside returns."""
    root = Path(directory)
    if not root.is_dir():
        return
    for entry in sorted(root.glob(f"{_STAGE}*")):
        if entry.name.startswith(f"{_STAGE}old~"):
            target = root / entry.name.removeprefix(f"{_STAGE}old~")
            if not target.exists():
                os.rename(entry, target)
                continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def swap_link(link: str | Path, target: str | Path) -> None:
    """Make the symbolic link ``link`` point at ``target`` (relative to it) in one atomic step."""
    place = Path(link)
    stage = _staging_name(place)
    os.symlink(os.path.relpath(target, place.parent), stage)
    os.replace(stage, place)
    _sync_directory(place.parent)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class RunLock:
    """A lock on a folder: a second process is refused with the holder's pid and host.

    The operating system drops the lock with the process, so a killed run never blocks the next.

    Args:
        directory: the folder; created where it is missing.
        wait: whether to wait for the holder instead of being refused.
    """

    def __init__(self, directory: str | Path, *, wait: bool = False) -> None:
        self.path = Path(directory) / ".lock"
        self.wait = wait
        self._handle: Any = None

    def __enter__(self) -> RunLock:
        import fcntl

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(self.path, "a+", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"{self.path.parent} cannot be written ({error.strerror}); choose another folder"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if self.wait else fcntl.LOCK_NB))
        except OSError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            handle.close()
            raise UsageError(
                f"{self.path.parent} is in use by {holder}; wait for it, or choose another folder"
            ) from None
        handle.truncate(0)
        handle.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        self._handle = handle
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()
        self._handle = None


def lock_holder(directory: str | Path) -> str | None:
    """Return who holds the lock of a folder (pid and host), or None where nobody does."""
    import fcntl

    file = Path(directory) / ".lock"
    if not file.exists():
        return None
    with open(file, encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return handle.read().strip() or "another process"
    return None
