"""Who has ended how many runners lately, by key and endpoint: the bound on what one key's crashes cost the others.

In: requests that were at work when their runner died, and those of them that were drawn well later, alone: they are
free of blame. Out: whether a key's requests for an endpoint are drawn now. In memory only: a restart begins anew.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class _Crash:
    at: float
    request_id: str
    endpoint: str


class Crashes:
    """At most `limit` an hour and key; 0: any number, as for callers without a key. `clock`: monotonic seconds."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._crashes: dict[str, list[_Crash]] = {}

    def blame(self, key_id: str, endpoint: str, request_id: str) -> None:
        """Note that a request was at work when its runner died."""
        if key_id and self._limit:
            self._crashes[key_id] = [*self._recent(key_id), _Crash(self._clock(), request_id, endpoint)]

    def forgive(self, key_id: str, request_id: str) -> None:
        """Forget what a request was blamed for: it was drawn well alone."""
        if key_id in self._crashes:
            self._crashes[key_id] = [crash for crash in self._recent(key_id) if crash.request_id != request_id]

    def pause(self, key_id: str, endpoint: str) -> int:
        """Seconds for which a key's requests for an endpoint are not drawn; 0: they are."""
        recent = self._recent(key_id) if key_id in self._crashes else []
        if not self._limit or len(recent) < self._limit or all(crash.endpoint != endpoint for crash in recent):
            return 0
        return max(1, math.ceil(recent[-self._limit].at + HOUR - self._clock()))

    def _recent(self, key_id: str) -> list[_Crash]:
        since = self._clock() - HOUR
        return [crash for crash in self._crashes.get(key_id, ()) if crash.at > since]
