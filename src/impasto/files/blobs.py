"""Blobs in a local folder: bytes in, an unguessable token out; the token is the path of the file's URL below /files/.

    <folder>/b/<8 hex>/<random>.<ext>     <folder>/tmp/<random>     the hex digits are the hour it was written

A blob whose `put` returned is on the disk. It is served only once the store has a row for its token, so a crash between
the two leaves an orphan, which `orphans` lists. Everything here blocks: call it from a thread.
"""

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from impasto.errors import NotFound
from impasto.files.draft import Draft, same_bytes
from impasto.files.private import make_folder
from impasto.files.urls import TOKEN

EXTENSIONS = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "text/plain": "txt",
    "application/json": "json",
    "application/zip": "zip",
}
OTHER_EXTENSION = "bin"
WEIGHTS = "safetensors"  # no media type says so: clients send application/octet-stream, and the name tells
RANDOM_BYTES = 16  # 128 bits: whoever knows the URL may fetch it, so nobody may guess it
ORPHAN_SECONDS = 24 * 3600.0
PIECE = 500  # blobs that are looked up at a time


class BlobStore:
    """One folder, of one process. `clock`: unix seconds, names the hour folders and ages orphans."""

    def __init__(self, folder: Path | str, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = Path(folder)
        self._clock = clock
        self._hours = threading.Lock()  # nobody removes an empty hour folder between its making and its first file
        self._synced: set[str] = set()  # hour folders whose own name is on the disk
        # Pictures lie here: for their owner only.
        make_folder(self._folder)
        for name in ("b", "tmp"):
            (self._folder / name).mkdir(exist_ok=True, mode=0o700)

    def put(self, data: bytes, *, media_type: str, token: str | None = None) -> str:
        """Write `data`; → its token, `token` if one was promised (`new_token`). See `publish`."""
        token = token or self.new_token(media_type)
        self.path(token)  # refused before a byte is written
        with self.draft() as draft:
            draft.write(data)
            self.publish(draft, token)
        return token

    def draft(self) -> Draft:
        """A blob to come, to be written piece by piece and published. Raises `OSError`."""
        return Draft(self._folder / "tmp" / secrets.token_hex(RANDOM_BYTES))

    def publish(self, draft: Draft, token: str) -> bool:
        """Give the draft's bytes their name; file and folder are synced when this returns. False: the same bytes had it
        already, which is welcome: who wrote them may have died before it said so.

        Raises `OSError`: the disk refuses; `FileExistsError`: the token has another content already.
        """
        target = self.path(token)
        hour = target.parent
        draft.flush(sync=True)
        new = True
        try:
            with self._hours:
                hour.mkdir(exist_ok=True, mode=0o700)
                # A link, unlike a rename, never replaces: a token has one content, whole from the first moment.
                os.link(draft.path, target)
        except FileExistsError:
            if not same_bytes(draft.path, target):
                raise
            new = False
        _sync_folder(hour)
        if hour.name not in self._synced:  # whoever made it may not have come to this yet
            _sync_folder(hour.parent)
            self._synced.add(hour.name)
        return new

    def holds(self, token: str, draft: Draft) -> bool:
        """Whether the blob of `token` has just the draft's bytes. Raises `OSError`."""
        draft.flush(sync=False)
        try:
            return same_bytes(draft.path, self.path(token))
        except FileNotFoundError:
            return False

    def path(self, token: str) -> Path:
        """Where the blob of `token` lies or would lie. Raises `NotFound`: nothing but a token becomes a path."""
        if not TOKEN.fullmatch(token):
            raise NotFound
        return self._folder / token

    def open(self, token: str) -> BinaryIO:
        """The blob, for reading; the caller closes it. Raises `NotFound`."""
        try:
            return self.path(token).open("rb")
        except FileNotFoundError:
            raise NotFound from None

    def delete(self, token: str) -> bool:
        """Delete the blob; False: it was gone already. Raises `NotFound` for what is not a token."""
        path = self.path(token)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        if path.parent.name != self._hour():
            with self._hours, contextlib.suppress(OSError):  # not empty yet
                path.parent.rmdir()
                self._synced.discard(path.parent.name)
        return True

    def orphans(
        self, known: Callable[[Sequence[str]], Collection[str]], *, older_than: float = ORPHAN_SECONDS
    ) -> Iterator[list[str]]:
        """Look through all blobs, `PIECE` at a time; → of each piece the tokens for `delete`: without a row, written
        over `older_than` seconds ago. `known`: those of some tokens that have a row.

        A piece may have no orphan; the caller rests between two. One folder is read at a time, never a whole list.
        """
        horizon = self._clock() - older_than
        for piece in _pieces(self._tokens(), PIECE):
            unknown = set(piece) - set(known(piece))
            yield [token for token in piece if token in unknown and _written(self._folder / token) < horizon]

    def _tokens(self) -> Iterator[str]:
        """Of the blobs on the disk; a folder that is removed meanwhile has none."""
        for hour in sorted(os.listdir(self._folder / "b")):
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(self._folder / "b" / hour) as names,
            ):
                for entry in names:
                    token = f"b/{hour}/{entry.name}"
                    if TOKEN.fullmatch(token):
                        yield token

    def delete_drafts(self, *, older_than: float = ORPHAN_SECONDS) -> int:
        """Delete what a killed process left half-written over `older_than` seconds ago; → how many."""
        horizon = self._clock() - older_than
        stale = [path for path in (self._folder / "tmp").iterdir() if _written(path) < horizon]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def new_token(self, media_type: str, name: str | None = None) -> str:
        """The token of a blob to come: an upload URL is promised before its bytes are there. `name`: what its sender
        calls it.
        """
        other = WEIGHTS if name is not None and name.lower().endswith(f".{WEIGHTS}") else OTHER_EXTENSION
        extension = EXTENSIONS.get(media_type.partition(";")[0].strip().lower(), other)
        return f"b/{self._hour()}/{secrets.token_urlsafe(RANDOM_BYTES)}.{extension}"

    def _hour(self) -> str:
        return f"{int(self._clock()) // 3600:08x}"


def _pieces(tokens: Iterator[str], size: int) -> Iterator[list[str]]:
    while piece := list(islice(tokens, size)):
        yield piece


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")  # deleted meanwhile: nobody's orphan


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
