"""How fast a runner works: steps a second while it draws, and how long it has been at work for how many pictures.

In: what the dispatcher hears of a runner, each with the loop's time. Out: figures for people; nothing depends on them.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

REMEMBERED = 64  # the last intervals between two steps


@dataclass(slots=True)
class Pace:
    """A runner's. Time without work counts nowhere: a pause between two requests is not slowness."""

    pictures: int = 0  # since it joined
    _worked: float = 0.0  # seconds, up to the last pause
    _since: float | None = None  # working since then; None: nothing to do
    _stepped: float | None = None  # its last step in this stretch of work
    _intervals: deque[float] = field(default_factory=lambda: deque[float](maxlen=REMEMBERED))

    def begin(self, now: float) -> None:
        """It has work; again and again while it has."""
        if self._since is None:
            self._since = now

    def step(self, now: float) -> None:
        """A sample of any of its requests made a step."""
        if self._stepped is not None:
            self._intervals.append(now - self._stepped)
        self._stepped = now

    def pause(self, now: float) -> None:
        """It has nothing to do."""
        if self._since is not None:
            self._worked += now - self._since
        self._since = self._stepped = None

    def seconds(self, now: float) -> float:
        """At work since it joined."""
        return self._worked + (now - self._since if self._since is not None else 0.0)

    @property
    def steps_per_second(self) -> float | None:
        """While it draws, by the median of its last steps: no encoding, no decoding. None: it has not made two yet."""
        if not self._intervals:
            return None
        middle = median(self._intervals)
        return 1 / middle if middle > 0 else None
