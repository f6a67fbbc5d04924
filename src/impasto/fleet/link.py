"""One runner's connection, seen from the gateway; and the socket that runners dial."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from impasto.fleet import messages as m
from impasto.fleet.pace import Pace
from impasto.fleet.work import Work

OUTCOMES_WAITING = 256  # of one runner; beyond it the runner's sentences wait in its socket

GUESTS = 4  # requests beyond its slots, each of a key of which the runner holds nothing

Settled = m.Log | m.Done | m.Failed | m.Released
"""What has to be written down, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerFacts:
    """What is known of a ready runner, for people."""

    runner_id: str
    pid: int
    models: tuple[str, ...]
    device: str
    dtype: str
    load_seconds: float
    residency: str
    slots: int
    busy: int
    steps_per_second: float | None = None  # None: it has not drawn yet
    pictures: int = 0  # since it joined
    work_seconds: float = 0.0  # in which it had something to do
    counters: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True, eq=False)
class Link:
    """A runner that has introduced itself."""

    runner_id: str
    pid: int
    writer: asyncio.StreamWriter
    heard: float  # loop time of its last sentence
    ready: m.Ready | None = None
    counters: dict[str, int] = field(default_factory=dict[str, int])
    works: dict[str, Work] = field(default_factory=dict[str, Work])
    pace: Pace = field(default_factory=Pace)
    blamed: bool | None = None  # whether its end is a request's doing; None: it has not ended, or that is not judged
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # it has ended, and was judged
    settling: asyncio.Queue[Settled] = field(default_factory=lambda: asyncio.Queue(OUTCOMES_WAITING))

    def say(self, message: m.Down) -> None:
        # Never awaited: these are small, and a frozen runner must not hold up the others.
        if not self.writer.is_closing():
            self.writer.write(m.encode(message))

    def held(self, request_id: str, lease: str) -> Work | None:
        """The work that it holds under this lease; None: another one's, or nobody's any more."""
        work = self.works.get(request_id)
        return work if work is not None and work.lease == lease else None

    @property
    def silence(self) -> float:
        """Seconds since it last said something."""
        return asyncio.get_running_loop().time() - self.heard

    @property
    def free_slots(self) -> int:
        if self.ready is None or self.writer.is_closing():
            return 0
        if any(work.alone for work in self.works.values()):
            return 0
        return max(self.ready.slots - len(self.works), 0)

    @property
    def guest_slots(self) -> int:
        """How many requests a full runner takes on top of its slots, one of each key that it has nothing of.

        A small request of another key then makes its steps between those of large ones. What each holds beside the
        model is small: latents and read words.
        """
        if self.ready is None or self.writer.is_closing() or self.free_slots:
            return 0
        if any(work.alone for work in self.works.values()):
            return 0
        return max(self.ready.slots + GUESTS - len(self.works), 0)

    @property
    def keys(self) -> set[str]:
        """Ids of the keys whose requests it holds."""
        return {work.request.key_id for work in self.works.values()}

    @property
    def facts(self) -> RunnerFacts | None:
        if self.ready is None:
            return None
        return RunnerFacts(
            runner_id=self.runner_id,
            pid=self.pid,
            models=tuple(self.ready.models),
            device=self.ready.device,
            dtype=self.ready.dtype,
            load_seconds=self.ready.load_seconds,
            residency=self.ready.residency,
            slots=self.ready.slots,
            busy=len(self.works),
            steps_per_second=self.pace.steps_per_second,
            pictures=self.pace.pictures,
            work_seconds=self.pace.seconds(asyncio.get_running_loop().time()),
            counters=self.counters,
        )


def bind(path: Path) -> socket.socket:
    """A Unix socket that nobody but its owner can open, from its first moment on. A stale file is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        os.fchmod(listener.fileno(), 0o600)  # Linux: the file is born with it
    listener.bind(str(path))
    path.chmod(0o600)
    return listener
