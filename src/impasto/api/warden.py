"""Slow and crowding clients: who may connect, and whose pace is no pace. `connection` tells, this decides.

In: connections that open and close, and how far each has come. Out: the ones to refuse, to answer 408 and to cut. One
timer for all of them looks every second. What it never touches: a client that waits for us (a running picture, an
event stream, an open WebSocket), however long that takes; and a question whether the server is alive or ready.

A connection counts for its client's address (`addresses`) from its first byte on, and for the key that used it last
from the moment that the key is known (`hold`).
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from enum import Enum, auto
from typing import Protocol

from impasto.api.addresses import Proxies, group_of
from impasto.api.memory import Buffers, give_back
from impasto.errors import RequestTooSlow, TooManyConnections, WireError
from impasto.settings import ServerSettings, is_loopback

STATE = "impasto.line"  # in a scope's `state`: the connection that a request came on
SOCKET = "impasto.socket"  # likewise: the protocol of a WebSocket
KIB = 1024
SWEEP_SECONDS = 1.0
CROWDED_SECONDS = 2.0  # that a connection too many has for its head: only a look at the health is answered
HEALTH = frozenset({b"/healthz", b"/health", b"/readyz"})  # answered whoever asks and however many ask for other things
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

    def close_after_answer(self) -> None:
        """Keep the connection open no longer than until the present request is answered."""
        ...

    def give_up(self, error: WireError | None) -> None:
        """Close the connection, with this answer if none has begun."""
        ...


class Line:
    """One connection, as far as its pace matters."""

    __slots__ = (
        "_got",
        "_left",
        "_since",
        "_stuck",
        "address",
        "client",
        "crowded",
        "held",
        "holder",
        "owner",
        "phase",
        "transport",
        "warden",
    )

    def __init__(self, warden: "Warden", transport: asyncio.Transport, owner: Owner | None, now: float) -> None:
        self.warden = warden
        self.transport = transport
        self.owner = owner  # None: a WebSocket, whose own pings find who is gone
        peer: tuple[object, ...] | str | None = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        self.client = group_of(self.address)  # whom it counts for; behind a proxy the client that the proxy names
        self.holder = ""  # the key that used it last
        self.held = 0  # bytes of its requests in memory
        self.crowded = False  # one too many; refused when its head is there, so that the refusal can be read
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

    def holds(self, count: int) -> None:
        """Note that requests of this connection hold so many bytes now. Raises `TooMuchBuffered` past a limit."""
        more, buffers, who = count - self.held, self.warden.buffers, self.holder or self.client
        if more > 0:
            buffers.take(who, more)
        elif more < 0:
            buffers.give(who, -more)
        self.held = count

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
        self._proxies = Proxies(limits.trusted_proxies)
        self._lines: dict[asyncio.Transport, Line] = {}
        self._clients: Counter[str] = Counter()
        self._holders: Counter[str] = Counter()
        self.buffers = Buffers(of_one=limits.max_buffered_key_mb * KIB * KIB, of_all=limits.max_buffered_mb * KIB * KIB)
        self._crowd: dict[Line, None] = {}  # the crowded ones, the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._pause = min(SWEEP_SECONDS, limits.head_seconds / 4, limits.body_seconds / 4, limits.write_seconds / 4)

    def __len__(self) -> int:
        return len(self._lines)

    def open(self, transport: asyncio.Transport, owner: Owner) -> Line:
        """A new connection. One past the limits is `crowded`; of too many of those the oldest is cut."""
        loop = asyncio.get_running_loop()
        line = Line(self, transport, owner, loop.time())
        line.crowded = len(self._lines) - len(self._crowd) >= self._limits.max_connections or self._is_full(line.client)
        self._lines[transport] = line
        self._clients[line.client] += 1
        if line.crowded:
            self._crowd[line] = None
            self._cut_crowd(line.client)
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
        line.holds(0)
        self._crowd.pop(line, None)
        _count_out(self._clients, line.client)
        _count_out(self._holders, line.holder)

    def admit(self, line: Line, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> TooManyConnections | None:
        """Judge a request by its head: None, or how it is refused.

        Behind a trusted proxy the connection counts from now on for the client that the proxy names.
        """
        if url.partition(b"?")[0] in HEALTH:
            return None
        client = group_of(self._proxies.client(line.address, headers))
        if client != line.client:
            line.holds(0)
            full = self._is_full(client)
            _count_out(self._clients, line.client)
            line.client = client
            self._clients[client] += 1
            if full:
                return self.refusal()
        return self.refusal() if line.crowded else None

    def hold(self, line: Line, holder: str) -> None:
        """Count the connection for the key (or whatever names its user) that uses it now; "": nobody known.

        Raises `TooManyConnections` when that key has its share of them.
        """
        if holder == line.holder:
            return
        share = self._limits.max_connections_per_key
        if holder and 0 < share <= self._holders[holder]:
            if line.owner is not None:
                line.owner.close_after_answer()  # else it stays open and counts for nobody
            raise TooManyConnections(
                f"This key has {share} connections open, as many as it may (setting server.max_connections_per_key)."
            )
        line.holds(0)
        _count_out(self._holders, line.holder)
        line.holder = holder
        if holder:
            self._holders[holder] += 1

    def refusal(self) -> TooManyConnections:
        return TooManyConnections(
            "Too many connections are open (settings server.max_connections, server.max_connections_per_address)."
        )

    def _is_full(self, client: str) -> bool:
        limit = self._limits.max_connections_per_address
        return 0 < limit <= self._clients[client] and not is_loopback(client)

    def _cut_crowd(self, client: str) -> None:
        """Of one address no more may wait for their refusal than may be open, and the same of all together."""
        if self._is_full(client) and self._clients[client] > 2 * self._limits.max_connections_per_address:
            oldest = next((line for line in self._crowd if line.client == client), None)
        elif len(self._crowd) > self._limits.max_connections:
            oldest = next(iter(self._crowd))
        else:
            oldest = None
        if oldest is not None:
            del self._crowd[oldest]
            oldest.transport.abort()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for line in list(self._lines.values()):
            self._look(line, now)
        self._cut_unread()
        if self.buffers.due:
            self.buffers.freed = 0
            loop.run_in_executor(None, give_back)
        self._timer = loop.call_later(self._pause, self._sweep) if self._lines else None

    def _cut_unread(self) -> None:
        """Answers that wait to be read are memory, too: past a holder's share its largest ones are cut."""
        unread: defaultdict[str, list[tuple[int, int, Line]]] = defaultdict(list)
        for number, line in enumerate(self._lines.values()):
            if size := line.transport.get_write_buffer_size():
                unread[line.holder or line.client].append((size, number, line))
        for lines in unread.values():
            total = sum(size for size, _, _ in lines)
            for size, _, line in sorted(lines, reverse=True):
                if self.buffers.is_share_of_one(total):
                    break
                line.transport.abort()
                self.buffers.freed += size
                total -= size

    def _look(self, line: Line, now: float) -> None:
        limits = self._limits
        if line.unread_for(now) > limits.write_seconds:
            line.transport.abort()
            return
        owner = line.owner
        if owner is None or line.transport.is_closing():
            return
        if line.phase is Phase.HEAD and not owner.answering:
            seconds = min(limits.head_seconds, CROWDED_SECONDS) if line.crowded else limits.head_seconds
            if line.lasts(now) > seconds:
                late = RequestTooSlow(f"The request's head took more than {seconds:g} s.")
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


def _count_out(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if counts[name] <= 0:
        del counts[name]
