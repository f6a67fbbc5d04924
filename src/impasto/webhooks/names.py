"""Look-ups of host names in threads of their own, one at a time for a name.

A name server that does not answer holds a thread for half a minute; in the loop's own few threads it would hold up
pictures on their way to the disk.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

THREADS = 32


class Names:
    """`resolve` is a `files.fetch.Resolver`. `look_up` blocks; default: the system's."""

    def __init__(self, look_up: Callable[[str, int], list[str]] | None = None) -> None:
        self._look_up = look_up or system_look_up
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="impasto-names")
        self._looking: dict[str, asyncio.Future[list[str]]] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """All addresses of a name. Raises `OSError`, `UnicodeError`."""
        looking = self._looking.get(host)
        if looking is None:
            looking = asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, host, port)
            self._looking[host] = looking
            looking.add_done_callback(lambda done: self._found(host, done))
        return await asyncio.shield(looking)  # whoever loses patience takes it from nobody else

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _found(self, host: str, done: asyncio.Future[list[str]]) -> None:
        del self._looking[host]
        if not done.cancelled():
            done.exception()  # seen, even when nobody waits any more


def system_look_up(host: str, port: int) -> list[str]:
    """All addresses of a name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
