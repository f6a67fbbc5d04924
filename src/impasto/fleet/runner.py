"""The process that holds a model: `python -m impasto.fleet.runner`, with its RunnerConfig as JSON on stdin.

It dials the gateway's socket, says Hello, loads the model, draws one warm-up step, says Ready (or Unready, and why),
and then: Assign, Cancel, Lost and Drain come down into the engine; Beat, Progress, Log and one outcome a job go up. It
never touches the database, and it has no state that anybody would miss: when it dies, its work goes back to the queue.
Four tasks (listen, speak, beat, live) run until the first one ends; what that one says becomes the exit status.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from impasto import quiet, telemetry
from impasto.endpoints.own import load_endpoints
from impasto.engine.custom import Custom, wrap
from impasto.engine.drawing import Finisher, Preview, draw
from impasto.engine.engine import Engine, unmarked
from impasto.engine.failure import Failure, explain
from impasto.engine.job import Job, JobResult
from impasto.engine.loading import load_pipeline
from impasto.engine.pipeline import Pipeline
from impasto.engine.safety import Safety
from impasto.errors import ImpastoError
from impasto.files import images
from impasto.fleet import messages as m
from impasto.fleet import process
from impasto.fleet.marks import Marks
from impasto.fleet.messages import Exit
from impasto.settings import ModelSettings, SafetySettings

log = logging.getLogger("impasto.runner")

_OUTCOMES = (m.Done, m.Failed, m.Released)
OUTGOING_CALM = 256  # sentences waiting to be sent; beyond it progress, which the next one replaces, is left out


def main() -> None:
    process.prepare()
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=m.RunnerConfig)
    if config.parent_pid:
        process.become_child(config.parent_pid)
    telemetry.configure(config.log_level, plain=True)
    if folder := config.model.get("speed_folder"):
        quiet.keep_caches_in(Path(folder))
    if not config.endpoints:  # code of the user's may name things of a hub
        quiet.stay_offline()
    asyncio.run(_run(config))


async def _run(config: m.RunnerConfig) -> None:
    try:
        reader, writer = await asyncio.open_unix_connection(config.socket)
        status = await Runner(config, reader, writer).run()
    except OSError as error:
        log.critical("The gateway does not answer at %s (%s)", config.socket, error.strerror)
        status = Exit.REFUSED
    # A thread may be deep in the model, and asyncio would wait for it; nobody wants what it computes.
    sys.stderr.flush()
    os._exit(status)


class Runner:
    """The asyncio side of a runner, and the engine's Sink."""

    def __init__(self, config: m.RunnerConfig, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._config = config
        self._reader = reader
        self._writer = writer
        # `drain` returns when the kernel has all of it: the process ends without asking what its transport still holds.
        writer.transport.set_write_buffer_limits(0)
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[m.Up] = asyncio.Queue()
        self._held: dict[str, str] = {}  # request id → lease of all work in hand
        self._engine: Engine | None = None
        self._pipeline: Pipeline | None = None
        self._draining = asyncio.Event()
        self._drain_seconds = config.drain_seconds

    async def run(self) -> int:
        """→ exit status."""
        self._loop.add_signal_handler(signal.SIGTERM, self._drain, self._config.drain_seconds)
        self._say(m.Hello(runner_id=self._config.runner_id, pid=os.getpid(), token=self._config.token))
        speaking = asyncio.create_task(self._speak())
        frame = await m.read_frame(self._reader)
        welcome = None if frame is None else m.decode_down(frame)
        if not isinstance(welcome, m.Welcome):
            log.error("The gateway refused this runner: it is another server's, or another version's")
            return Exit.REFUSED
        tasks = (
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._live()),
            asyncio.create_task(self._beat(welcome.beat_seconds)),
            speaking,
        )
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return max(task.result() for task in done)

    # ------------------------------------------------------------ the tasks

    async def _listen(self) -> int:
        while (frame := await m.read_frame(self._reader)) is not None:
            self._hear(m.decode_down(frame))
        return Exit.GATEWAY_GONE

    async def _speak(self) -> int:
        """Sends in order; an outcome takes the work out of our hands once it is on its way."""
        try:
            while True:
                message = await self._outgoing.get()
                if frame := _encoded(message):
                    self._writer.write(frame)
                await self._writer.drain()
                if isinstance(message, _OUTCOMES):
                    self._let_go(message.request_id, message.lease)
                self._outgoing.task_done()
        except ConnectionError:
            return Exit.GATEWAY_GONE

    async def _beat(self, seconds: float) -> int:
        """A runner whose step hangs must not renew its leases for ever: it ends instead."""
        while True:
            await asyncio.sleep(seconds)
            stalled = self._engine.stalled_for if self._engine else 0.0
            if stalled > self._config.stall_seconds:
                log.critical("A step has taken %.0f s: it hangs. The runner ends, its work is drawn again", stalled)
                return Exit.STALLED
            if self._engine is not None and self._engine.broken:
                return Exit.STALLED
            counters = dict(self._pipeline.counters) if self._pipeline else {}
            self._say(m.Beat(leases=dict(self._held), counters=counters))

    async def _live(self) -> int:
        """Load, say so, serve until told to drain, drain."""
        start = time.monotonic()
        try:
            pipeline, finisher, custom = await asyncio.to_thread(_load, self._config)
        except (ImpastoError, OSError, ImportError, RuntimeError, ValueError, MemoryError) as error:
            reason = _reason(error, self._config)
            if not isinstance(error, ImpastoError):
                log.exception("The model could not be loaded")
            self._say(m.Unready(reason=reason))
            await self._outgoing.join()
            return Exit.UNREADY
        self._pipeline = pipeline
        mark = Marks(Path(self._config.marks)) if self._config.marks else unmarked
        self._engine = Engine(pipeline=pipeline, finisher=finisher, sink=self, custom=custom, mark=mark)
        self._engine.start()
        ready = m.Ready(
            models=list(pipeline.models),
            slots=self._config.slots,
            device=pipeline.device,
            dtype=pipeline.dtype,
            load_seconds=round(time.monotonic() - start, 3),
            residency=pipeline.residency,
            senses=dict(pipeline.senses),
        )
        if not self._draining.is_set():
            self._say(ready)
        await self._draining.wait()
        self._engine.drain(self._drain_seconds)
        await asyncio.to_thread(self._engine.join)
        await asyncio.sleep(0)  # the engine's last words were scheduled on this loop before its thread ended
        await self._outgoing.join()
        log.info("Drained")
        return Exit.DRAINED

    # ------------------------------------------------------------ down

    def _hear(self, message: m.Down) -> None:
        match message:
            case m.Assign(lease=lease, job=job):
                self._held[job.request_id] = lease
                if self._engine is None or self._draining.is_set():
                    self._say(m.Released(request_id=job.request_id, lease=lease))
                else:
                    self._engine.submit(job, lease)
            case m.Cancel(lease=lease):
                if self._engine:
                    self._engine.cancel(lease)
            case m.Lost(request_id=request_id, lease=lease):
                self._let_go(request_id, lease)
                if self._engine:
                    self._engine.drop(lease)
            case m.Drain(seconds=seconds):
                self._drain(seconds)
            case m.Welcome():
                pass

    def _drain(self, seconds: float) -> None:
        self._drain_seconds = seconds
        self._draining.set()
        if self._engine is None:
            # Still loading: there is nothing to finish, and nobody waits for the model any more.
            os._exit(Exit.DRAINED)

    def _let_go(self, request_id: str, lease: str) -> None:
        if self._held.get(request_id) == lease:
            del self._held[request_id]

    # ------------------------------------------------------------ up: the engine's Sink, called from its thread

    def log(self, job: Job, lease: str, message: str, *, level: str = "INFO") -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
        line = m.Log(request_id=job.request_id, lease=lease, timestamp=now, message=message, level=level)
        self._say_from_engine(line)

    def progress(self, job: Job, lease: str, *, image: int, step: int, steps: int) -> None:
        if self._outgoing.qsize() < OUTGOING_CALM:
            self._say_from_engine(
                m.Progress(
                    request_id=job.request_id,
                    lease=lease,
                    step=step,
                    steps=steps,
                    image=image,
                    images=job.num_images,
                )
            )

    def preview(self, job: Job, lease: str, preview: Preview, *, image: int, step: int, steps: int) -> None:
        if self._outgoing.qsize() < OUTGOING_CALM:
            self._say_from_engine(
                m.Preview(
                    request_id=job.request_id,
                    lease=lease,
                    step=step,
                    steps=steps,
                    image=image,
                    jpeg=preview.jpeg,
                    width=preview.width,
                    height=preview.height,
                )
            )

    def done(self, job: Job, lease: str, result: JobResult) -> None:
        self._say_from_engine(m.Done(request_id=job.request_id, lease=lease, result=result))

    def failed(self, job: Job, lease: str, failure: Failure) -> None:
        self._say_from_engine(_failed(job.request_id, lease, failure))

    def released(self, job: Job, lease: str) -> None:
        self._say_from_engine(m.Released(request_id=job.request_id, lease=lease))

    def _say(self, message: m.Up) -> None:
        self._outgoing.put_nowait(message)

    def _say_from_engine(self, message: m.Up) -> None:
        self._loop.call_soon_threadsafe(self._outgoing.put_nowait, message)


