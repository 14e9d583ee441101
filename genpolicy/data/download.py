"""Fetching a published file: resumable, checked, and complete or not there at all.

Bytes arrive in ``NAME.part`` beside the target, so that the final rename never crosses a file
system. A download that was cut or killed goes on where it stopped, when the server says that the
file is still the same one (``If-Range``); otherwise it starts over. Addresses are tried in order.

A file is compared with its known SHA-256. Where none is known, that of the first download is
trusted, recorded in ``NAME.sha256`` (as ``sha256sum`` writes it) and compared from then on.

Nothing here runs unless it is asked for, and ``GENPOLICY_OFFLINE=1`` refuses even then.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from genpolicy.data.reading import DamagedFileError
from genpolicy.errors import DataError
from genpolicy.files import sha256_of, write_bytes, write_json

__all__ = ["by_hand", "download", "is_offline", "recorded_sha256", "verify_file"]

_BLOCK = 1 << 16  # bytes


def is_offline() -> bool:
    """Whether ``GENPOLICY_OFFLINE`` forbids the network."""
    return os.environ.get("GENPOLICY_OFFLINE", "") not in ("", "0")


def download(
    urls: Sequence[str],
    path: str | Path,
    *,
    sha256: str | None = None,
    n_attempts: int = 3,
    timeout_s: float = 30.0,
    progress: bool = False,
) -> Path:
    """Fetch a file to ``path``, replacing what is there once the new one is complete and checked.

    Args:
        urls: addresses of the same file, tried in order.
        path: where it is to be.
        sha256: its known SHA-256, or None to trust and record that of the first download.
        n_attempts: tries per address when the connection breaks; each resumes the one before.
        timeout_s: seconds without a byte after which the connection counts as broken.
        progress: show a progress bar.

    Returns:
        ``path``.

    Raises:
        DataError: when it cannot be fetched, saying why for each address and how to do it by hand.
    """
    target = Path(path)
    if is_offline():
        raise DataError(
            f"GENPOLICY_OFFLINE is set, so {target.name} was not fetched; unset it, or "
            f"{by_hand(urls, target)}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    failures: list[str] = []
    for url in urls:
        reason = _fetch(url, part, target, sha256, n_attempts, timeout_s, progress)
        if reason is None:
            return target
        failures.append(f"{url}: {reason}")
    if part.exists() and part.stat().st_size == 0:
        part.unlink()
    raise DataError(
        f"{target.name} could not be fetched ({'; '.join(failures)}); try again later, or "
        f"{by_hand(urls, target)}"
    )


def by_hand(urls: Sequence[str], target: Path) -> str:
    """Return instructions for fetching a file without this library."""
    where = " or ".join(urls) if urls else "it"
    return (
        f"download {where} by hand and put it at {target}, or into the folder that the environment "
        "variable GENPOLICY_DATA names"
    )


def recorded_sha256(path: str | Path) -> str | None:
    """Return the SHA-256 recorded beside a downloaded file, or None without a record."""
    place = Path(f"{path}.sha256")
    if not place.is_file():
        return None
    words = place.read_text(encoding="utf-8").split()
    return words[0] if words else None


def verify_file(path: str | Path, *, sha256: str | None = None) -> bool:
    """Compare a file with its known or recorded SHA-256.

    Returns:
        Whether there was anything to compare with.

    Raises:
        DamagedFileError: when they differ. The file is not deleted.
    """
    expected = sha256 or recorded_sha256(path)
    if expected is None:
        return False
    found = sha256_of(path)
    if found != expected:
        raise DamagedFileError(
            f"{path}: changed or corrupt: expected sha256 {expected}, is {found}"
        )
    return True


def _fetch(
    url: str,
    part: Path,
    target: Path,
    sha256: str | None,
    n_attempts: int,
    timeout_s: float,
    progress: bool,
) -> str | None:
    """Fetch from one address; returns None when done and otherwise what went wrong."""
    import requests

    reason = "never tried"
    for _ in range(n_attempts):
        with open(part, "ab") as handle:
            _lock(handle, target)
            try:
                _Transfer(url, part, is_checked=sha256 is not None).run(handle, timeout_s, progress)
            except requests.exceptions.HTTPError as error:
                status = 0 if error.response is None else error.response.status_code
                if status != 416:
                    return f"HTTP status {status}"
                # The part is not a piece of the file as it is now.
                handle.truncate(0)
                reason = "HTTP status 416 for the partial file"
                continue
            except requests.exceptions.RequestException as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            os.fsync(handle.fileno())
            found = sha256_of(part)
            if sha256 is not None and found != sha256:
                part.unlink()
                return f"expected sha256 {sha256}, received {found}"
            _publish(part, target, found)
            if sha256 is None:
                warnings.warn(
                    f"no SHA-256 of {target.name} is published; this download's, {found}, is "
                    f"recorded in {target}.sha256 and compared from now on",
                    stacklevel=3,
                )
            return None
    return reason


def _lock(handle: IO[bytes], target: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DataError(
            f"{target} is being fetched by another process; wait until it is done"
        ) from error


def _publish(part: Path, target: Path, sha256: str) -> None:
    """Move a complete file to its place and record its hash, never beside another file's."""
    record = Path(f"{target}.sha256")
    record.unlink(missing_ok=True)
    os.replace(part, target)
    write_bytes(record, f"{sha256}  {target.name}\n".encode())
    _note_of(part).unlink(missing_ok=True)


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


class _Transfer:
    """One request for the rest of a file, or for all of it."""

    def __init__(self, url: str, part: Path, *, is_checked: bool) -> None:
        self.url, self.part, self.is_checked = url, part, is_checked

    def run(self, handle: IO[bytes], timeout_s: float, progress: bool) -> None:
        """Append to the partial file what is missing, or replace what it holds."""
        pooch: Any = importlib.import_module("pooch")
        headers = {"Accept-Encoding": "identity"}
        have = handle.tell()
        validator = self._validator()
        if have and (validator or self.is_checked):
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator

        def begin(response: Any, *_args: Any, **_settings: Any) -> None:
            if response.status_code == 200:
                handle.truncate(0)
                note = {"url": self.url, "validator": _validator_in(response.headers)}
                write_json(_note_of(self.part), note)

        fetch = pooch.HTTPDownloader(
            progressbar=progress,
            chunk_size=_BLOCK,
            headers=headers,
            timeout=timeout_s,
            hooks={"response": begin},
        )
        fetch(self.url, handle, None)

    def _validator(self) -> str | None:
        """Return what identifies the version of the file that the partial file is a piece of."""
        try:
            note = json.loads(_note_of(self.part).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note["validator"] if note["url"] == self.url else None


def _validator_in(headers: Any) -> str | None:
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return headers.get("Last-Modified")
