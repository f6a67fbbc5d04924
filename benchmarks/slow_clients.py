"""Slow clients beside healthy ones (reliability S12): what the healthy notice, and when the slow ones are gone.

Starts `impasto serve` with test pictures and its default limits; slow connections send a byte of a head, or of a body,
a second. A healthy client asks for a status that does not exist, one request after the other.

    python benchmarks/slow_clients.py [--slow 500] [--seconds 20] [--write]
    python benchmarks/slow_clients.py --memory 60 [--unbounded]

`--memory`: so many submits of 29 MiB that lack their last byte; what the server holds while they are open and 5 s after
they have closed. `--unbounded`: with server.max_buffered_key_mb and server.max_buffered_mb at 0, as before they came.
"""

import argparse
import contextlib
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RESULTS = Path(__file__).parent / "results/slow_clients.json"
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
BODY = b"POST /queue/fal-ai/flux-pro HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{"
HEALTHY = b"GET /queue/fal-ai/flux-pro/requests/none/status HTTP/1.1\r\nHost: localhost\r\n\r\n"


def ask_for(address: tuple[str, int], seconds: float) -> list[float]:
    """Milliseconds of each answer."""
    took: list[float] = []
    with socket.create_connection(address) as connection:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            connection.sendall(HEALTHY)
            while b"NOT_FOUND" not in connection.recv(65536):
                pass
            took.append((time.perf_counter() - began) * 1000)
            time.sleep(0.005)
    return took


def describe(took: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(took, n=100)
    return {"answers": len(took), "p50, ms": round(cuts[49], 2), "p99, ms": round(cuts[98], 2)}


class Slow:
    """`count` connections that dawdle; remembers when each was closed by the server."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self.began = time.monotonic()
        self.closed: list[float] = []
        self.selector = selectors.DefaultSelector()
        for number in range(count):
            connection = socket.create_connection(address)
            connection.sendall(HEAD if number % 2 else BODY)
            connection.setblocking(False)
            self.selector.register(connection, selectors.EVENT_READ)

    def dawdle(self, seconds: float) -> None:
        while self.selector.get_map() and time.monotonic() < self.began + seconds:
            for key, _ in self.selector.select(timeout=1.0):
                self._heard(key.fileobj)
            for key in list(self.selector.get_map().values()):
                with contextlib.suppress(OSError):
                    key.fileobj.send(b"a")  # type: ignore[union-attr]

    def _heard(self, connection: Any) -> None:
        try:
            ended = not connection.recv(65536)
        except OSError:
            ended = True
        if ended:
            self.closed.append(time.monotonic() - self.began)
            self.selector.unregister(connection)
            connection.close()


def measure(url: str, slow: int, seconds: float) -> dict[str, Any]:
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 0)
    alone = ask_for(address, seconds / 2)
    dawdlers = Slow(address, slow)
    thread = threading.Thread(target=dawdlers.dawdle, args=(60.0,))
    thread.start()
    beside = ask_for(address, seconds)
    thread.join()
    return {
        "slow connections": slow,
        "healthy, alone": describe(alone),
        "healthy, beside the slow": describe(beside),
        "slow ones closed": len(dawdlers.closed),
        "the last one after, s": round(max(dawdlers.closed, default=0.0), 1),
    }


UNBOUNDED = {"IMPASTO_SERVER_MAX_BUFFERED_KEY_MB": "0", "IMPASTO_SERVER_MAX_BUFFERED_MB": "0"}
UNFINISHED = 29 * 2**20 - 1


def resident(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def unfinished(address: tuple[str, int]) -> socket.socket:
    """A submit that lacks its last byte, or that was refused on its way."""
    connection = socket.create_connection(address, timeout=30)
    head = f"POST /queue/fal-ai/flux-pro HTTP/1.1\r\nHost: localhost\r\nContent-Length: {UNFINISHED + 1}\r\n\r\n"
    with contextlib.suppress(OSError):
        connection.sendall(head.encode() + b'{"prompt": "' + b"a" * (UNFINISHED - 12))
    return connection


def hold(url: str, count: int, pid: int) -> dict[str, Any]:
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 0)
    before = resident(pid)
    held = [unfinished(address) for _ in range(count)]
    peak = resident(pid)
    for connection in held:
        connection.close()
    time.sleep(5)
    return {
        "unfinished bodies of 29 MiB": count,
        "resident before, MiB": round(before),
        "resident with them, MiB": round(peak),
        "resident 5 s after, MiB": round(resident(pid)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--unbounded", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "impasto.cli", "serve", "--port", "0", "--data", folder],
            env=os.environ | {"IMPASTO_MODEL_PIPELINE": "fake"} | (UNBOUNDED if arguments.unbounded else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout is not None
        url = next(found[1] for line in server.stdout if (found := re.search(r"serving (http://\S+)", line)))
        try:
            if arguments.memory:
                text = json.dumps(hold(url, arguments.memory, server.pid), indent=2)
            else:
                text = json.dumps(measure(url, arguments.slow, arguments.seconds), indent=2)
        finally:
            server.terminate()
            server.wait()
    print(text)
    if arguments.write and not arguments.memory:
        RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
