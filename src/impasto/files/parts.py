"""Parts of large uploads on their way: one folder a key, in it one an upload, one file a part; gone when complete.

    <folder>/<key>/<upload>/00001          both names are hashes: no name that comes over the wire ever becomes a path

In: numbered parts in any order, as drafts. Out: the joined bytes, in another draft; never a whole file in memory.
Everything blocks: call it from a thread.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from impasto.errors import BadRequest
from impasto.files.draft import CHUNK, Draft

FOLDER = "uploads"  # in the data folder
MAX_PART = 10_000  # highest part number
STALE = 24 * 3600.0  # seconds after which an upload that nobody completed is thrown away

_emptied = threading.Lock()  # nobody removes a key's empty folder while an upload of his begins; one for all `Parts`


class Parts:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def draft(self, key_id: str, token: str, number: int) -> Draft:
        """A part to be written; `keep` gives it its number. Raises `BadRequest` for a number that no part has."""
        _check(number)
        folder = self._of(key_id, token)
        with _emptied:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Draft(folder / f"{number:05d}.{secrets.token_hex(8)}", hashed=True)

    def keep(self, draft: Draft) -> str:
        """The draft becomes the part, replacing an earlier try; → its ETag. Raises `OSError`."""
        draft.flush(sync=False)
        draft.path.replace(draft.path.with_suffix(""))
        return _etag(draft.digest)

    def pending(self, key_id: str, token: str | None = None) -> int:
        """Bytes that wait: of one upload, or of all of a key."""
        # Unlike `glob`, `walk` does not mind an upload that is completed meanwhile.
        return sum(_size(Path(at, name)) for at, _, names in os.walk(self._of(key_id, token)) for name in names)

    def size(self, key_id: str, token: str, number: int) -> int:
        """Bytes of the part as it is now; 0: there is none."""
        return _size(self._part(key_id, token, number))

    def join(self, key_id: str, token: str, parts: Sequence[tuple[int, str]], *, into: Draft) -> None:
        """Write the parts of (number, ETag) pairs, ordered by number. Raises `BadRequest` naming what is missing."""
        if not parts or len({number for number, _ in parts}) != len(parts):
            raise BadRequest("parts lists every part once, at least one.")
        for number, expected in sorted(parts):
            _check(number)
            summed = hashlib.sha256()
            try:
                with self._part(key_id, token, number).open("rb") as part:
                    while data := part.read(CHUNK):
                        summed.update(data)
                        into.write(data)
            except FileNotFoundError:
                raise BadRequest(f"Part {number} was never uploaded.") from None
            if expected.strip('"') != _etag(summed.hexdigest()).strip('"'):
                raise BadRequest(f"Part {number} was uploaded with another ETag than {expected!r}.")

    def drop(self, key_id: str, token: str) -> None:
        shutil.rmtree(self._of(key_id, token), ignore_errors=True)
        _remove_empty(self._of(key_id))

    def sweep(self) -> None:
        """Throw away the parts of uploads that nobody touched for a day."""
        horizon = time.time() - STALE
        for key in self._folder.glob("*"):
            for folder in _folders(key):
                with contextlib.suppress(FileNotFoundError):
                    if folder.stat().st_mtime < horizon:
                        shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(key)

    def _part(self, key_id: str, token: str, number: int) -> Path:
        return self._of(key_id, token) / f"{number:05d}"

    def _of(self, key_id: str, token: str | None = None) -> Path:
        folder = self._folder / _name(key_id)
        return folder if token is None else folder / _name(token)


def _name(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def _folders(key: Path) -> list[Path]:
    return [Path(at, name) for at, names, _ in os.walk(key) for name in names]


def _remove_empty(key: Path) -> None:
    with _emptied, contextlib.suppress(OSError):  # others wait in it
        key.rmdir()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _check(number: int) -> None:
    if not 1 <= number <= MAX_PART:
        # the number may have thousands of digits, for which there is neither a file name nor a text
        given = number if abs(number) < 10**18 else "one so large"
        raise BadRequest(f"The part number is 1 to {MAX_PART}, not {given}.")


def _etag(digest: str) -> str:
    return f'"{digest[:32]}"'
