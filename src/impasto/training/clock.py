"""When a training run ends: after a number of steps, or at a wall-clock time, whichever is asked. And how it goes on
meanwhile.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from impasto.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Deadline:
    """The end of a run. Exactly one of `steps` (a count) and `ends` (epoch seconds, with `begins`) is set."""

    steps: int | None = None
    begins: float = 0.0
    ends: float | None = None
    now: Callable[[], float] = field(default=time.time, repr=False)

    def progress(self, step: int) -> float:
        """Share of the run that is over, 0..1."""
        if self.steps is not None:
            return 1.0 if step >= self.steps else step / self.steps
        assert self.ends is not None
        return min(1.0, max(0.0, (self.now() - self.begins) / max(self.ends - self.begins, 1e-9)))

    def over(self, step: int) -> bool:
        """Whether the run is at its end before the given step."""
        return self.progress(step) >= 1.0


class Every:
    """Says yes when that many minutes have passed since it last did."""

    def __init__(self, minutes: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = 60 * minutes, now
        self._last = now()

    def __call__(self) -> bool:
        due = self._now() - self._last > self._seconds
        if due:
            self._last = self._now()
        return due


class Pace:
    """Losses of single steps, read as their mean and the speed since the last reading."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._since, self._losses = now(), list[float]()

    def add(self, loss: float) -> None:
        """One step's loss."""
        self._losses.append(loss)

    def read(self) -> tuple[float, float]:
        """The mean loss, and steps a second."""
        now, losses = self._now(), self._losses
        speed = len(losses) / max(now - self._since, 1e-9)
        self._since, self._losses = now, []
        return sum(losses) / max(len(losses), 1), speed


def deadline(*, steps: int | None = None, minutes: float | None = None, until: str | None = None) -> Deadline:
    """Build a deadline from the command line: a step count, minutes from now, or a local time `HH:MM` (today or
    tomorrow).

    Raises ConfigError when not exactly one is given or the time is malformed.
    """
    if sum(value is not None for value in (steps, minutes, until)) != 1:
        raise ConfigError("give exactly one of --steps, --minutes and --until")
    if steps is not None:
        return Deadline(steps=steps)
    begins = time.time()
    if minutes is not None:
        return Deadline(begins=begins, ends=begins + 60 * minutes)
    assert until is not None
    now = datetime.now()
    try:
        clock = datetime.strptime(until, "%H:%M")
    except ValueError:
        raise ConfigError(f"--until {until!r} is not a time such as 23:20") from None
    end = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    if end <= now:
        end += timedelta(days=1)
    return Deadline(begins=begins, ends=end.timestamp())
