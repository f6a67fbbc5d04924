"""The order in which waiting requests are claimed: keys take turns by work, so that one key that floods the queue, or
asks for large images, delays the others by little.

Within a key: first come, first served. Over all keys: `normal` before `low`, as fal orders them. With one key, or
without keys, this is plain FIFO.

Turns are start-time fair queueing. Each key has a tag: the work, in hundredths of an ordinary image, up to which it
has been served. The key with the lowest tag is next. A key that comes back after a pause starts at the tag of the
request that was claimed last: a pause saves nothing up. How much work a request is becomes known after its claim
(`Turns.charge`); until then it counts as much as the last one of its key.

`Lines` keeps the heads of all lines (one line: key, endpoint, priority) in heaps, so that a claim costs the same
however many keys and endpoints wait. The heaps hold lower bounds, and each head is read from the table before it is
claimed. Both live in the memory of the writer thread; after a restart turns start from zero, and lines are read from
the table.
"""

from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any

from impasto.store.writer import Transaction

PRIORITIES = (0, 1)
ORDINARY = 100  # hundredths of an image of 1024 × 1024 pixels and 28 steps: the cost of a request of an unknown key
ORDINARY_PIXEL_STEPS = 1024 * 1024 * 28
MAX_KEYS = 4_096  # whose tags are kept although they say nothing any more
MAX_CHARGES = 16_384  # claimed requests whose cost can still be corrected


class Turns:
    """The tags of the keys. Changed in the writer thread only; reading a tag is safe in any thread."""

    def __init__(self) -> None:
        self._tags: dict[str, int] = {}
        self._expected: dict[str, int] = {}  # cost of the key's last request
        self._charges: dict[int, tuple[str, int]] = {}  # seq of a claimed request → its key and what it was charged
        self.now = 0  # the tag at which the last request was claimed

    def of(self, key_id: str) -> int:
        """Return the key's tag, in hundredths of an ordinary image; `now` for a key that has none."""
        return self._tags.get(key_id, self.now)

    def cost(self, key_id: str) -> int:
        """Return what the next request of a key is expected to cost."""
        return self._expected.get(key_id, ORDINARY)

    def arrive(self, key_id: str) -> None:
        """Note that a key without waiting requests has one now."""
        self._tags[key_id] = max(self._tags.get(key_id, 0), self.now)

    def take(self, key_id: str, seq: int) -> None:
        """Charge a claimed request, at what the last one of its key cost."""
        self.now = max(self._tags.get(key_id, 0), self.now)
        self._tags[key_id] = self.now + self.cost(key_id)
        self._charges[seq] = key_id, self.cost(key_id)
        _trim(self._charges, MAX_CHARGES)

    def charge(self, seq: int, cost: int) -> str | None:
        """Correct what a claimed request was charged; return its key, or None when it is not known any more."""
        key_id, _ = self._charges.get(seq, ("", 0))
        if seq in self._charges:
            self._expected[key_id] = max(cost, 1)
            self._move(seq, max(cost, 1))
        return key_id if seq in self._charges else None

    def settle(self, seq: int, share: float) -> str | None:
        """Refund what was not done of a request that ended, `share` (0 to 1) of it was; return its key, as `charge`."""
        if seq not in self._charges:
            return None
        key_id, charged = self._charges[seq]
        self._move(seq, round(charged * min(max(share, 0.0), 1.0)))
        del self._charges[seq]
        self._prune()
        return key_id

    def _move(self, seq: int, cost: int) -> None:
        key_id, charged = self._charges[seq]
        self._charges[seq] = key_id, cost
        self._tags[key_id] = self._tags.get(key_id, self.now) + cost - charged

    def _prune(self) -> None:
        if len(self._tags) > 2 * MAX_KEYS:
            self._tags = {key: tag for key, tag in self._tags.items() if tag > self.now}
            _trim(self._expected, MAX_KEYS)


class _Line:
    """The waiting requests of one key at one endpoint and priority."""

    __slots__ = ("endpoint", "entry", "key_id", "priority")

    def __init__(self, endpoint: str, priority: int, key_id: str) -> None:
        self.endpoint = endpoint
        self.priority = priority
        self.key_id = key_id
        self.entry: _Entry | None = None  # the one that counts; others of this line in the heap are outdated


_Entry = tuple[int, int, int, _Line]  # (tag, lowest seq that may wait, a number of its own, line)


