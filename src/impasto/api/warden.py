"""Slow and crowding clients: who may connect, and whose pace is no pace. `connection` tells, this decides.

In: connections that open and close, and how far each has come. Out: the ones to refuse, to answer 408 and to cut. One
timer for all of them looks every second. What it never touches: a client that waits for us (a running picture, an
event stream, an open WebSocket), however long that takes.
"""

import asyncio
from collections import Counter
from enum import Enum, auto
from typing import Protocol

from impasto.errors import RequestTooSlow, TooManyConnections, WireError
from impasto.settings import ServerSettings, is_loopback

KIB = 1024
SWEEP_SECONDS = 1.0
TAKEN = 8 * KIB  # bytes of an answer: who takes so many within `server.write_seconds` is reading


class Phase(Enum):
    HEAD = auto()  # of a request: nothing is known of it yet
    BODY = auto()
    IDLE = auto()  # a request is complete: it is being answered, or the next one has not begun


class Owner(Protocol):
    """The protocol that speaks on a connection."""

    @property
    def answering(self) -> bool:
        """The client waits for us."""
        ...

    @property
    def holding_back(self) -> bool:
        """It is we who do not read on."""
        ...

    def give_up(self, error: WireError | None) -> None:
        """Close the connection, with this answer if none has begun."""
        ...


class Line:
    """One connection, as far as its pace matters."""

    __slots__ = ("_got", "_left", "_since", "_stuck", "address", "crowded", "owner", "phase", "transport")

    def __init__(self, transport: asyncio.Transport, owner: Owner | None, now: float) -> None:
        self.transport = transport
        self.owner = owner  # None: a WebSocket, whose own pings find who is gone
        peer: tuple[object, ...] | str | None = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self.crowded = False  # one too many; refused at its first bytes, so that the refusal can be read
        self.enter(Phase.HEAD, now)
        self._left, self._stuck = 0, now

    def enter(self, phase: Phase, now: float) -> None:
        self.phase = phase
        self._since = now
        self._got = 0

    def arrived(self, count: int, now: float) -> None:
        if self.phase is Phase.IDLE:
            self.enter(Phase.HEAD, now)
        self._got += count

    @property
    def got(self) -> int:
        """Bytes since the phase, or the current measure of a body, began."""
        return self._got

    def lasts(self, now: float) -> float:
        """Seconds since then."""
        return now - self._since

    def unread_for(self, now: float) -> float:
        """Seconds for which the client has taken nothing worth mentioning of an answer that waits for it."""
        left = self.transport.get_write_buffer_size()
        if left == 0 or self._left == 0 or left <= self._left - TAKEN:
            self._left, self._stuck = left, now
        self._left = max(self._left, left)
        return now - self._stuck if left else 0.0

    def reads(self, now: float) -> None:
        """The client has emptied our buffer."""
        self._left, self._stuck = 0, now


class Warden:
    """One a server."""

    def __init__(self, limits: ServerSettings) -> None:
        self._limits = limits
        self._lines: dict[asyncio.Transport, Line] = {}
        self._addresses: Counter[str] = Counter()
        self._crowded = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pause = min(SWEEP_SECONDS, limits.head_seconds / 4, limits.body_seconds / 4, limits.write_seconds / 4)

    def __len__(self) -> int:
        return len(self._lines)

    def open(self, transport: asyncio.Transport, owner: Owner) -> Line:
        """A new connection. Judge it by `crowded` at its first bytes; far past all limits it is cut at once."""
        loop = asyncio.get_running_loop()
        line = Line(transport, owner, loop.time())
        limit = self._limits.max_connections_per_address
        line.crowded = len(self._lines) >= self._limits.max_connections or (
            0 < limit <= self._addresses[line.address] and not is_loopback(line.address)
        )
        self._crowded += line.crowded
        if self._crowded > self._limits.max_connections:
            transport.abort()
        self._lines[transport] = line
        self._addresses[line.address] += 1
        if self._timer is None:
            self._timer = loop.call_later(self._pause, self._sweep)
        return line

    def hand_over(self, transport: asyncio.Transport, owner: Owner | None) -> Line:
        """Another protocol speaks on a connection from now on."""
        line = self._lines[transport]
        line.owner = owner
        return line

    def close(self, transport: asyncio.Transport) -> None:
        """The connection is gone."""
        line = self._lines.pop(transport, None)
        if line is None:
            return
        self._crowded -= line.crowded
        self._addresses[line.address] -= 1
        if not self._addresses[line.address]:
            del self._addresses[line.address]

    def refusal(self) -> TooManyConnections:
        return TooManyConnections(
            "Too many connections are open (settings server.max_connections, server.max_connections_per_address)."
        )

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for line in list(self._lines.values()):
            self._look(line, now)
        self._timer = loop.call_later(self._pause, self._sweep) if self._lines else None

    def _look(self, line: Line, now: float) -> None:
        limits = self._limits
        if line.unread_for(now) > limits.write_seconds:
            line.transport.abort()
            return
        owner = line.owner
        if owner is None or line.transport.is_closing():
            return
        if line.phase is Phase.HEAD and not owner.answering:
            if line.lasts(now) > limits.head_seconds:
                late = RequestTooSlow(f"The request's head took more than {limits.head_seconds:g} s.")
                owner.give_up(late if line.got else None)
        elif line.phase is Phase.BODY:
            self._measure(line, owner, now)

    def _measure(self, line: Line, owner: Owner, now: float) -> None:
        """A body has to bring its share in every stretch, so that a fast beginning buys no slow end."""
        seconds, rate = self._limits.body_seconds, self._limits.body_kib_per_second
        if owner.holding_back:
            line.enter(Phase.BODY, now)
        elif line.lasts(now) > seconds:
            if line.got < rate * KIB * seconds:
                late = RequestTooSlow(f"The request's body came slower than {rate:g} KiB/s over {seconds:g} s.")
                owner.give_up(late)
            elif not owner.answering:  # it was answered already, say 413, and still comes
                owner.give_up(None)
            else:
                line.enter(Phase.BODY, now)
