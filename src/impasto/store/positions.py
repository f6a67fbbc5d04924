"""How many wait before one. Counting is exact and cheap near the head; far behind it a fresh snapshot will do.

Every waiting client polls its place ten times a second: counting 10,000 index rows each time would cost 2 ms a poll.
"""

import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

EXACT = 256  # places counted row by row
SNAPSHOT_SECONDS = 0.25
_PRIORITY_SHIFT = 56  # rank = priority << 56 | seq: one 64-bit integer sorts as the pair does


@dataclass(frozen=True, slots=True)
class _Snapshot:
    taken: float
    ranks: "array[int]"


def rank(priority: int, seq: int) -> int:
    return priority << _PRIORITY_SHIFT | seq


class Positions:
    """One sorted snapshot per endpoint, 8 bytes a waiting request."""

    def __init__(self, order: Callable[[str], list[tuple[int, int]]]) -> None:
        self._order = order
        self._snapshots: dict[str, _Snapshot] = {}

    def ahead(self, endpoint: str, priority: int, seq: int) -> int:
        """How many of the endpoint stood before this place when the snapshot was taken; at least `EXACT`."""
        now = time.monotonic()
        snapshot = self._snapshots.get(endpoint)
        if snapshot is None or now - snapshot.taken > SNAPSHOT_SECONDS:
            snapshot = _Snapshot(now, array("q", [rank(*place) for place in self._order(endpoint)]))
            self._snapshots[endpoint] = snapshot
        return max(EXACT, bisect_left(snapshot.ranks, rank(priority, seq)))
