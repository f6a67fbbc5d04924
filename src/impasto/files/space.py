"""Watch the room on the disk of the data folder, so that a full disk is told before something is lost on it.

In: a folder and how many bytes have to stay free. Out: why nothing more should be taken, or "". Asked at every request,
so that the system is asked at most once a second.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

LOOK_SECONDS = 1.0
EXHAUSTED = 2**20  # bytes; with less than that not even a picture that is being drawn can be stored


class Space:
    """The disk below `folder`, which may not exist yet. `clock`: monotonic seconds."""

    def __init__(self, folder: Path, *, reserve: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._reserve = reserve
        self._clock = clock
        self._looked = -LOOK_SECONDS
        self._free: int | None = None

    @property
    def free(self) -> int | None:
        """Bytes that this process may still write, 0 when no file can be made; None: the system does not tell."""
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._looked, self._free = now, _free(self._folder)
        return self._free

    @property
    def reason(self) -> str:
        """Why nothing more should be taken; "" when there is room."""
        free = self.free
        if free is None or free >= self._reserve:
            return ""
        return (
            f"the disk of the data folder is full: {free // 2**20} MiB are free, of {self._reserve // 2**20} MiB that "
            "have to be (setting server.min_free_mb)"
        )

    @property
    def exhausted(self) -> bool:
        """Whether not even what is being drawn can be stored."""
        free = self.free
        return self._reserve > 0 and free is not None and free < min(EXHAUSTED, self._reserve)


def _free(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except (OSError, AttributeError):  # not there yet, or no POSIX system
        return None
    no_files = found.f_files > 0 and found.f_favail == 0
    return 0 if no_files else found.f_bavail * found.f_frsize
