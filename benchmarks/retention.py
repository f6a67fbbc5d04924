"""What a start after a long stop costs: expired requests and files retired a second, submits meanwhile, the orphans.

    python benchmarks/retention.py --requests 5000 --blobs 20000

Prints, of a store with as many expired requests as expired files: how many of each are retired a second, the times of
submits during that, and of a look for orphans over so many blobs the seconds, the share of one core and the memory.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
import uuid
from pathlib import Path

from impasto.files.blobs import BlobStore
from impasto.files.parts import Parts
from impasto.fleet.sweeper import sweep_for_ever, tidy
from impasto.store.records import FileRecord, NewRequest
from impasto.store.sqlite import SqliteStore

DAY = 24 * 3600.0
WATCHED = 20.0  # seconds


def new() -> NewRequest:
    return NewRequest(
        request_id=str(uuid.uuid4()), endpoint="e", input={"prompt": "x" * 200}, seed=1, base_url="http://a"
    )


async def retire(folder: Path, count: int) -> None:
    now = [time.time() - 30 * DAY]
    store = await SqliteStore.open(folder / "impasto.sqlite3", clock=lambda: now[0])
    blobs = BlobStore(folder / "files")

    async def one() -> None:
        request = await store.submit(new())
        await store.cancel(request.request_id)
        token = blobs.new_token("image/png")
        await store.add_file(FileRecord(token=token, media_type="image/png", size=1, expires_at=now[0] + 1))

    for start in range(0, count, 200):
        await asyncio.gather(*(one() for _ in range(min(200, count - start))))
    now[0] = time.time()
    alone = list[float]()
    for _ in range(200):
        at = time.perf_counter()
        await store.submit(new())
        alone.append(time.perf_counter() - at)
        await asyncio.sleep(0.02)
    alone.sort()
    print(f"submit alone: p50 {1000 * alone[100]:.1f} ms, p99 {1000 * alone[198]:.1f} ms")
    task = asyncio.create_task(sweep_for_ever(store, blobs, Parts(folder / "uploads")))
    began, times = time.monotonic(), list[float]()
    connection = store._writer._connection
    left = """SELECT (SELECT count(*) FROM files WHERE deleting = 0),
      (SELECT count(*) FROM requests WHERE finished_at < ?)"""
    while (spent := time.monotonic() - began) < WATCHED:
        at = time.perf_counter()
        await store.submit(new())
        times.append(time.perf_counter() - at)
        await asyncio.sleep(0.02)
        if len(times) % 50 == 0 and tuple(connection.execute(left, (now[0] - DAY,)).fetchone()) == (0, 0):
            break
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    files, requests = (count - number for number in connection.execute(left, (now[0] - DAY,)).fetchone())
    times.sort()
    print(f"in {spent:.1f} s: {files / spent:.0f} files/s, {requests / spent:.0f} requests/s retired; submit "
          f"p50 {1000 * times[len(times) // 2]:.1f} ms, p99 {1000 * times[int(len(times) * 0.99)]:.1f} ms")  # fmt: skip
    await store.close()


async def orphans(folder: Path, count: int) -> None:
    store = await SqliteStore.open(folder / "orphans.sqlite3")
    blobs = BlobStore(folder / "orphans")
    tokens = [blobs.new_token("image/png") for _ in range(count)]
    for token in tokens:
        path = blobs.path(token)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for start in range(0, count, 500):
        await asyncio.gather(*(store.add_file(FileRecord(token=token, media_type="image/png", size=0))
                               for token in tokens[start : start + 500]))  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    await tidy(store, blobs, Parts(folder / "uploads"))
    spent, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    unit = 1024 if sys.platform == "linux" else 1
    grown = (after.ru_maxrss - before.ru_maxrss) * unit / 2**20
    print(f"orphans of {count} blobs: {spent:.1f} s, {used:.2f} s of a core ({used / spent:.0%}), {grown:.0f} MiB more")
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--blobs", type=int, default=20_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(orphans(Path(folder), asked.blobs))
        asyncio.run(retire(Path(folder), asked.requests))


if __name__ == "__main__":
    main()
