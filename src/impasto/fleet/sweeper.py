"""What has to happen by itself: leases that ran out, starts that came too late, results and files past their time."""

import asyncio
import logging

from impasto.files.blobs import BlobStore
from impasto.store.base import Store

log = logging.getLogger("impasto.sweeper")

SWEEP_SECONDS = 1.0
COLLECT_SECONDS = 3600.0


async def sweep_for_ever(store: Store, blobs: BlobStore) -> None:
    """Sweep the store every second; every hour, and at the start, delete the bytes that are served no more."""
    loop = asyncio.get_running_loop()
    collected = loop.time() - COLLECT_SECONDS
    while True:
        try:
            await store.sweep()
            if loop.time() - collected >= COLLECT_SECONDS:
                collected = loop.time()
                await collect(store, blobs)
        except Exception:
            log.exception("The sweep failed; it is tried again in a second")
        await asyncio.sleep(SWEEP_SECONDS)


async def collect(store: Store, blobs: BlobStore) -> int:
    """Delete the blobs of expired files, then their rows (a crash between the two only repeats it); then blobs that
    never got a row, because the process died in between. → how many blobs.
    """
    total = 0
    while files := store.expired_files():
        for file in files:
            await asyncio.to_thread(blobs.delete, file.token)
        total += await store.forget_files([file.token for file in files])
    total += await asyncio.to_thread(_delete_orphans, store, blobs)
    if total:
        log.info("Deleted %d files that are served no more", total)
    return total


def _delete_orphans(store: Store, blobs: BlobStore) -> int:
    blobs.delete_drafts()
    return sum(blobs.delete(token) for token in blobs.orphans(lambda token: store.file(token) is not None))
