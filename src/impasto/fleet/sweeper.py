"""What has to happen by itself: leases that ran out, starts that came too late, results and files past their time.

Every second, for a bounded number of rows: the store moves what is due, then the bytes of files that are served no more
are deleted, so that an expired file is off the disk within seconds. Every hour, and at the start: what nobody owns.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable

from impasto.files.blobs import BlobStore
from impasto.files.parts import Parts
from impasto.store.base import Store

log = logging.getLogger("impasto.sweeper")

SWEEP_SECONDS = 1.0
TIDY_SECONDS = 3600.0
BATCH = 500  # files in one sweep
BUSY_SECONDS = 0.05  # between two sweeps while there is more to delete: others write in between


async def sweep_for_ever(store: Store, blobs: BlobStore, parts: Parts) -> None:
    """Until cancelled. What fails is tried again and holds up nothing else: on a full disk the store can move nothing
    until something was deleted.
    """
    loop = asyncio.get_running_loop()
    tidied = loop.time() - TIDY_SECONDS
    failing: dict[str, str] = {}
    late = 0.0  # how much longer than asked the last sleep was
    while True:
        await _try("The sweep", store.sweep(late=late), failing)
        gone = await _try("Deleting files that are served no more", collect(store, blobs), failing)
        if loop.time() - tidied >= TIDY_SECONDS:
            tidied = loop.time()
            await _try("Deleting what nobody owns", tidy(store, blobs, parts), failing)
        pause = BUSY_SECONDS if gone == BATCH else SWEEP_SECONDS
        asleep = loop.time()
        await asyncio.sleep(pause)
        late = loop.time() - asleep - pause


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
    gone = await asyncio.to_thread(_delete, blobs, due) if due else []
    if gone:
        await store.forget_files(gone)
        log.info("Deleted %d files that are served no more", len(gone))
    return len(gone)


async def tidy(store: Store, blobs: BlobStore, parts: Parts) -> int:
    """Delete what nobody owns because a process died or a client gave up: drafts, blobs that never got a row, parts of
    uploads that were never completed. → how many blobs.
    """
    await asyncio.to_thread(parts.sweep)
    return await asyncio.to_thread(_delete_orphans, store, blobs)


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


def _delete_orphans(store: Store, blobs: BlobStore) -> int:
    gone = _delete(blobs, blobs.orphans(lambda token: store.file(token) is not None))
    blobs.delete_drafts()
    return len(gone)
