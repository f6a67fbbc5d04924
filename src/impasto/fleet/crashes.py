"""Count the runners that each key's requests have ended: the bound on what one key's crashes cost the others.

In: requests that were at work when their runner died, and requests that were drawn well alone, which clears them.
Out: the lanes (key, endpoint) whose requests are drawn alone, those that rest after a crash, those that are refused.
Requests without a key share one key, so no lane of theirs is judged. In memory only: a restart forgets all of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

HOUR = 3600.0
SUSPECT_SECONDS = 60.0  # after a crash; within them a lane's requests are drawn alone, when no other key's waits
REST_SECONDS = 2.0  # after a lane's first crash, twice as long after each further one within an hour
MAX_REST_SECONDS = 30.0
DOUBLED_MAX = 10  # times; a float overflows at 1,024, which many runners reach in an hour without a limit

Lane = tuple[str, str]  # key id, endpoint


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
        self._suspects: dict[Lane, float] = {}  # until when
        self._resting: dict[Lane, float] = {}  # until when

    def blame(self, key_id: str, endpoint: str, request_id: str) -> None:
        """Note that a request was at work when its runner died."""
        if not key_id:
            return
        now = self._clock()
        self._crashes[key_id] = [*self._recent(key_id), _Crash(now, request_id, endpoint)]
        before = sum(crash.endpoint == endpoint for crash in self._crashes[key_id]) - 1
        rest = REST_SECONDS * 2.0 ** min(before, DOUBLED_MAX)
        self._suspects[key_id, endpoint] = now + SUSPECT_SECONDS
        self._resting[key_id, endpoint] = now + min(rest, MAX_REST_SECONDS)

    def forgive(self, key_id: str, endpoint: str, request_id: str) -> None:
        """Clear a lane of suspicion, and a request of its own crashes: it was drawn well alone."""
        self._suspects.pop((key_id, endpoint), None)
        if key_id in self._crashes:
            self._crashes[key_id] = [crash for crash in self._recent(key_id) if crash.request_id != request_id]

    @property
    def suspects(self) -> frozenset[Lane]:
        """The lanes whose requests are drawn alone."""
        return self._current(self._suspects)

    @property
    def resting(self) -> frozenset[Lane]:
        """The lanes of which nothing is drawn for a few seconds."""
        return self._current(self._resting)

    def pause(self, key_id: str, endpoint: str) -> int:
        """Seconds for which a key's requests for an endpoint are not drawn; 0: they are."""
        recent = self._recent(key_id) if key_id in self._crashes else []
        if not self._limit or len(recent) < self._limit or all(crash.endpoint != endpoint for crash in recent):
            return 0
        return max(1, math.ceil(recent[-self._limit].at + HOUR - self._clock()))

    def _current(self, lanes: dict[Lane, float]) -> frozenset[Lane]:
        now = self._clock()
        for lane in [lane for lane, until in lanes.items() if until <= now]:
            del lanes[lane]
        return frozenset(lanes)

    def _recent(self, key_id: str) -> list[_Crash]:
        since = self._clock() - HOUR
        return [crash for crash in self._crashes.get(key_id, ()) if crash.at > since]
