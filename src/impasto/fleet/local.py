"""Runners as child processes of this one: start, watch, restart, stop.

In: the dispatcher, whose socket they dial. Out: processes that are there. A runner that dies is started again, at once
the first time, then with growing pauses; one that is silent for far too long is killed, so that the first rule applies.
What they print goes to the log under their name.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import re
import secrets
import signal
import sys
from typing import Self

import msgspec

from impasto.fleet.dispatcher import Dispatcher
from impasto.fleet.messages import Exit, RunnerConfig
from impasto.settings import Settings

log = logging.getLogger("impasto.fleet")

LONG_LIFE_SECONDS = 60.0  # who lived so long was healthy: the pauses start anew
MAX_PAUSE_SECONDS = 30.0
UNREADY_PAUSE_SECONDS = 10.0
SILENCES = 4  # leases of silence after which a runner is killed
MAX_LINE = 64 * 1024  # bytes of what a child prints that wait for the end of their line
LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}


class LocalFleet:
    """`async with LocalFleet(...)`: `runners` children from then on, until the block ends. A step that takes longer
    than `stall_seconds` hangs: its runner ends, the work is drawn again.
    """

    def __init__(
        self,
        settings: Settings,
        dispatcher: Dispatcher,
        *,
        runners: int = 1,
        stall_seconds: float = 900.0,
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._count = runners
        self._stall_seconds = stall_seconds
        self._stopping = asyncio.Event()
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep(f"runner-{n}")) for n in range(1, self._count + 1)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(self._settings.server.drain_seconds)

    @property
    def pids(self) -> list[int]:
        """Of the children that run now."""
        return [process.pid for process in self._processes.values()]

    async def stop(self, seconds: float) -> None:
        """SIGTERM, which lets them finish for `seconds`; then SIGKILL. Returns when all have ended."""
        self._stopping.set()
        for process in list(self._processes.values()):
            _signal(process, signal.SIGTERM)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds + 5.0)
            for process in list(self._processes.values()):
                log.warning("A runner (pid %d) did not stop in time and is killed", process.pid)
                _signal(process, signal.SIGKILL)
            await asyncio.gather(*late)

    # ------------------------------------------------------------ one child

    async def _keep(self, name: str) -> None:
        """One runner's lives, one after the other."""
        loop = asyncio.get_running_loop()
        short_lives = 0
        for life in itertools.count(1):
            born = loop.time()
            # The random part keeps the ids of two servers apart in the database.
            runner_id = f"{name}.{life}-{secrets.token_hex(3)}"
            status = await self._live(runner_id, name)
            if self._stopping.is_set() or self._dispatcher.draining:
                return
            short_lives = 1 if loop.time() - born >= LONG_LIFE_SECONDS else short_lives + 1
            if await self._dispatcher.ended_by_its_work(runner_id):
                short_lives = 0  # there is a request to blame, which is dealt with: others do not pay for it
            pause = restart_pause(short_lives)
            if status == Exit.UNREADY:
                pause = max(pause, UNREADY_PAUSE_SECONDS)  # it said why; somebody has to do something about it
            else:
                log.warning("%s ended (%s); it is started again in %.1f s", name, describe(status), pause)
                self._dispatcher.report(f"The runner ended ({describe(status)}) and is started again.")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            if self._stopping.is_set():
                return

    async def _live(self, runner_id: str, name: str) -> int:
        """One process from start to end; → its exit status, negative for a signal."""
        try:
            process = await self._spawn()
        except OSError as error:  # no memory, too many processes
            log.critical("%s could not be started: %s", name, error.strerror)
            return 1
        self._processes[name] = process
        if self._stopping.is_set():  # while it was being made, so `stop` did not see it
            _signal(process, signal.SIGTERM)
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(ConnectionError):  # died at once; its exit status says why
                process.stdin.write(msgspec.json.encode(self._config(runner_id)))
                await process.stdin.drain()
                process.stdin.close()
            watching = asyncio.create_task(self._watch(runner_id, process))
            await _relay(process.stdout, name)
            status = await process.wait()
            watching.cancel()
            return status
        finally:
            del self._processes[name]

    @staticmethod
    async def _spawn() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a random.py where the server was started is not the standard library's
            "-m",
            "impasto.fleet.runner",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at the terminal reaches the gateway only, which then stops us in order
        )

    async def _watch(self, runner_id: str, process: asyncio.subprocess.Process) -> None:
        """A runner that hangs as a whole (frozen, swapped out) would keep its slots for ever."""
        limit = SILENCES * self._settings.queue.lease_seconds
        loop = asyncio.get_running_loop()
        while True:
            asleep = loop.time()
            await asyncio.sleep(limit / 10)
            if loop.time() - asleep > 2 * limit / 10:
                continue  # this process stood still, and what the runner has said waits to be read
            if self._dispatcher.silence(runner_id) > limit:
                log.error("%s has been silent for %.0f s and is killed", runner_id, limit)
                _signal(process, signal.SIGKILL)
                return

    def _config(self, runner_id: str) -> RunnerConfig:
        settings = self._settings
        return RunnerConfig(
            socket=str(self._dispatcher.socket_path),
            token=self._dispatcher.token,
            runner_id=runner_id,
            parent_pid=os.getpid(),
            slots=settings.queue.slots,
            model=settings.loading.model_dump(mode="json"),
            safety=settings.safety.model_dump(mode="json"),
            drain_seconds=settings.server.drain_seconds,
            stall_seconds=self._stall_seconds,
            log_level=settings.server.log_level,
            endpoints=settings.server.endpoints,
            marks=self._marks(runner_id),
        )

    def _marks(self, runner_id: str) -> str:
        try:
            return str(self._dispatcher.marks.make(runner_id).absolute())
        except OSError as error:  # a full disk: the runner draws all the same
            log.warning("%s cannot mark what it works on: %s", runner_id, error.strerror)
            return ""


def restart_pause(short_lives: int) -> float:
    """Seconds before the next life, after so many short ones in a row: 0, 0.5, 1, 2 … 30."""
    return 0.0 if short_lives <= 1 else min(0.5 * 2.0 ** (short_lives - 2), MAX_PAUSE_SECONDS)


def describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


async def _relay(stream: asyncio.StreamReader, name: str) -> None:
    """What the child prints → our log, each line with the level it had there; other lines go with the one before."""
    level, rest = logging.WARNING, b""
    while chunk := await stream.read(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE:  # a progress bar of users' code never ends its line
            lines, rest = [*lines, rest], b""
        for line in lines:
            level = _relay_line(line, name, level)
    if rest:
        _relay_line(rest, name, level)


def _relay_line(line: bytes, name: str, level: int) -> int:
    text = line.decode("utf-8", "replace").rstrip()
    found = re.match(r"([A-Z]+) ", text)
    if found and found[1] in LEVELS:
        level, text = logging.getLevelNamesMapping()[found[1]], text[found.end() :]
    if text:
        log.log(level, "%s: %s", name, text)
    return level


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
