"""How many are drawn before a waiting request, by the rules of `fairness`: `normal` before `low`, keys in turns, and
within a key first come, first served.

One snapshot of the whole queue answers every poll until the file has changed. A long queue changes all the time, and
reading 10,000 rows (50 ms) ten times a second would cost more than the figure is worth: there the snapshot is good for
a quarter of a second, or for twenty times what it took.
"""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

EXACT = 256  # requests; a shorter queue is read anew after each change
SNAPSHOT_SECONDS = 0.25
SHARE = 0.05  # of the time, at most, goes into reading a long queue

Waiting = tuple[str, int, int]
"""(key id, priority, seq) of a request in the queue."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    version: int
    good_until: float  # whatever the version
    lines: dict[int, dict[str, list[int]]]  # priority → key → its requests' seqs, in order

    @classmethod
    def of(cls, waiting: Callable[[], Iterable[Waiting]], *, version: int) -> "_Snapshot":
        began = time.monotonic()
        lines: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        size = 0
        for key_id, priority, seq in waiting():
            lines[priority][key_id].append(seq)
            size += 1
        for keys in lines.values():
            for seqs in keys.values():
                seqs.sort()
        now = time.monotonic()
        good_for = max(SNAPSHOT_SECONDS, (now - began) / SHARE) if size > EXACT else 0.0
        return cls(version, now + good_for, {p: dict(keys) for p, keys in lines.items()})


class Positions:
    """`waiting`: the queue, in any order. `version`: changes when the file does. `turn`: when a key was last served."""

    def __init__(
        self, waiting: Callable[[], Iterable[Waiting]], version: Callable[[], int], turn: Callable[[str], int]
    ) -> None:
        self._waiting = waiting
        self._version = version
        self._turn = turn
        self._snapshot: _Snapshot | None = None

    def ahead(self, key_id: str, priority: int, seq: int) -> int:
        """How many of all that wait are claimed before this one if nothing comes and a runner takes any endpoint."""
        lines = self._fresh().lines
        earlier = [keys for p, keys in lines.items() if p < priority]
        line = lines.get(priority, {})
        own = bisect_left(line.get(key_id, []), seq)

        def turn(key: str) -> tuple[int, int, int]:
            # whoever has more to be drawn with a higher priority will have been served last
            drawn = sum(len(keys.get(key, [])) for keys in earlier)
            first = next((keys[key][0] for keys in (*earlier, line) if key in keys), seq)
            return drawn, self._turn(key), first

        mine = turn(key_id)
        before = sum(len(seqs) for keys in earlier for seqs in keys.values())
        for other, seqs in line.items():
            if other != key_id:
                # as many as this key has before it, and one more where the other's turn comes first
                before += min(len(seqs), own + (turn(other) < mine))
        return before + own

    def _fresh(self) -> _Snapshot:
        version, snapshot = self._version(), self._snapshot
        if snapshot is None or (snapshot.version != version and time.monotonic() >= snapshot.good_until):
            self._snapshot = snapshot = _Snapshot.of(self._waiting, version=version)
        return snapshot
