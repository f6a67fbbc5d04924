"""Look-ups of host names in threads of their own, one at a time for a name.

A name server that does not answer holds a thread for half a minute. In the loop's own few threads it would hold up
pictures on their way to the disk; in a pool it would hold up the end of the process, which waits for pools.
"""

import asyncio
import contextlib
import functools
import socket
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from impasto.files.fetch import Resolver

THREADS = 64
EACH = 16  # of them for one `who`

LookUp = Callable[[str, int], list[str]]


@dataclass(slots=True, eq=False)
class _Look:
    """One look-up, on its way or waiting for a thread."""

    waiting: int = 0  # callers
    begun: bool = False
    task: asyncio.Task[list[str]] = field(init=False)


class Names:
    """`resolve` is a `files.fetch.Resolver`. `look_up` blocks; default: the system's."""

    def __init__(self, look_up: LookUp | None = None) -> None:
        self._look_up = look_up or system_look_up
        self._free = asyncio.Semaphore(THREADS)
        self._turns: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._looks: dict[tuple[str | None, str], _Look] = {}

    def of(self, who: str) -> Resolver:
        """`resolve` for one of many: at most `EACH` look-ups of his run at a time, so that nobody takes all threads."""
        return functools.partial(self.resolve, who=who)

    async def resolve(self, host: str, port: int, *, who: str | None = None) -> list[str]:
        """All addresses of a name. Raises `OSError`, `UnicodeError`."""
        key = (who, host)  # not the host alone: nobody waits in another one's queue
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = _Look()
            look.task = asyncio.create_task(self._find(look, host, port, who))
            look.task.add_done_callback(lambda done: self._found(key, done))
        look.waiting += 1
        try:
            return await asyncio.shield(look.task)  # whoever loses patience takes it from nobody else
        finally:
            look.waiting -= 1
            if not look.waiting and not look.begun:  # the last one left before its turn came: others move up
                self._forget(key, look.task)
                look.task.cancel()

    def close(self) -> None:
        """Leave the look-ups that still run to themselves."""
        for look in list(self._looks.values()):
            look.task.cancel()

    async def _find(self, look: _Look, host: str, port: int, who: str | None) -> list[str]:
        turn = asyncio.Semaphore(EACH)
        if who is not None:
            turn = self._turns.setdefault(who, turn)  # there as long as somebody holds it or waits for it
        async with turn, self._free:
            look.begun = True
            found: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
            threading.Thread(target=_work, args=(self._look_up, host, port, found), daemon=True).start()
            return await found

    def _found(self, key: tuple[str | None, str], done: asyncio.Task[list[str]]) -> None:
        self._forget(key, done)
        if not done.cancelled():
            done.exception()  # seen, even when nobody waits any more

    def _forget(self, key: tuple[str | None, str], task: asyncio.Task[list[str]]) -> None:
        look = self._looks.get(key)
        if look is not None and look.task is task:  # not the next one's
            del self._looks[key]


def system_look_up(host: str, port: int) -> list[str]:
    """All addresses of a name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _work(look_up: LookUp, host: str, port: int, found: asyncio.Future[list[str]]) -> None:
    try:
        addresses, error = look_up(host, port), None
    except (OSError, UnicodeError) as trouble:
        addresses, error = list[str](), trouble

    def tell() -> None:
        if not found.done():
            found.set_result(addresses) if error is None else found.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
        found.get_loop().call_soon_threadsafe(tell)
