"""Where lists and reports are read: in two threads of their own, so that many readers delay neither images nor uploads.

Searches for words, which look at up to 2,000 rows each, run one at a time: they wait for each other, and lists do not
wait for them.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2


@dataclass(slots=True)
class Reading:
    """The threads of one gateway, and the turn of its searches."""

    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "impasto-reading"))
    _searching: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `read` returns; it blocks, and raises as it does."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(read, *args, **kwargs))

    async def search(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, after the searches that came before."""
        async with self._searching:
            return await self.run(read, *args, **kwargs)
