"""Files past their time are off the disk within seconds, a bounded number at a time, also after a restart."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from impasto.files.blobs import BlobStore
from impasto.files.parts import Parts
from impasto.fleet import sweeper
from impasto.fleet.sweeper import BATCH, collect, sweep_for_ever
from impasto.store.records import FileRecord, NewRequest
from impasto.store.sqlite import SqliteStore

PATIENCE = 60.0  # seconds until a test gives up; never a measure of speed


class Room:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = BlobStore(folder / "files")
        self.parts = Parts(folder / "uploads")
        self.clock: Callable[[], float] = time.time

    @asynccontextmanager
    async def store(self) -> AsyncIterator[SqliteStore]:
        store = await SqliteStore.open(self.folder / "impasto.sqlite3", clock=self.clock)
        try:
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def sweeping(self, store: SqliteStore) -> AsyncIterator[None]:
        task = asyncio.create_task(sweep_for_ever(store, self.blobs, self.parts, lambda: None))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def add(self, store: SqliteStore, *, expires_at: float | None = None) -> str:
        token = self.blobs.put(b"bytes", media_type="image/png")
        await store.add_file(FileRecord(token=token, media_type="image/png", size=5, expires_at=expires_at))
        return token

    async def until_gone(self, *tokens: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while any(self.blobs.path(token).exists() for token in tokens):  # noqa: ASYNC110 - the disk rings no bell
                await asyncio.sleep(0.02)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


async def test_a_file_is_off_the_disk_when_its_time_is_over_and_others_stay(room: Room) -> None:
    async with room.store() as store, room.sweeping(store):
        kept, later = await room.add(store), await room.add(store, expires_at=time.time() + 3600)
        soon = await room.add(store, expires_at=time.time() + 0.5)
        await room.until_gone(soon)
        assert room.blobs.path(kept).exists()
        assert room.blobs.path(later).exists()
        deleted = await room.add(store)
        await store.delete_file(deleted)
        await room.until_gone(deleted)
        async with asyncio.timeout(PATIENCE):
            while store.expired_files():  # noqa: ASYNC110 - rows go after bytes
                await asyncio.sleep(0.02)


async def test_what_ran_out_while_the_server_was_down_goes_at_its_start(room: Room) -> None:
    async with room.store() as store:
        token = await room.add(store, expires_at=time.time() + 0.1)
        half_way = await room.add(store)
        await store.delete_file(half_way)  # and the process dies before the bytes are deleted
    await asyncio.sleep(0.2)
    async with room.store() as store, room.sweeping(store):
        await room.until_gone(token, half_way)


async def test_one_pass_deletes_a_bounded_number(room: Room) -> None:
    now = [1_000_000.0]
    room.clock = lambda: now[0]
    async with room.store() as store:
        tokens = [await room.add(store, expires_at=now[0] + 60) for _ in range(BATCH + 20)]
        now[0] += 61
        await store.sweep()
        assert await collect(store, room.blobs) == BATCH
        assert sum(room.blobs.path(token).exists() for token in tokens) == 20
        await store.sweep()
        assert await collect(store, room.blobs) == 20
        assert await collect(store, room.blobs) == 0


async def test_many_at_once_are_worked_off(room: Room) -> None:
    async with room.store() as store, room.sweeping(store):
        end = time.time() + 2
        tokens = [await room.add(store, expires_at=end) for _ in range(BATCH + 20)]
        await room.until_gone(*tokens)


async def test_a_file_that_cannot_be_deleted_holds_up_no_others(room: Room, caplog) -> None:
    async with room.store() as store:
        stuck, other = await room.add(store), await room.add(store)
        room.blobs.path(stuck).unlink()
        room.blobs.path(stuck).mkdir()  # nobody can unlink a folder
        for token in (stuck, other):
            await store.delete_file(token)
        assert await collect(store, room.blobs) == 1
        assert not room.blobs.path(other).exists()
        assert [file.token for file in store.expired_files()] == [stuck]
        assert "cannot be deleted" in caplog.text


async def test_a_full_disk_is_cleaned_up_all_the_same(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite's own page limit stands in for the disk."""
    monkeypatch.setattr(sweeper, "SWEEP_SECONDS", 0.02)
    caplog.set_level(logging.INFO, "impasto.sweeper")
    now = [time.time()]
    room.clock = lambda: now[0]
    with room.parts.draft("k", "t", 1) as draft:
        draft.write(b"never completed")
        room.parts.keep(draft)
    abandoned = [path for path in (room.folder / "uploads").rglob("*") if path.is_dir()]
    for path in abandoned:
        os.utime(path, (1, 1))
    async with room.store() as store:
        writer = store._writer
        deleted = await room.add(store)
        await store.delete_file(deleted)
        for number in range(400):  # their results and lines need pages that the file does not have
            late = NewRequest(request_id=f"late{number}", endpoint="e", input={}, seed=1, base_url="b", start_timeout=1)
            await store.submit(late)

        def limit(pages: int) -> None:
            writer._connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

        await writer.run(lambda tx: limit(1))
        now[0] += 10
        async with room.sweeping(store), asyncio.timeout(PATIENCE):
            await room.until_gone(deleted)
            while any(path.exists() for path in abandoned):  # noqa: ASYNC110 - the disk rings no bell
                await asyncio.sleep(0.02)
            while "The sweep failed" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            assert caplog.text.count("The sweep failed") == 1
            await writer.run(lambda tx: limit(1_000_000))
            while "The sweep works again" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
