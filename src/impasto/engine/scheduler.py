"""Who steps next. No torch, no clock, no threads: plain counting, tested with plain objects.

In: jobs (add, remove) and the news that a sample ended. Out: (job, sample) for the next step, by these rules, in order:

1. age        a job goes first when the others have had `patience` times the work of its own step since its last one,
              the longest-waiting one: none starves, and a small job is not held up by many large steps of others;
2. priority   normal (0) before low (1);
3. shortest   the job with the least work left, so that a small request does not wait for a large one. Work counts over
              all samples of the job: asking for four images buys no larger share of the machine than asking for one;
4. order      who came first.

Inside a job one sample is finished before the next one starts: the first picture is early and memory stays small.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Entry:
    """A job in the scheduler's eyes."""

    key: str
    priority: int
    order: int
    cost: int  # of one step, in any unit that compares jobs: pixels
    left: dict[int, int]  # sample → steps it still needs
    waited: int = 0  # work that others had done since its last step

    @property
    def age(self) -> float:
        """How many of its own steps would have fitted into the time since its last one."""
        return self.waited / max(self.cost, 1)

    @property
    def work(self) -> int:
        return self.cost * sum(self.left.values())


class Scheduler:
    """`patience`: work that a job waits for, in steps of its own; of n jobs with equal steps each gets at least every
    (patience + n)-th step.
    """

    def __init__(self, *, patience: int = 8) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1, not {patience}")
        self._patience = patience
        self._entries: dict[str, Entry] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: str, *, samples: int, steps: int, cost: int, priority: int = 0) -> None:
        """A new job of `samples` pictures with `steps` steps each. Raises ValueError when `key` is there already."""
        if key in self._entries:
            raise ValueError(f"job {key!r} is scheduled already")
        self._arrivals += 1
        left = dict.fromkeys(range(samples), steps)
        self._entries[key] = Entry(key=key, priority=priority, order=self._arrivals, cost=cost, left=left)

    def next(self) -> tuple[str, int] | None:
        """(job, sample) that makes the next step; None when there is nothing to do. Counts the step as made."""
        if not self._entries:
            return None
        chosen = min(self._entries.values(), key=self._rank)
        for entry in self._entries.values():
            entry.waited += max(chosen.cost, 1)
        chosen.waited = 0
        sample = min(chosen.left)
        chosen.left[sample] = max(chosen.left[sample] - 1, 0)
        return chosen.key, sample

    def end(self, key: str, sample: int) -> None:
        """The sample needs no more steps; the job leaves with its last sample."""
        entry = self._entries[key]
        del entry.left[sample]
        if not entry.left:
            del self._entries[key]

    def remove(self, key: str) -> None:
        """Forget the job, whatever it still needs. Unknown keys are fine: it may have ended just now."""
        self._entries.pop(key, None)

    def _rank(self, entry: Entry) -> tuple[int, float, int, int]:
        if entry.age >= self._patience:
            return (0, -entry.age, 0, entry.order)
        return (1, entry.priority, entry.work, entry.order)