def _load(config: m.RunnerConfig) -> tuple[Pipeline, Finisher, dict[str, Custom]]:
    """Model and classifier, tried out on a small picture, so that the first request meets no surprise; users' code."""
    clock = Laps()
    endpoints = load_endpoints(config.endpoints, without_torch=False)
    clock.lap("endpoints")
    pipeline = load_pipeline(ModelSettings(**config.model))
    clock.lap("model")
    finisher = Finisher(Safety.load(SafetySettings(**config.safety)), images.encode)
    clock.lap("safety")
    warm_up = Job(
        request_id="warm-up",
        model=pipeline.models[0],
        prompt="a warm-up step",
        width=512,
        height=384,
        steps=1,
        guidance=3.5,
        seed=0,
        images=pipeline.warm_up_images,
    )
    draw(warm_up, pipeline=pipeline, finisher=finisher)
    clock.lap("warm-up")
    log.debug("Start: %s s", clock)
    custom = wrap(pipeline, {id_: (endpoint.pipeline, endpoint.post) for id_, endpoint in endpoints.items()})
    return pipeline, finisher, custom


class Laps:
    """How long the stages of a start took."""

    def __init__(self) -> None:
        self._laps: list[tuple[str, float]] = []
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps.append((name, now - self._last))
        self._last = now

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.3f}" for name, seconds in self._laps)


