"""Prints how the cost of single calls grows with the queues and the history of others.

    python benchmarks/growth.py [--sizes 1000 10000 100000] [--label after] [--folder DIR]

For each size: milliseconds of one status position, submit and claim (keys waiting at one endpoint), of the count for
`/v1/system` and of a search for a word that no prompt has (that many finished requests); then one claim over
1,000 keys × 47 endpoints. The slope is the cost at the largest size over the cost at the smallest. The rows are written
by plain SQL: what is measured is the store's calls. Adds its figures to benchmarks/results/growth.json under the label.
"""

import argparse
import asyncio
import inspect
import json
import os
import platform
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from impasto.store.records import NewRequest, Status
from impasto.store.sqlite import SqliteStore

ENDPOINT = "fal-ai/flux-pro"
CALLS = 15


def fill(path: Path, *, keys: int, endpoints: int, done: int = 0) -> None:
    """Write one waiting request for each key and endpoint, and `done` finished ones."""
    names = [ENDPOINT] if endpoints == 1 else [f"e{n}" for n in range(endpoints)]
    insert = (
        "INSERT INTO requests (request_id, endpoint, key_id, priority, status, outcome, http_status, finished_at, "
        "seed, base_url, no_retry, store_io, max_attempts, boot, created_at, input) "
        "VALUES (?, ?, ?, 0, ?, ?, ?, ?, '7', 'http://127.0.0.1:8000', 0, 1, 10, 'b', 0, '{\"prompt\": \"a heron\"}')"
    )
    with sqlite3.connect(path) as connection:
        connection.executemany(
            insert,
            (
                (str(uuid.uuid4()), name, f"key-{key}", "IN_QUEUE", None, None, None)
                for key in range(keys)
                for name in names
            ),
        )
        connection.executemany(
            insert,
            ((str(uuid.uuid4()), names[0], f"key-{n % 50}", "COMPLETED", "OK", 200, float(n)) for n in range(done)),
        )
    connection.close()


async def cost(call: Callable[[], Any], *, calls: int = CALLS) -> float:
    """Return the median milliseconds of a call, awaited if need be."""
    spent: list[float] = []
    for _ in range(calls):
        start = time.perf_counter()
        value = call()
        if inspect.isawaitable(value):
            await value
        spent.append((time.perf_counter() - start) * 1000)
    return round(median(spent), 3)


def new(key_id: str = "another") -> NewRequest:
    return NewRequest(
        request_id=str(uuid.uuid4()), endpoint=ENDPOINT, input={"prompt": "a heron"}, seed=7,
        base_url="http://127.0.0.1:8000", key_id=key_id,
    )  # fmt: skip


def claim(store: SqliteStore, endpoints: list[str], limit: int = 2) -> Callable[[], Awaitable[Any]]:
    return lambda: store.claim(endpoints=endpoints, runner_id="bench", limit=limit, lease_seconds=600)


async def at(size: int, folder: Path) -> dict[str, float]:
    path = folder / f"{size}.sqlite3"
    await (await SqliteStore.open(path)).close()
    fill(path, keys=size, endpoints=1)
    store = await SqliteStore.open(path)
    mine = await store.submit(new())
    other = await store.submit(new("a third"))

    async def poll() -> None:
        await store.submit(new())  # others submit all the time
        found = store.position(mine)  # type: ignore[func-returns-value]
        if inspect.isawaitable(found):
            await found

    submit = await cost(lambda: store.submit(new()))
    figures = {
        "position after a submit": max(await cost(poll) - submit, 0.0),
        "submit": submit,
        "first claim": await cost(claim(store, [ENDPOINT]), calls=1),
        "claim of 2": await cost(claim(store, [ENDPOINT])),
        "webhook lanes": await cost(store.deliveries_due),
        "sweep": await cost(store.sweep),
        "cancel": await cost(lambda: store.cancel(other.request_id), calls=3),
    }
    await store.close()
    done = folder / f"done-{size}.sqlite3"
    await (await SqliteStore.open(done)).close()
    fill(done, keys=0, endpoints=1, done=size)
    store = await SqliteStore.open(done)
    figures["running list of /v1/system"] = await cost(lambda: store.requests(status=Status.IN_PROGRESS, limit=100))
    figures["waiting counts of /v1/system"] = await cost(lambda: store.queued(ENDPOINT))
    if hasattr(store, "search"):
        figures["search, one call"] = await cost(lambda: store.search(words=["none"], limit=50))
    await store.close()
    return figures


async def wide(folder: Path, *, keys: int = 1_000, endpoints: int = 47) -> dict[str, float]:
    path = folder / "wide.sqlite3"
    await (await SqliteStore.open(path)).close()
    fill(path, keys=keys, endpoints=endpoints)
    store = await SqliteStore.open(path)
    names = [f"e{n}" for n in range(endpoints)]
    figures = {"first": await cost(claim(store, names), calls=1), "later": await cost(claim(store, names), calls=5)}
    await store.close()
    return figures


async def measure(sizes: list[int], folder: Path) -> dict[str, Any]:
    by_size = {str(size): await at(size, folder) for size in sizes}
    return {"ms": by_size, "claim of 2 over 1,000 keys × 47 endpoints, ms": await wide(folder)}


def show(report: dict[str, Any]) -> None:
    sizes = list(report["ms"])
    print(f"{'ms':32}" + "".join(f"{int(size):>12,}" for size in sizes) + f"{'slope':>9}")
    for name in report["ms"][sizes[0]]:
        values = [report["ms"][size][name] for size in sizes]
        print(f"{name:32}" + "".join(f"{v:12.2f}" for v in values) + f"{values[-1] / max(values[0], 0.05):9.1f}")
    for name, value in report.items():
        if name != "ms":
            print(name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--label", default="after", help="under which the figures are kept: before or after a change")
    parser.add_argument("--folder", type=Path, help="where to put the databases: the disk that is measured")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        report = asyncio.run(measure(arguments.sizes, Path(folder)))
    show(report)
    target = Path(__file__).parent / "results" / "growth.json"
    known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    system = (
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs, load {load:.1f}"
    )
    known[arguments.label] = {"system": system, **report}
    target.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
