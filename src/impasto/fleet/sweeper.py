"""What has to happen by itself: leases that ran out, starts that came too late, results and files past their time.

Every second, for a bounded number of rows: the store moves what is due, then the bytes of files that are served no more
are deleted, so that an expired file is off the disk within seconds. Every hour, and at the start: what nobody owns.
"""

import asyncio
import logging

from impasto.files.blobs import BlobStore
from impasto.files.parts import Parts
from impasto.store.base import Store

log = logging.getLogger("impasto.sweeper")

SWEEP_SECONDS = 1.0
TIDY_SECONDS = 3600.0
BATCH = 500  # files in one sweep
BUSY_SECONDS = 0.05  # between two sweeps while there is more to delete: others write in between


async def sweep_for_ever(store: Store, blobs: BlobStore, parts: Parts) -> None:
    """Until cancelled; a failure is tried again."""
    loop = asyncio.get_running_loop()
    tidied = loop.time() - TIDY_SECONDS
    late = 0.0  # how much longer than asked the last sleep was
    while True:
        pause = SWEEP_SECONDS
        try:
            await store.sweep(late=late)
            if await collect(store, blobs) == BATCH:
                pause = BUSY_SECONDS
            if loop.time() - tidied >= TIDY_SECONDS:
                tidied = loop.time()
                await tidy(store, blobs, parts)
        except Exception:
            log.exception("The sweep failed; it is tried again in a second")
        asleep = loop.time()
        await asyncio.sleep(pause)
        late = loop.time() - asleep - pause


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


def _delete(blobs: BlobStore, tokens: list[str]) -> list[str]:
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
    blobs.delete_drafts()
    return sum(blobs.delete(token) for token in blobs.orphans(lambda token: store.file(token) is not None))
