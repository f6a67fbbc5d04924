"""Waking up: who waits for a change of which request, and the bells that tell the dispatcher and the deliverer of work.

In: `notify` from the writer's thread, after the commit. Out: waiting tasks resumed, each on its own event loop.
"""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterable

MAX_VERSIONS = 16_384  # requests whose counter is remembered; older ones answer with the floor


class Watch:
    """Change counters are numbers of one common count, so that a forgotten request still answers "at least this"."""

    def __init__(self, max_versions: int = MAX_VERSIONS) -> None:
        self._lock = threading.Lock()
        self._max = max_versions
        self._count = 0
        self._floor = 0  # the highest counter that was forgotten
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._work = _Bell()
        self._post = _Bell()

    def version(self, request_id: str) -> int:
        with self._lock:
            return self._versions.get(request_id, self._floor)

    async def changed(self, request_id: str, *, since: int, timeout: float) -> int:
        """Wait until the counter passes `since` or `timeout` seconds are over; → the counter now."""
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            version = self._versions.get(request_id, self._floor)
            if version > since:
                return version
            self._waiters.setdefault(request_id, set()).add(future)
        try:
            await asyncio.wait((future,), timeout=timeout)
        finally:
            with self._lock:
                waiters = self._waiters.get(request_id, set())
                waiters.discard(future)
                if not waiters:
                    self._waiters.pop(request_id, None)
        return self.version(request_id)

    async def work_available(self, *, timeout: float) -> None:
        """Wait for the doorbell. A ring that nobody heard is kept for the next caller."""
        await self._listen(self._work, timeout)

    async def delivery_due(self, *, timeout: float) -> None:
        """The same for the deliverer's bell."""
        await self._listen(self._post, timeout)

    async def _listen(self, bell: "_Bell", timeout: float) -> None:
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            if bell.rung:
                bell.rung = False
                return
            bell.listeners.add(future)
        try:
            await asyncio.wait((future,), timeout=timeout)
        finally:
            with self._lock:
                bell.listeners.discard(future)

    def notify(self, request_ids: Iterable[str], *, ring: bool, posted: bool = False) -> None:
        """Count a change of each request and wake who waits for it; with `ring`, who waits for work; with `posted`, who
        waits for deliveries. Thread-safe.
        """
        with self._lock:
            woken: list[asyncio.Future[None]] = []
            for request_id in request_ids:
                self._count += 1
                self._versions[request_id] = self._count
                self._versions.move_to_end(request_id)
                woken += self._waiters.pop(request_id, ())
            while len(self._versions) > self._max:
                _, self._floor = self._versions.popitem(last=False)
            if ring:
                woken += self._work.ring()
            if posted:
                woken += self._post.ring()
        wake(woken)


class _Bell:
    """Held under the watch's lock."""

    def __init__(self) -> None:
        self.rung = False  # and nobody heard it
        self.listeners: set[asyncio.Future[None]] = set()

    def ring(self) -> set[asyncio.Future[None]]:
        """→ whom to wake."""
        woken, self.listeners = self.listeners, set()
        self.rung = not woken
        return woken


def wake(futures: Iterable[asyncio.Future[None]]) -> None:
    """Resolve futures from any thread; one call into each loop."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for future in futures:
        loops.setdefault(future.get_loop(), []).append(future)
    for loop, members in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its tasks with it
            loop.call_soon_threadsafe(_resolve, members)


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
