"""Parts of a large upload on their way: one folder an upload, one file a part, gone when the upload is complete.

In: numbered parts in any order. Out: the joined bytes. Blocking file work: call it in a thread.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from impasto.errors import BadRequest, PayloadTooLarge

MAX_PART = 10_000  # highest part number
STALE = 24 * 3600.0  # seconds after which an upload that nobody completed is thrown away


class Parts:
    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def put(self, token: str, number: int, data: bytes) -> str:
        """Keep a part, replacing an earlier try; → its ETag. Raises `PayloadTooLarge` past the limit of one file."""
        _check(number)
        folder = self._of(token)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:05d}"
        others = sum(other.stat().st_size for other in folder.iterdir() if other.name != path.name)
        if others + len(data) > self._max_bytes:
            raise PayloadTooLarge(f"The parts together are larger than {self._max_bytes} bytes (server.max_upload_mb).")
        draft = path.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}")
        draft.write_bytes(data)
        draft.replace(path)
        return etag(data)

    def join(self, token: str, parts: Sequence[tuple[int, str]]) -> bytes:
        """The bytes of (number, ETag) pairs, ordered by number. Raises `BadRequest` naming what is missing."""
        folder = self._of(token)
        if not parts or len({number for number, _ in parts}) != len(parts):
            raise BadRequest("parts lists every part once, at least one.")
        joined: list[bytes] = []
        for number, expected in sorted(parts):
            _check(number)
            path = folder / f"{number:05d}"
            data = path.read_bytes() if path.is_file() else None
            if data is None:
                raise BadRequest(f"Part {number} was never uploaded.")
            if expected.strip('"') != etag(data).strip('"'):
                raise BadRequest(f"Part {number} was uploaded with another ETag than {expected!r}.")
            joined.append(data)
        return b"".join(joined)

    def drop(self, token: str) -> None:
        shutil.rmtree(self._of(token), ignore_errors=True)

    def sweep(self) -> None:
        """Throw away the parts of uploads that nobody touched for a day."""
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            if folder.stat().st_mtime < time.time() - STALE:
                shutil.rmtree(folder, ignore_errors=True)

    def _of(self, token: str) -> Path:
        # a hash, so that no name that comes over the wire ever becomes a path
        return self._folder / hashlib.sha256(token.encode("utf-8")).hexdigest()[:32]


def _check(number: int) -> None:
    if not 1 <= number <= MAX_PART:
        # the number may have thousands of digits, for which there is neither a file name nor a text
        given = number if abs(number) < 10**18 else "one so large"
        raise BadRequest(f"The part number is 1 to {MAX_PART}, not {given}.")


def etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'