class Lines:
    """The heads of all lines. Used in the writer thread only."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self._numbers = count()
        self._version: int | None = None  # of the file, at the last look; None: the lines are not known
        self._clock = 0.0
        self._clear()

    def _clear(self) -> None:
        self._lines: dict[tuple[int, str, str], _Line] = {}
        self._heaps: dict[tuple[int, str], list[_Entry]] = {}
        self._sizes: dict[tuple[int, str], int] = {}  # lines of a heap; it may hold more entries
        self._of_key: dict[str, set[_Line]] = {}
        self._asleep: list[tuple[float, int, str, int, str]] = []  # (monotonic, seq, endpoint, priority, key)

    def forget(self) -> None:
        """Read the lines from the table at the next claim."""
        self._version = None

    def add(self, endpoint: str, *, priority: int, key_id: str, seq: int, wake: float = 0.0) -> None:
        """Note that a request waits, from `wake` (monotonic seconds) on."""
        if self._version is None:
            return
        if wake:
            heappush(self._asleep, (wake, seq, endpoint, priority, key_id))
            return
        line = self._lines.get((priority, endpoint, key_id)) or self._new(endpoint, priority, key_id)
        if line.entry is None or seq < line.entry[1]:
            self._push(line, seq)

    def _new(self, endpoint: str, priority: int, key_id: str) -> _Line:
        line = self._lines[priority, endpoint, key_id] = _Line(endpoint, priority, key_id)
        self._sizes[priority, endpoint] = self._sizes.get((priority, endpoint), 0) + 1
        if key_id not in self._of_key:
            self.turns.arrive(key_id)
            self._of_key[key_id] = set()
        self._of_key[key_id].add(line)
        return line

    def moved(self, key_id: str | None) -> None:
        """Put the lines of a key whose tag has changed where they belong."""
        for line in self._of_key.get(key_id or "", ()) if key_id is not None else ():
            if line.entry is not None:
                self._push(line, line.entry[1])

    def look(self, tx: Transaction, *, now: float, monotonic: float) -> None:
        """Bring the lines up to date: read the table when it was changed by another process, end back-offs."""
        version: int = tx.rows("file_version")[0][0]
        if version != self._version or now < self._clock:  # the clock was set back: a missed deadline may count again
            self._read(tx, monotonic)
        self._version, self._clock = version, now
        while self._asleep and self._asleep[0][0] <= monotonic:
            _, seq, endpoint, priority, key_id = heappop(self._asleep)
            self.add(endpoint, priority=priority, key_id=key_id, seq=seq)

    def _read(self, tx: Transaction, monotonic: float) -> None:
        self._clear()
        self._version = 0
        for endpoint, priority, key_id, seq in tx.rows("queue_lines"):
            line = self._new(endpoint, priority, key_id)
            line.entry = (self.turns.of(key_id), seq, next(self._numbers), line)
            self._heaps.setdefault((priority, endpoint), []).append(line.entry)
        for heap in self._heaps.values():
            heapify(heap)
        for row in tx.rows("queue_backoffs", monotonic=monotonic):
            self.add(
                row["endpoint"],
                priority=row["priority"],
                key_id=row["key_id"],
                seq=row["seq"],
                wake=row["not_before"],
            )

    def heap(self, priority: int, endpoint: str) -> list[_Entry]:
        return self._heaps.get((priority, endpoint), [])

    def replace(self, line: _Line, seq: int) -> None:
        """Put a line, whose entry is the first of its heap, where it belongs; nothing before `seq` waits in it."""
        heap = self._heaps[line.priority, line.endpoint]
        line.entry = (self.turns.of(line.key_id), seq, next(self._numbers), line)
        heapreplace(heap, line.entry)

    def drop(self, line: _Line) -> None:
        """Forget a line in which nothing waits."""
        line.entry = None
        del self._lines[line.priority, line.endpoint, line.key_id]
        self._sizes[line.priority, line.endpoint] -= 1
        members = self._of_key.get(line.key_id, set())
        members.discard(line)
        if not members:
            self._of_key.pop(line.key_id, None)

    def _push(self, line: _Line, seq: int) -> None:
        line.entry = (self.turns.of(line.key_id), seq, next(self._numbers), line)
        heap = self._heaps.setdefault((line.priority, line.endpoint), [])
        heappush(heap, line.entry)
        if len(heap) > 64 + 4 * self._sizes[line.priority, line.endpoint]:  # mostly outdated entries
            heap[:] = [entry for entry in heap if entry[3].entry is entry]
            heapify(heap)


class FairOrder:
    """The order of one claim. `next` finds the request that is next, `took` says that it was claimed.

    `running`: requests that each key runs, of which it may run `most` (0: any number; keys only). `busy`: keys of which
    nothing is claimed; None: every key, else at most one request of each other key. `resting`: lanes (key id, endpoint)
    of which nothing is claimed.
    """

    def __init__(
        self,
        tx: Transaction,
        lines: Lines,
        *,
        endpoints: Iterable[str],
        now: float,
        monotonic: float,
        most: int,
        busy: Collection[str] | None,
        resting: Collection[tuple[str, str]] = (),
    ) -> None:
        self._tx = tx
        self._lines = lines
        self._endpoints: Sequence[str] = tuple(dict.fromkeys(endpoints))
        self._clocks = {"now": now, "monotonic": monotonic}
        self._most = most
        self._busy = None if busy is None else set(busy)
        self._resting = set(resting)
        self._running: dict[str, int] = {}
        if most:
            self._running = {row["key_id"]: row["running"] for row in tx.rows("running_by_key")}
        self._aside: list[tuple[_Line, int]] = []  # lines of keys that may not have more now, and where they begin
        tx.undo.append(lines.forget)
        lines.look(tx, now=now, monotonic=monotonic)

    def next(self) -> int | None:
        """Return the seq of the request to be claimed next; None: there is none."""
        for priority in PRIORITIES:
            heaps = [heap for endpoint in self._endpoints if (heap := self._lines.heap(priority, endpoint))]
            while heaps := [heap for heap in heaps if heap]:
                first = min(heaps, key=lambda heap: heap[0])
                seq = self._examine(first)
                if seq is not None:
                    self._first = first[0][3]
                    return seq
        return None

    @property
    def lane(self) -> tuple[str, str]:
        """Key id and endpoint of the request which `next` returned."""
        return self._first.key_id, self._first.endpoint

    def rest(self, lanes: Iterable[tuple[str, str]]) -> None:
        """Claim nothing more of these lanes."""
        self._resting.update(lanes)

    def took(self, seq: int) -> None:
        """Note that the request which `next` returned is claimed."""
        line = self._first
        self._lines.turns.take(line.key_id, seq)
        self._running[line.key_id] = self._running.get(line.key_id, 0) + 1
        if self._busy is not None:
            self._busy.add(line.key_id)
        self._lines.replace(line, seq + 1)

    def passed(self, seq: int) -> None:
        """Let the requests behind the one which `next` returned be claimed before it."""
        self._aside.append((self._first, seq))
        self._lines.replace(self._first, seq + 1)

    def close(self) -> None:
        """Put back the lines that were passed over."""
        for line, seq in self._aside:
            self._lines.add(line.endpoint, priority=line.priority, key_id=line.key_id, seq=seq)
        self._aside = []

    def _examine(self, heap: list[_Entry]) -> int | None:
        """Return the seq of the first line's head if the entry is true; else put it right and return None."""
        entry = heap[0]
        tag, seq, _, line = entry
        if line.entry is not entry:
            heappop(heap)
        elif self._full(line.key_id) or (line.key_id, line.endpoint) in self._resting:
            heappop(heap)
            line.entry = None
            self._aside.append((line, seq))
        elif tag != self._lines.turns.of(line.key_id):
            self._lines.replace(line, seq)
        else:
            found = self._tx.rows(
                "queue_head",
                endpoint=line.endpoint,
                priority=line.priority,
                key_id=line.key_id,
                seq=seq,
                **self._clocks,
            )[0]["seq"]
            if found == seq:
                return seq
            if found is None:
                heappop(heap)
                self._lines.drop(line)
            else:
                self._lines.replace(line, found)
        return None

    def _full(self, key_id: str) -> bool:
        """Return whether a key has all that it may have now; requests without a key have no limit of their own."""
        if self._busy is not None and key_id in self._busy:
            return True
        return bool(self._most and key_id) and self._running.get(key_id, 0) >= self._most


def _trim(entries: dict[Any, Any], most: int) -> None:
    """Forget the oldest entries beyond `most`."""
    while len(entries) > most:
        del entries[next(iter(entries))]
