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
from dataclasses import dataclass
from pathlib import Path

from impasto.errors import BadRequest
from impasto.files.draft import CHUNK, Draft
from impasto.files.private import make_folder

FOLDER = "uploads"  # in the data folder
MAX_PART = 10_000  # highest part number
_PARTS = "[0-9]" * 5  # names of parts; those of drafts are longer
STALE = 24 * 3600.0  # seconds after which an upload that nobody completed is thrown away

_lock = threading.Lock()  # over folders and ledgers: a key's empty folder is not removed while an upload begins


@dataclass(slots=True)
class Usage:
    """What waits: bytes and files."""

    size: int = 0
    files: int = 0


class _Ledger:
    """The sums of what waits below a folder: read from the disk once a key, kept up to date afterwards."""

    def __init__(self) -> None:
        self.keys: dict[str, Usage] = {}
        self.uploads: dict[tuple[str, str], Usage] = {}

    def load(self, key: Path) -> None:
        if key.name in self.keys:
            return
        total = self.keys[key.name] = Usage()
        for upload in _folders(key):
            if "." in upload.name:  # on its way out
                continue
            for path in upload.glob(_PARTS):
                size = _size(path)
                for sum_ in (total, self.uploads.setdefault((key.name, upload.name), Usage())):
                    sum_.size += size
                    sum_.files += 1

    def add(self, upload: Path, *, size: int, files: int) -> None:
        name = (upload.parent.name, upload.name)
        for sum_ in (self.keys[upload.parent.name], self.uploads.setdefault(name, Usage())):
            sum_.size += size
            sum_.files += files

    def drop(self, upload: Path) -> None:
        gone = self.uploads.pop((upload.parent.name, upload.name), Usage())
        if total := self.keys.get(upload.parent.name):
            total.size -= gone.size
            total.files -= gone.files


_ledgers: dict[Path, _Ledger] = {}  # by folder, for all `Parts` of this process


class Parts:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _lock:
            self._ledger = _ledgers.setdefault(folder.absolute(), _Ledger())

    def draft(self, key_id: str, token: str, number: int) -> Draft:
        """A part to be written; `keep` gives it its number. Raises `BadRequest` for a number that no part has."""
        _check(number)
        folder = self._of(key_id, token)
        with _lock:
            make_folder(folder)
        return Draft(folder / f"{number:05d}.{secrets.token_hex(8)}", hashed=True)

    def keep(self, draft: Draft) -> str:
        """The draft becomes the part, replacing an earlier try; → its ETag. Raises `OSError`."""
        draft.flush(sync=False)
        part = draft.path.with_suffix("")
        with _lock:
            self._ledger.load(part.parent.parent)
            before = _size(part) if part.exists() else None
            draft.path.replace(part)
            self._ledger.add(part.parent, size=draft.size - (before or 0), files=before is None)
        return _etag(draft.digest)

    def pending(self, key_id: str, token: str | None = None) -> int:
        """Bytes that wait: of one upload, or of all of a key. Costs the same however many parts there are."""
        return self.usage(key_id, token).size

    def usage(self, key_id: str, token: str | None = None) -> Usage:
        """Bytes and files that wait: of one upload, or of all of a key."""
        folder = self._of(key_id)
        with _lock:
            self._ledger.load(folder)
            found = self._ledger.keys[folder.name]
            if token is not None:
                found = self._ledger.uploads.get((folder.name, self._of(key_id, token).name), Usage())
            return Usage(found.size, found.files)

    def size(self, key_id: str, token: str, number: int) -> int:
        """Bytes of the part as it is now; 0: there is none."""
        return _size(self._part(key_id, token, number))

    def has(self, key_id: str, token: str, number: int) -> bool:
        """Whether the part was uploaded before."""
        return self._part(key_id, token, number).exists()

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
        """Delete the parts of an upload."""
        self._delete(self._of(key_id, token))
        _remove_empty(self._of(key_id))

    def sweep(self) -> None:
        """Throw away the parts of uploads that nobody touched for a day."""
        horizon = time.time() - STALE
        for key in self._folder.glob("*"):
            for folder in _folders(key):
                with contextlib.suppress(FileNotFoundError):
                    if folder.stat().st_mtime < horizon:
                        self._delete(folder)
            _remove_empty(key)

    def _delete(self, upload: Path) -> None:
        gone = upload.with_name(f"{upload.name}.{secrets.token_hex(8)}")
        with _lock:
            with contextlib.suppress(FileNotFoundError):
                upload.rename(gone)
            self._ledger.drop(upload)
        shutil.rmtree(gone, ignore_errors=True)

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
    with _lock, contextlib.suppress(OSError):  # others wait in it
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
