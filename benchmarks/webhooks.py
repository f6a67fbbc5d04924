"""Measures webhook delivery among bad receivers (reliability F12, in small).

    python benchmarks/webhooks.py [--deliveries 500] [--rate 50]

A real store and deliverer in one process; receivers on loopback ports of their own, in another. Requests end at a
steady rate; their webhooks go to two hosts that misbehave as drawn (10 % answer 500, 2 % hang, 2 % reset the
connection) and verify every signature. The same run again with a third host beside them that takes connections and
never answers, and gets a webhook for each five of the others. Prints a table, writes benchmarks/results/webhooks.json.

Retries come when the default schedule says; a receiver that hangs is left after 2 s, not after 15. Takes some minutes.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from impasto.settings import Settings, WebhookSettings
from impasto.store.records import DeliveryState, NewRequest, Outcome, Result
from impasto.store.sqlite import SqliteStore
from impasto.webhooks.delivery import Deliverer
from impasto.webhooks.verify import InvalidSignature, verify

RESULTS = Path(__file__).parent / "results" / "webhooks.json"
RETRY_AFTER = WebhookSettings().retry_after
SECONDS = 2.0
HOSTS = 2
FAILS, HANGS, RESETS = 0.10, 0.02, 0.02
OUTPUT = {"images": [{"url": "http://127.0.0.1:8000/files/b/0007a120/" + "x" * 22 + ".jpeg", "width": 1024}], "seed": 7}


@dataclass
class Receivers:
    """What runs in the other process: `HOSTS` that misbehave, one that is dead; when each request was first seen."""

    keys: list[bytes]
    draw: random.Random
    first: dict[str, float] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    forged: int = 0

    async def flaky(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
            body = await reader.readexactly(int(headers["Content-Length"]))
            self._note(headers, body)
            fate = self.draw.random()
            if fate < HANGS:
                await reader.read()  # until the sender loses patience
            elif fate < HANGS + RESETS:
                writer.transport.abort()
            else:
                status = 500 if fate < HANGS + RESETS + FAILS else 200
                if status == 200:
                    self.taken.add(json.loads(body)["request_id"])
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
                await writer.drain()
        writer.close()

    def _note(self, headers: dict[str, str], body: bytes) -> None:
        now = time.time()
        try:
            verify(headers, body, self.keys)
        except InvalidSignature as error:
            print(f"a signature that does not fit: {error}")
            self.forged += 1
        self.first.setdefault(json.loads(body)["request_id"], now)

    async def dead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()


def receivers_process(pipe: Connection, keys: list[bytes], seed: int) -> None:
    async def main() -> None:
        receivers = Receivers(keys, random.Random(seed))
        servers = [await asyncio.start_server(receivers.flaky, "127.0.0.1", 0) for _ in range(HOSTS)]
        servers.append(await asyncio.start_server(receivers.dead, "127.0.0.1", 0))
        pipe.send([server.sockets[0].getsockname()[1] for server in servers])
        while not pipe.poll():  # noqa: ASYNC110 - a pipe has no event
            await asyncio.sleep(0.05)
        pipe.send((receivers.first, receivers.taken, receivers.forged))

    asyncio.run(main())


@contextlib.asynccontextmanager
async def receiving(keys: list[bytes], seed: int) -> AsyncIterator[tuple[list[int], Connection]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=receivers_process, args=(theirs, keys, seed))
    process.start()
    try:
        yield await asyncio.to_thread(ours.recv), ours
    finally:
        process.terminate()
        await asyncio.to_thread(process.join)


async def end_request(store: SqliteStore, port: int) -> tuple[str, float]:
    """A request with a webhook ends; → its id and when."""
    request_id = str(uuid.uuid4())
    await store.submit(
        NewRequest(
            request_id=request_id, endpoint="e", input={}, seed=7, base_url="http://127.0.0.1:8000",
            webhook_url=f"http://127.0.0.1:{port}/hook",
        )
    )  # fmt: skip
    (request,) = await store.claim(endpoints=["e"], runner_id="r", limit=1)
    await store.finish(request_id, request.lease or "", outcome=Outcome.OK, result=Result(200, OUTPUT))
    return request_id, time.time()


async def run(*, deliveries: int, rate: float, with_dead: bool, seed: int) -> dict[str, Any]:
    settings = Settings(webhooks=WebhookSettings(loopback="yes", seconds=SECONDS, retry_seconds=SECONDS))
    with tempfile.TemporaryDirectory() as folder:
        store = await SqliteStore.open(Path(folder) / "impasto.sqlite3")
        await store.ensure_signing_key()
        keys = [key.public for key in store.signing_keys()]
        async with receiving(keys, seed) as (ports, pipe), Deliverer(settings=settings, store=store):
            ended: dict[str, float] = {}
            dead: list[str] = []
            start = time.monotonic()
            for number in range(deliveries):
                await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
                request_id, at = await end_request(store, ports[number % HOSTS])
                ended[request_id] = at
                if with_dead and number % 5 == 0:
                    dead.append((await end_request(store, ports[-1]))[0])
            while any(state(store, request_id) is DeliveryState.DUE for request_id in ended):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            wall = time.monotonic() - start
            pipe.send("stop")
            first, taken, forged = await asyncio.to_thread(pipe.recv)
            logs = {request_id: store.delivery(request_id)[1] for request_id in ended}  # type: ignore[index]
            dead_tries = sum(len(store.delivery(request_id)[1]) for request_id in dead)  # type: ignore[index]
        await store.close()
    waits = sorted(1000 * (first[request_id] - at) for request_id, at in ended.items())
    gaps = [
        (after.at - before.at - before.seconds) / RETRY_AFTER[number] - 1
        for log in logs.values()
        for number, (before, after) in enumerate(itertools.pairwise(log))
    ]
    return {
        "deliveries": deliveries,
        "taken_by_receivers": len(taken & set(ended)),
        "signatures_that_did_not_fit": forged,
        "attempts": sum(len(log) for log in logs.values()),
        "most_attempts_of_one": max(len(log) for log in logs.values()),
        "first_arrival_ms_p50": round(statistics.median(waits), 1),
        "first_arrival_ms_p99": round(waits[int(0.99 * len(waits))], 1),
        "first_arrival_ms_max": round(waits[-1], 1),
        "delay_off_schedule_percent": [round(100 * min(gaps), 1), round(100 * max(gaps), 1)],
        "seconds_until_all_were_taken": round(wall, 1),
        "dead_host_deliveries": len(dead),
        "dead_host_tries": dead_tries,
    }


def state(store: SqliteStore, request_id: str) -> DeliveryState:
    found = store.delivery(request_id)
    assert found is not None
    return found[0].state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliveries", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50, help="requests that end a second")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    figures = {
        name: asyncio.run(run(deliveries=options.deliveries, rate=options.rate, with_dead=with_dead, seed=7))
        for name, with_dead in (("alone", False), ("beside_a_dead_host", True))
    }
    report = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f} at the start",
        "command": " ".join(["python", "benchmarks/webhooks.py", *sys.argv[1:]]),
        "receivers": {"answer_500": FAILS, "hang": HANGS, "reset": RESETS},
        "retry_after_seconds": RETRY_AFTER,
        "figures": figures,
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    width = max(len(name) for name in figures["alone"])
    print(f"{'':{width}}  {'alone':>16}  {'dead host beside':>16}")
    for name, value in figures["alone"].items():
        print(f"{name:{width}}  {value!s:>16}  {figures['beside_a_dead_host'][name]!s:>16}")


if __name__ == "__main__":
    main()