def _failed(request_id: str, lease: str, failure: Failure) -> m.Failed:
    return m.Failed(
        request_id=request_id,
        lease=lease,
        status=failure.status,
        error_type=failure.error_type,
        body=failure.body,
        headers=failure.headers,
        retryable=failure.retryable,
    )


def _encoded(message: m.Up) -> bytes:
    """The frame to send. What users' code has put into it may be nothing that can be sent (numpy's numbers, half a
    character, more than a frame holds): an outcome then becomes a failure, and anything else is left out, so that one
    request ends and not the runner.
    """
    try:
        frame = m.encode(message)
        if len(frame) > m.MAX_FRAME:  # the gateway would hang up
            raise ValueError(f"it has {len(frame)} bytes, and at most {m.MAX_FRAME} can be sent")
        return frame
    except Exception as error:
        log.exception("%s cannot be sent", type(message).__name__)
        if not isinstance(message, _OUTCOMES):
            return b""
        return m.encode(_failed(message.request_id, message.lease, explain(error)))


def _reason(error: Exception, config: m.RunnerConfig) -> str:
    name = config.model.get("name", "the model")
    if isinstance(error, ImpastoError):
        return error.message
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
        return f"There is not enough memory for {name}. Stop other programs or name a smaller model."
    return f"{name} could not be loaded: {type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
