"""From a request's body to a file that is served, without ever holding all of it.

    body ─ receive ─▶ draft on the disk ─ keep ─▶ blob (synced) ─▶ record in the store
           limits      sniffed                     one name, one content

In: a body or parts, and the claims that say whose file it becomes. Out: a served file, or an error and nothing left
behind: a client that hangs up, a disk that is full and a quota that is used up leave no byte.
"""

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass

from starlette.requests import Request

from impasto.api.bodies import MIB, too_large, whole_number
from impasto.api.gateway import Gateway
from impasto.api.media import media_type
from impasto.api.signing import Claims
from impasto.errors import BadRequest, QuotaExceeded, StorageFull, WireError
from impasto.files.draft import Draft
from impasto.files.space import Space
from impasto.store.records import FileRecord

log = logging.getLogger("impasto.api")

BLOCK = 4096  # bytes that even an empty file takes, in rows and inodes
FLUSH = MIB  # bytes that are collected before they are written
USED = "This upload URL was used already, for other bytes; ask for a new one."
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Room:
    """How many bytes may come, and what is answered to more."""

    size: int
    refusal: WireError


async def room(gateway: Gateway, claims: Claims, *, taken: int = 0, replaced: int = 0, new: bool = True) -> Room:
    """For a file, or for a part of one: `taken` bytes are there in other parts, `replaced` in an earlier try of it. A
    file that is served may be sent again. `new`: it will be one more file. Raises `QuotaExceeded`: there are too many.
    """
    server = gateway.settings.server
    largest = Room(server.max_upload_mb * MIB - taken, too_large(server.max_upload_mb, "server.max_upload_mb"))
    limit, files = quota(gateway), max_files(gateway)
    if (limit is None and files is None) or gateway.store.file(claims.file) is not None:
        return largest
    pending = await asyncio.to_thread(gateway.parts.usage, claims.key_id)
    if files is not None and new and gateway.store.stored_files(claims.key_id) + pending.files >= files:
        raise QuotaExceeded.of_files(limit=files)
    if limit is None:
        return largest
    used = gateway.store.stored_bytes(claims.key_id) + pending.size - replaced
    if limit - used >= largest.size:
        return largest
    return Room(limit - used, QuotaExceeded.of(used=used, more=max(limit - used, 0) + 1, quota=limit))


def quota(gateway: Gateway) -> int | None:
    """Bytes of uploads that a key may have; None: as many as it likes."""
    return gateway.settings.server.upload_quota_mb * MIB or None


def max_files(gateway: Gateway) -> int | None:
    """How many uploads and waiting parts a key may have; None: as many as it likes."""
    server = gateway.settings.server
    return server.upload_quota_files or server.upload_quota_mb * MIB // BLOCK or None


def check_space(space: Space) -> None:
    """Leave the last bytes of the disk to the request store. Raises `StorageFull`."""
    if space.reason:
        raise StorageFull


async def receive(request: Request, draft: Draft, room: Room, *, space: Space) -> None:
    """Write the body to `draft`. Raises the room's refusal, `StorageFull`, `ClientDisconnect`."""
    declared = whole_number(request.headers.get("content-length", ""))
    if declared is not None and declared > room.size:
        raise room.refusal
    waiting = bytearray()
    with disk_errors():
        check_space(space)
        async for chunk in request.stream():
            waiting += chunk
            if draft.size + len(waiting) > room.size:
                raise room.refusal
            if len(waiting) >= FLUSH:
                check_space(space)
                await asyncio.to_thread(draft.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(draft.write, bytes(waiting))


async def keep(gateway: Gateway, claims: Claims, draft: Draft) -> None:
    """Blob first, record second: a record never names bytes that are not there. What is written is never changed.

    The same bytes once more are welcome: the client did not hear our first answer. Raises `BadRequest` for others,
    `QuotaExceeded`, `StorageFull`.
    """
    store, blobs = gateway.store, gateway.blobs
    lock = gateway.naming.setdefault(claims.file, asyncio.Lock())
    async with lock:
        if store.file(claims.file) is not None:
            if not await asyncio.to_thread(blobs.holds, claims.file, draft):
                raise BadRequest(USED)
            return
        try:
            with disk_errors():
                new = await asyncio.to_thread(blobs.publish, draft, claims.file)
        except FileExistsError:
            raise BadRequest(USED) from None
        try:
            added = await store.add_file(_record(claims, draft), quota=quota(gateway), max_files=max_files(gateway))
        except QuotaExceeded:
            if new:
                await asyncio.to_thread(blobs.delete, claims.file)
            raise
        if not added:  # deleted or expired, its row not yet gone
            raise BadRequest("The file of this upload URL was deleted; ask for a new one.")


def _record(claims: Claims, draft: Draft) -> FileRecord:
    now = time.time()
    return FileRecord(
        token=claims.file,
        media_type=media_type(claims.media_type, draft.head),
        size=draft.size,
        file_name=claims.file_name,
        key_id=claims.key_id,
        created_at=now,
        expires_at=None if claims.lifetime is None else now + claims.lifetime,
        acl=claims.acl,
    )


@contextlib.contextmanager
def disk_errors() -> Generator[None]:
    """A disk that is full, to the client; any other trouble with it is a fault of ours."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        log.warning("An upload found no room on the disk: %s", error.strerror)
        raise StorageFull from None
