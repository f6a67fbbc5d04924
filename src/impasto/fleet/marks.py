"""Which requests a runner is working on at this moment, in a file that survives the runner.

In: the engine's threads mark the lease whose step, prompt or pixels they are at. Out: after a crash the gateway reads
which leases those were: they are blamed, and what only waited in the runner is not. The file is mapped into memory, so
that a mark is a copy of 64 bytes without a system call, and the kernel keeps it whatever ends the process.
"""

import mmap
import re
from pathlib import Path

PLACES = 3  # threads that work on requests: `engine.engine.STEPS`, `PROMPTS`, `PIXELS`
WIDTH = 64  # bytes of a lease
FOLDER = "running"  # below the data folder
_NAME = re.compile(r"[\w.-]{1,100}")


class Marks:
    """A runner's own file, which the gateway has made. Each place belongs to one thread."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), PLACES * WIDTH)

    def __call__(self, place: int, lease: str) -> None:
        """Mark `lease` as what the thread of `place` works on; "": nothing."""
        self._map[place * WIDTH : (place + 1) * WIDTH] = lease.encode()[:WIDTH].ljust(WIDTH, b"\0")


class MarkFiles:
    """The files of all runners of a data folder, on the gateway's side."""

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER

    def make(self, runner_id: str) -> Path:
        """Make the file of a runner that is about to start. Raises `OSError`."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / runner_id
        path.write_bytes(bytes(PLACES * WIDTH))
        return path

    def read(self, runner_id: str) -> frozenset[str] | None:
        """The leases that a runner works on, or worked on when it died. None: it has no file, nothing is known."""
        return _leases(self._folder / runner_id) if _NAME.fullmatch(runner_id) else None

    def drop(self, runner_id: str) -> None:
        """Forget a runner that has ended and was judged."""
        if _NAME.fullmatch(runner_id):
            (self._folder / runner_id).unlink(missing_ok=True)

    def collect(self) -> frozenset[str] | None:
        """The leases that the runners of a former process worked on when it was killed; their files go. None: there are
        no files, nothing is known.
        """
        found = [(path, _leases(path)) for path in self._folder.glob("*")] if self._folder.is_dir() else []
        for path, _ in found:
            path.unlink(missing_ok=True)
        known = [leases for _, leases in found if leases is not None]
        return frozenset().union(*known) if known else None


def _leases(path: Path) -> frozenset[str] | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    marks = (data[start : start + WIDTH].rstrip(b"\0") for start in range(0, PLACES * WIDTH, WIDTH))
    return frozenset(mark.decode("ascii", "replace") for mark in marks if mark)
