"""Whose request is next: keys take turns, so that one that floods the queue delays the others by one request each.

Within a key: first come, first served. Over all keys: `normal` before `low`, as fal orders them. With one key, or none,
this is plain FIFO. The turns live in memory: after a restart they begin anew.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from impasto.store.writer import Transaction

PRIORITIES = (0, 1)


class Turns:
    """When each key was served last; a key that was not comes first."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._numbers = count(1)

    def of(self, key_id: str) -> int:
        return self._last.get(key_id, 0)

    def take(self, key_id: str) -> None:
        self._last[key_id] = next(self._numbers)


def fair_order(
    tx: Transaction, turns: Turns, *, endpoints: Sequence[str], max_running: int, now: float, monotonic: float
) -> Iterator[int]:
    """The waiting requests (`seq`) in the order in which they are to be claimed; each is taken to be claimed."""
    clocks = {"now": now, "monotonic": monotonic}
    running: dict[str, int] = {}
    if max_running:
        running = {row["key_id"]: row["running"] for row in tx.rows("running_by_key")}
    for priority in PRIORITIES:
        heads: dict[tuple[str, str], int] = {}  # (key, endpoint) → seq
        for endpoint in dict.fromkeys(endpoints):
            for row in tx.rows("queue_heads", endpoint=endpoint, priority=priority, **clocks):
                if row["seq"] is not None:
                    heads[row["key_id"], endpoint] = row["seq"]
        while free := [head for head in heads if not _full(head[0], running, max_running)]:
            head = min(free, key=lambda head: (turns.of(head[0]), heads[head]))
            key_id, endpoint = head
            seq = heads.pop(head)
            yield seq
            turns.take(key_id)
            running[key_id] = running.get(key_id, 0) + 1
            row = tx.row("queue_next", endpoint=endpoint, priority=priority, key_id=key_id, seq=seq, **clocks)
            if row is not None and row["seq"] is not None:
                heads[head] = row["seq"]


def _full(key_id: str, running: Mapping[str, int], max_running: int) -> bool:
    """Whether a key runs all that it may; without keys there is no limit."""
    return bool(max_running and key_id) and running.get(key_id, 0) >= max_running
