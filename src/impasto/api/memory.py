"""Bound what clients make this process hold: bodies that come in, frames that wait, answers that are not read.

In: bytes by holder (a key, or a client's address where no key is known). Out: a refusal past the share of a holder or
the sum of all. And memory that goes back to the system: glibc keeps what was freed, many megabytes a slow client.
"""

import ctypes
import sys
from collections import Counter
from collections.abc import Callable

from impasto.errors import TooMuchBuffered

MIB = 2**20
TRIM_BYTES = 16 * MIB  # that were let go since the last time


class Buffers:
    """Bytes that are held now, by holder. A limit of 0 is none."""

    def __init__(self, *, of_one: int, of_all: int) -> None:
        self._of_one, self._of_all = of_one, of_all
        self._held: Counter[str] = Counter()
        self._all = 0
        self.freed = 0  # bytes since the last `give_back`

    def __getitem__(self, holder: str) -> int:
        return self._held[holder]

    def take(self, holder: str, count: int) -> None:
        """Hold `count` bytes more. Raises `TooMuchBuffered` (429), and holds none of them."""
        if 0 < self._of_one < self._held[holder] + count:
            raise TooMuchBuffered(
                "Requests of this key that are on their way hold as much memory as they may (setting "
                "server.max_buffered_key_mb); send large files as uploads, or fewer at a time."
            )
        if 0 < self._of_all < self._all + count:
            raise TooMuchBuffered(
                "Requests that are on their way hold as much memory as they may (setting server.max_buffered_mb); "
                "try again soon."
            )
        self._held[holder] += count
        self._all += count

    def give(self, holder: str, count: int) -> None:
        """Hold `count` bytes less."""
        self._held[holder] -= count
        self._all -= count
        self.freed += count
        if self._held[holder] <= 0:
            del self._held[holder]

    @property
    def due(self) -> bool:
        """Whether enough was let go to give memory back."""
        return self.freed >= TRIM_BYTES

    def is_share_of_one(self, count: int) -> bool:
        """Whether a holder may have so many bytes."""
        return self._of_one == 0 or count <= self._of_one


def give_back() -> None:
    """Give freed memory back to the system, where the C library can (glibc). Takes milliseconds: use a thread."""
    if _trim is not None:
        _trim(0)


def _find_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library, such as musl, which keeps nothing
        return None


_trim = _find_trim()
