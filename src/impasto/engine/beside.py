"""The threads beside the engine's: what needs no step is done here while the next steps are made.

`read` takes prompts, `finish` pixels (and, when the pipeline overlaps, latents); each has one thread, so that what was
handed over first is done first. A task that hangs is seen from outside (`stalled_for`), as a step is.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Lane:
    """One thread and when its task began."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"impasto-{name}")
        self._started: float | None = None

    def __call__(self, task: Callable[[], T]) -> Future[T]:
        return self._pool.submit(self._run, task)

    def _run(self, task: Callable[[], T]) -> T:
        self._started = time.monotonic()
        try:
            return task()
        finally:
            self._started = None

    @property
    def stalled_for(self) -> float:
        started = self._started
        return 0.0 if started is None else time.monotonic() - started

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class Beside:
    """Both of them."""

    def __init__(self) -> None:
        self.read = Lane("reader")
        self.finish = Lane("finisher")

    @property
    def stalled_for(self) -> float:
        """Seconds that the longer one of their tasks has taken so far; 0 when both are idle."""
        return max(self.read.stalled_for, self.finish.stalled_for)

    def close(self) -> None:
        """What has begun is finished, the rest is not."""
        self.read.close()
        self.finish.close()
