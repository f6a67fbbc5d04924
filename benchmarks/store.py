"""Measures the SQLite store: durable submits, claim + finish, status reads, places in a deep queue.

    python benchmarks/store.py [--seconds 4] [--folder DIR]

Prints a table and writes benchmarks/results/store.json. The peer in the same run, on the same disk, is plain sqlite3
with one commit an insert (WAL, synchronous=FULL): the ratio tells what sharing a sync brings, whatever the disk is.
"""

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from impasto.store.records import NewRequest, Outcome, Request, Result
from impasto.store.sqlite import SqliteStore

ENDPOINT = "fal-ai/flux-pro"
CLIENTS = 64
DEPTH = 10_000
INPUT = {"prompt": "a heron in the reeds at dawn, " * 8, "image_size": "square_hd", "num_inference_steps": 28}
OUTPUT = {"images": [{"url": "http://127.0.0.1:8000/files/b/0007a120/" + "x" * 22 + ".jpeg", "width": 1024}], "seed": 7}


def new() -> NewRequest:
    return NewRequest(
        request_id=str(uuid.uuid4()), endpoint=ENDPOINT, input=INPUT, seed=7, base_url="http://127.0.0.1:8000"
    )


def plain_sqlite(folder: Path, seconds: float) -> float:
    """The peer: inserts/s of one connection that commits each of them."""
    connection = sqlite3.connect(folder / "plain.sqlite3", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE requests (seq INTEGER PRIMARY KEY, request_id TEXT UNIQUE, input TEXT)")
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        row = (str(uuid.uuid4()), json.dumps(INPUT))
        connection.execute("INSERT INTO requests (request_id, input) VALUES (?, ?)", row)
        count += 1
    rate = count / (time.perf_counter() - start)
    connection.close()
    return rate


async def rate_of(work: Callable[[], Awaitable[int]], *, clients: int, seconds: float) -> tuple[float, list[float]]:
    """(things done a second, seconds each call took) of `clients` tasks that repeat `work`."""
    start = time.perf_counter()
    done, waits = 0, list[float]()

    async def client() -> None:
        nonlocal done
        while (begun := time.perf_counter()) - start < seconds:
            count = await work()  # apart: `done += await …` would read `done` before the wait
            done += count
            waits.append(time.perf_counter() - begun)

    await asyncio.gather(*[client() for _ in range(clients)])
    return done / (time.perf_counter() - start), sorted(waits)


def percentile(waits: list[float], share: float) -> float:
    return round(waits[min(len(waits) - 1, int(len(waits) * share))] * 1000, 3)


def reads_per_second(read: Callable[[Request], object], requests: list[Request], seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for request in requests:
            read(request)
        count += len(requests)
    return count / (time.perf_counter() - start)


async def measure(folder: Path, seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {"plain_sqlite_inserts_per_s": plain_sqlite(folder, seconds / 2)}
    store = await SqliteStore.open(folder / "impasto.sqlite3")

    async def submit() -> int:
        await store.submit(new())
        return 1

    alone, waits = await rate_of(submit, clients=1, seconds=seconds / 2)
    figures |= {"submits_per_s_1_client": alone, "submit_ms_p50_1_client": percentile(waits, 0.5)}
    before = store.counters
    many, waits = await rate_of(submit, clients=CLIENTS, seconds=seconds)
    after = store.counters
    operations, commits = after["operations"] - before["operations"], after["commits"] - before["commits"]
    figures |= {
        f"submits_per_s_{CLIENTS}_clients": many,
        f"submit_ms_p50_{CLIENTS}_clients": percentile(waits, 0.5),
        f"submit_ms_p99_{CLIENTS}_clients": percentile(waits, 0.99),
        "submits_per_commit": operations / commits,
        "submits_over_plain_sqlite": many / figures["plain_sqlite_inserts_per_s"],
    }

    async def claim_and_finish() -> int:
        claimed = await store.claim(endpoints=[ENDPOINT], runner_id="bench", limit=4, lease_seconds=15)
        for request in claimed:
            assert request.lease is not None
            await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, OUTPUT))
        return len(claimed)

    figures["claims_and_finishes_per_s_16_runners"], _ = await rate_of(claim_and_finish, clients=16, seconds=seconds)

    missing = max(0, DEPTH - store.queued())
    for _ in range(0, missing, 500):
        await asyncio.gather(*[submit() for _ in range(min(500, missing))])
    waiting = await store.claim(endpoints=[ENDPOINT], runner_id="bench", limit=200, lease_seconds=15)
    figures["queue_depth"] = store.queued()
    figures["status_reads_per_s"] = reads_per_second(lambda r: store.get(r.request_id), waiting, seconds / 2)
    last = [await store.submit(new()) for _ in range(100)]
    figures["positions_per_s_at_the_end_of_the_queue"] = reads_per_second(store.position, last, seconds / 2)
    await store.close()
    return {name: round(value, 2) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="of the longest part; the whole takes five times as long"
    )
    parser.add_argument("--folder", type=Path, help="where to put the database: the disk that is measured")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = asyncio.run(measure(Path(folder), arguments.seconds))
    for name, value in figures.items():
        print(f"{name:45} {value:12,.2f}")
    report = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f} at the start",
        "command": "python benchmarks/store.py " + " ".join(sys.argv[1:]),
        "figures": figures,
    }
    target = Path(__file__).parent / "results" / "store.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
