"""Documents that are the same for every caller: made once, off the event loop, and kept with their gzipped bytes.

    key ─ kept? ──────────────────────────────→ 200, or 304 when the client has these bytes already
           └─ no → built, hashed and gzipped in one thread of its own, at most one at a time

A public route costs a dictionary look-up then, whatever the size of its document. A document that depends on something
carries that in its key; the oldest go when all together are larger than `KEPT_BYTES`.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

T = TypeVar("T")

KEPT_BYTES = 32 * 2**20
KEPT_PARTS = 512
LONGEST_HEADER = 2048  # characters of a header's list that are read: a list of thousands would cost milliseconds
REVALIDATE = "no-cache"  # a client may keep it, but asks whether it is still the same


@dataclass(frozen=True, slots=True)
class Document:
    """`etag`: of the plain bytes, quoted; the gzipped ones have their own, as strong ETags must."""

    plain: bytes
    zipped: bytes
    media_type: str
    etag: str

    @property
    def size(self) -> int:
        return len(self.plain) + len(self.zipped)


def make(plain: bytes, media_type: str) -> Document:
    """Hash and gzip `plain`. Takes milliseconds for each 100 kB: not for the event loop."""
    etag = f'"{hashlib.sha256(plain).hexdigest()[:32]}"'
    return Document(plain, gzip.compress(plain, compresslevel=6, mtime=0), media_type, etag)


def respond(request: Request, document: Document, more: Mapping[str, str] | None = None) -> Response:
    """200 in the encoding that the client takes, or 304 without a body. `more` overrides the headers."""
    zipped = takes_gzip(request.headers.get("accept-encoding", ""))
    etag = f'{document.etag[:-1]}-gzip"' if zipped else document.etag
    headers = {
        "Content-Type": document.media_type,
        "ETag": etag,
        "Cache-Control": REVALIDATE,
        "Vary": "Accept-Encoding",
        **(more or {}),
    }
    if _known(request.headers.get("if-none-match", ""), {document.etag, etag}):
        return Response(status_code=304, headers=headers)
    if zipped:
        headers["Content-Encoding"] = "gzip"
    return Response(document.zipped if zipped else document.plain, headers=headers)


def _known(condition: str, etags: set[str]) -> bool:
    """Whether an `If-None-Match` names one of the ETags. Compared weakly (RFC 9110, 13.1.2)."""
    given = {tag.strip().removeprefix("W/") for tag in condition[:LONGEST_HEADER].split(",")}
    return "*" in given or not etags.isdisjoint(given)


def takes_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` names gzip, or everything, and not with `q=0` (RFC 9110, 12.5.3)."""
    weights: dict[str, float] = {}
    for part in accepted[:LONGEST_HEADER].lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((value.removeprefix("q=") for value in parameters if value.startswith("q=")), "1")
        try:
            weights[name] = float(weight)
        except ValueError:
            weights[name] = 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0


@dataclass(slots=True, eq=False)
class Documents:
    """The documents of one server. Used on its event loop."""

    kept_bytes: int = KEPT_BYTES
    _kept: OrderedDict[Hashable, Document] = field(default_factory=OrderedDict[Hashable, Document])
    _building: dict[Hashable, asyncio.Task[Document]] = field(default_factory=dict[Hashable, "asyncio.Task[Document]"])
    _parts: OrderedDict[Hashable, object] = field(default_factory=OrderedDict[Hashable, object])
    _size: int = 0  # bytes of all that is kept
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="documents")
    )

    async def answer(
        self, request: Request, key: Hashable, build: Callable[[], bytes], *, media_type: str = "application/json"
    ) -> Response:
        """The document of `key`, from `build` when it is not kept. `build` runs in a thread: it must not read what the
        event loop writes; `key` has to hold all that its bytes depend on.
        """
        return respond(request, await self.get(key, build, media_type=media_type))

    async def get(self, key: Hashable, build: Callable[[], bytes], *, media_type: str) -> Document:
        """The kept document, or a new one; callers who ask for the same at once wait for one build."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        task = self._building.get(key)
        if task is None:
            task = self._building[key] = asyncio.create_task(self._build(key, build, media_type))
        return await asyncio.shield(task)  # a caller who hangs up must not take it from the others

    async def _build(self, key: Hashable, build: Callable[[], bytes], media_type: str) -> Document:
        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(self._thread, lambda: make(build(), media_type))
        finally:
            del self._building[key]
        self._kept[key] = made
        self._size += made.size
        while self._size > self.kept_bytes and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1].size
        return made

    def part(self, key: Hashable, build: Callable[[], T]) -> T:
        """Something that several documents hold, kept like them. May be called in the building thread and on the event
        loop: at worst it is built twice.
        """
        if (found := self._parts.get(key)) is None:
            found = self._parts[key] = build()
            while len(self._parts) > KEPT_PARTS:
                self._parts.popitem(last=False)
        return found  # type: ignore[return-value] # pyright: ignore[reportReturnType]
