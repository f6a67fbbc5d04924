"""What has to happen by itself: leases that ran out, starts that came too late, results and files past their time.

Every second, for a bounded number of rows: the store moves what is due, then the bytes of files that are served no more
are deleted, so that an expired file is off the disk within seconds. Every hour, and at the start: what nobody owns.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from impasto.files.blobs import BlobStore
from impasto.files.parts import Parts
from impasto.store.base import Store
from impasto.store.records import Held

log = logging.getLogger("impasto.sweeper")

SWEEP_SECONDS = 1.0
TIDY_SECONDS = 3600.0
BATCH = 500  # files in one sweep
PIECE = 100  # files whose rows go in one transaction
REST = 4  # times as long as it works, what looks for orphans rests
BUSY_SECONDS = 0.05  # between two sweeps while there is more to delete: others write in between


async def sweep_for_ever(store: Store, blobs: BlobStore, parts: Parts, held: Callable[[], Held | None]) -> None:
    """Until cancelled. `held`: what is known of leases now. What fails is tried again and holds up nothing else: on a
    full disk the store can move nothing until something was deleted.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(_tidy_for_ever(store, blobs, parts))
        loop = asyncio.get_running_loop()
        failing: dict[str, str] = {}
        late = 0.0  # how much longer than asked the last sleep was
        while True:
            moved = await _try("The sweep", store.sweep(late=late, held=held()), failing)
            gone = await _try("Deleting files that are served no more", collect(store, blobs), failing)
            pause = BUSY_SECONDS if max(gone, moved) >= BATCH else SWEEP_SECONDS
            asleep = loop.time()
            await asyncio.sleep(pause)
            late = loop.time() - asleep - pause


async def _tidy_for_ever(store: Store, blobs: BlobStore, parts: Parts) -> None:
    """At the start and every hour; a task of its own, because it takes its time."""
    failing: dict[str, str] = {}
    while True:
        await _try("Deleting what nobody owns", tidy(store, blobs, parts), failing)
        await asyncio.sleep(TIDY_SECONDS)


async def _try(what: str, coming: Awaitable[int], failing: dict[str, str]) -> int:
    """Its number, 0 when it fails. `failing`: how each one failed the last time; one that goes on is told once."""
    try:
        number = await coming
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        if failing.get(what) != why:
            failing[what] = why
            log.exception("%s failed; it is tried again and again", what)
        return 0
    if failing.pop(what, None) is not None:
        log.info("%s works again", what)
    return number


async def collect(store: Store, blobs: BlobStore) -> int:
    """Delete the blobs of files that are served no more, at most `BATCH`, then their rows: a crash between the two only
    repeats it. → how many.
    """
    due = [file.token for file in store.expired_files(limit=BATCH)]
    count = 0
    for start in range(0, len(due), PIECE):
        gone = await asyncio.to_thread(_delete, blobs, due[start : start + PIECE])
        if gone:
            await store.forget_files(gone)
        count += len(gone)
    if count:
        log.info("Deleted %d files that are served no more", count)
    return count


async def tidy(store: Store, blobs: BlobStore, parts: Parts) -> int:
    """Delete what nobody owns because a process died or a client gave up: drafts, blobs that never got a row, parts of
    uploads that were never completed. In small pieces with rests between them. → how many blobs.
    """
    await asyncio.to_thread(parts.sweep)
    await asyncio.to_thread(blobs.delete_drafts)
    pieces = blobs.orphans(store.known_files)
    count = 0
    while True:
        began = time.monotonic()
        orphans = await asyncio.to_thread(next, pieces, None)
        if orphans is None:
            return count
        if orphans:
            count += len(await asyncio.to_thread(_delete, blobs, orphans))
        await asyncio.sleep(REST * (time.monotonic() - began))


def _delete(blobs: BlobStore, tokens: Iterable[str]) -> list[str]:
    """→ those that are off the disk."""
    gone: list[str] = []
    for token in tokens:
        try:
            blobs.delete(token)
            gone.append(token)
        except OSError as error:
            log.warning("%s cannot be deleted (%s); it is tried again", token, error.strerror)
    return gone
