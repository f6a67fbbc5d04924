"""How many requests are claimed before a waiting one, by the rules of `fairness`, if nothing comes and each request
costs what the last one of its key did.

A snapshot of the whole queue answers each poll by two binary searches. A queue of at most `EXACT` requests is read
again after each change, at once. A longer one changes all the time, and reading 100,000 rows takes 0.2 s: there a
thread reads it, and the snapshot is used for `SNAPSHOT_SECONDS`, or for twenty times what reading took. A poll waits
for that thread only when there is no snapshot, or none younger than `OLDEST_SECONDS`.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from impasto.store.fairness import Turns

EXACT = 256  # requests
SNAPSHOT_SECONDS = 0.25
OLDEST_SECONDS = 5.0  # and at least twice what a snapshot is good for
SHARE = 0.05  # of the time, at most, goes into reading a long queue
_SEQ = 1e-6  # what a later arrival adds to a turn (hundredths of an image) among equals
_LATEST = 0.9 / _SEQ

Waiting = tuple[str, int, int]
"""(key id, priority, seq) of a request in the queue."""


@dataclass(frozen=True, slots=True)
class _Line:
    """The waiting requests of one key and priority, and the turn of each: `first`, then `step` more for each."""

    seqs: list[int]
    first: float
    step: int

    def turn(self, index: int) -> float:
        return self.first + index * self.step


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where each request of a queue waits. Made in any thread, from rows as `Waiting` says."""

    version: int
    made_at: float  # monotonic
    good_for: float  # seconds, whatever the version
    oldest: int  # seq of the first request
    lines: dict[tuple[int, str], _Line]  # (priority, key)
    turns: dict[int, list[float]]  # priority → the turns of all its requests, in order
    before: dict[int, int]  # priority → requests of higher ones
    now: dict[int, float]  # priority → the lowest turn that a key without requests of it gets

    @classmethod
    def of(cls, rows: Sequence[Waiting], turns: Turns, *, version: int, began: float) -> "Snapshot":
        oldest = min((seq for _, _, seq in rows), default=0)
        lines: dict[tuple[int, str], _Line] = {}
        order: dict[int, list[float]] = {}
        before: dict[int, int] = {}
        starts: dict[int, float] = {}
        groups: dict[int, dict[str, list[int]]] = {}
        for key_id, priority, seq in rows:
            groups.setdefault(priority, {}).setdefault(key_id, []).append(seq)
        now, count = float(turns.now), 0
        tags: dict[str, float] = {}  # of keys that have had requests of a higher priority
        for priority, group in sorted(groups.items()):
            before[priority], starts[priority] = count, now
            all_: list[float] = []
            for key_id, seqs in group.items():
                seqs.sort()  # they come by endpoint
                line = _Line(seqs, max(now, tags.get(key_id, turns.of(key_id))), turns.cost(key_id))
                lines[priority, key_id] = line
                all_ += _places(line, oldest)
                tags[key_id] = line.turn(len(seqs))
            all_.sort()
            order[priority] = all_
            now = max((line.turn(len(line.seqs) - 1) for (p, _), line in lines.items() if p == priority), default=now)
            count += len(all_)
        ended = time.monotonic()
        good_for = max(SNAPSHOT_SECONDS, (ended - began) / SHARE) if len(rows) > EXACT else 0.0
        return cls(version, ended, good_for, oldest, lines, order, before, starts)

    def ahead(self, key_id: str, priority: int, seq: int, turns: Turns) -> int:
        """Return how many requests are claimed before one; it need not be in the snapshot."""
        line = self.lines.get((priority, key_id))
        if line is None:
            line = _Line([], max(self.now.get(priority, 0.0), turns.of(key_id)), turns.cost(key_id))
        index = bisect_left(line.seqs, seq)
        known = self.turns.get(priority, [])
        place = line.turn(index) + _among_equals(seq, self.oldest)
        higher = self.before.get(priority)
        if higher is None:  # nothing of this priority waits in the snapshot
            higher = sum(len(all_) for p, all_ in self.turns.items() if p < priority)
        return higher + bisect_left(known, place)


def _places(line: _Line, oldest: int) -> Iterator[float]:
    return (line.turn(index) + _among_equals(seq, oldest) for index, seq in enumerate(line.seqs))


def _among_equals(seq: int, oldest: int) -> float:
    return min((seq - oldest), _LATEST) * _SEQ


def _heard(task: "asyncio.Future[None]") -> None:
    """Take note of a failure for which no poll waits: the next poll tries again."""
    if not task.cancelled():
        task.exception()


class Positions:
    """`read`: the queue, up to a number of requests; called in the event loop for `EXACT` + 1, else in a thread.
    `version`: changes when the file does.
    """

    def __init__(self, read: Callable[[int | None], list[Waiting]], version: Callable[[], int], turns: Turns) -> None:
        self._read = read
        self._version = version
        self._turns = turns
        self._snapshot: Snapshot | None = None
        self._coming: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "impasto-store-positions")

    async def ahead(self, key_id: str, priority: int, seq: int) -> int:
        """Return how many of all that wait are claimed before this one if a runner takes any endpoint."""
        snapshot = self._snapshot
        if snapshot is None or not self._is_fresh(snapshot):
            snapshot = await self._fresh(snapshot)
        return snapshot.ahead(key_id, priority, seq, self._turns)

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _is_fresh(self, snapshot: Snapshot) -> bool:
        return time.monotonic() < snapshot.made_at + snapshot.good_for or snapshot.version == self._version()

    async def _fresh(self, old: Snapshot | None) -> Snapshot:
        if self._coming is None:
            version, began = self._version(), time.monotonic()
            rows = self._read(EXACT + 1)
            if len(rows) <= EXACT:
                self._snapshot = Snapshot.of(rows, self._turns, version=version, began=began)
                return self._snapshot
            self._coming = asyncio.ensure_future(self._refresh())
            self._coming.add_done_callback(_heard)
        if old is None or not old.good_for or time.monotonic() > old.made_at + max(OLDEST_SECONDS, 2 * old.good_for):
            await asyncio.shield(self._coming)
        return self._snapshot or Snapshot.of([], self._turns, version=-1, began=time.monotonic())

    async def _refresh(self) -> None:
        def make() -> Snapshot:
            version, began = self._version(), time.monotonic()
            return Snapshot.of(self._read(None), self._turns, version=version, began=began)

        try:
            self._snapshot = await asyncio.get_running_loop().run_in_executor(self._thread, make)
        finally:
            self._coming = None
