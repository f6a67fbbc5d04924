"""Bytes on their way to a name: written piece by piece, measured meanwhile, and gone unless they got one.

Use: `with Draft(path) as draft: draft.write(…); …`. Whatever happens, the draft's own name is deleted at the end; what
was linked or renamed before stays. Everything blocks: call it from a thread.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Self

from impasto.files.private import create

CHUNK = 1024 * 1024  # bytes; what is read or compared at a time
HEAD = 1024  # bytes, enough to tell what it is (`images.sniff`)


class Draft:
    def __init__(self, path: Path, *, hashed: bool = False) -> None:
        """`hashed`: `digest` will be asked for. Raises `OSError`."""
        self.path = path
        self.size = 0
        self.head = b""
        self._hash = hashlib.sha256() if hashed else None
        self._file = create(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write(self, data: bytes) -> None:
        """Raises `OSError`: the disk refuses."""
        self._file.write(data)
        if self._hash is not None:
            self._hash.update(data)
        self.size += len(data)
        if len(self.head) < HEAD:
            self.head += data[: HEAD - len(self.head)]

    def flush(self, *, sync: bool) -> None:
        """What was written is in the file; with `sync` on the disk, too. Raises `OSError`."""
        self._file.flush()
        if sync:
            os.fsync(self._file.fileno())

    def discard(self) -> None:
        """Close it and delete its name, if it still has one."""
        with contextlib.suppress(OSError):  # what a full disk did not take
            self._file.close()
        self.path.unlink(missing_ok=True)

    @property
    def digest(self) -> str:
        """SHA-256 of all that was written, as hex digits."""
        assert self._hash is not None, "asked for when it was made"
        return self._hash.hexdigest()


def same_bytes(first: Path, second: Path) -> bool:
    """Whether two files hold the same, read piece by piece. Raises `OSError`."""
    if first.stat().st_size != second.stat().st_size:
        return False
    with first.open("rb") as one, second.open("rb") as other:
        while data := one.read(CHUNK):
            if data != other.read(CHUNK):
                return False
    return True
