"""Look-ups of host names in threads of their own, one at a time for a name.

A name server that does not answer holds a thread for half a minute. In the loop's own few threads it would hold up
pictures on their way to the disk; in a pool it would hold up the end of the process, which waits for pools.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable

THREADS = 64

LookUp = Callable[[str, int], list[str]]


class Names:
    """`resolve` is a `files.fetch.Resolver`. `look_up` blocks; default: the system's."""

    def __init__(self, look_up: LookUp | None = None) -> None:
        self._look_up = look_up or system_look_up
        self._free = asyncio.Semaphore(THREADS)
        self._looking: dict[str, asyncio.Task[list[str]]] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """All addresses of a name. Raises `OSError`, `UnicodeError`."""
        looking = self._looking.get(host)
        if looking is None:
            looking = self._looking[host] = asyncio.create_task(self._find(host, port))
            looking.add_done_callback(lambda done: self._found(host, done))
        return await asyncio.shield(looking)  # whoever loses patience takes it from nobody else

    def close(self) -> None:
        """Leave the look-ups that still run to themselves."""
        for looking in list(self._looking.values()):
            looking.cancel()

    async def _find(self, host: str, port: int) -> list[str]:
        async with self._free:
            found: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
            threading.Thread(target=_work, args=(self._look_up, host, port, found), daemon=True).start()
            return await found

    def _found(self, host: str, done: asyncio.Task[list[str]]) -> None:
        del self._looking[host]
        if not done.cancelled():
            done.exception()  # seen, even when nobody waits any more


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
