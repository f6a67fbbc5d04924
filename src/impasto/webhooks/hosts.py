"""How much each host gets: slots, tries a second, and a breaker, so that one that is dead delays nobody else.

A host is dead to us when it gave no answer at all, many times in a row; an HTTP error is an answer, and may be the
fault of one path of a host that many share. A dead host gets one try a minute until it answers. What waits for it
loses none of its tries meanwhile.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

DEAD_AFTER = 20  # tries without an answer, in a row
PROBE_SECONDS = 60.0
FORGET_SECONDS = 3600.0


@dataclass(slots=True)
class _Host:
    tries: float  # that it may be given now
    filled_at: float
    busy: int = 0
    silent: int = 0  # tries without an answer, in a row
    probe_at: float = 0.0


class Hosts:
    def __init__(self, *, slots: int, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._rate = rate
        self._clock = clock
        self._hosts: dict[str, _Host] = {}

    def free(self, name: str) -> int:
        """How many tries may begin now."""
        now, host = self._clock(), self._hosts.get(name)
        if host is None:
            return min(self._slots, int(self._rate))
        if host.silent >= DEAD_AFTER:
            return 1 if not host.busy and now >= host.probe_at else 0
        self._fill(host, now)
        return min(self._slots - host.busy, int(host.tries))

    def began(self, name: str) -> None:
        now = self._clock()
        host = self._hosts.setdefault(name, _Host(self._rate, now))
        self._fill(host, now)
        host.tries = max(host.tries - 1, 0)
        host.busy += 1

    def ended(self, name: str, *, answered: bool) -> None:
        host = self._hosts[name]
        host.busy -= 1
        host.silent = 0 if answered else host.silent + 1
        host.probe_at = self._clock() + PROBE_SECONDS

    def is_dead(self, name: str) -> bool:
        return name in self._hosts and self._hosts[name].silent >= DEAD_AFTER

    def forget(self) -> None:
        """Drop what is known of hosts that nobody delivers to."""
        now = self._clock()
        for name, host in list(self._hosts.items()):
            quiet = now - host.filled_at
            if not host.busy and quiet > (FORGET_SECONDS if host.silent else 1.0):
                del self._hosts[name]

    def _fill(self, host: _Host, now: float) -> None:
        host.tries = min(self._rate, host.tries + (now - host.filled_at) * self._rate)
        host.filled_at = now
