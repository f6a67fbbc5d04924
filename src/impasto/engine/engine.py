"""The loop: jobs in, pictures out, one step at a time. START READING THE ENGINE HERE.

In (any thread): submit, cancel, drop, drain. They are put in an inbox that the loop empties before every step.
Out (the loop's thread): calls on a Sink: log, progress, and exactly one of done, failed, released for every job that
was not dropped. The scheduler says whose step is next, a Drawing makes it; `beside` it, in threads of their own, pixels
are classified and compressed, and where the pipeline overlaps, the next job's prompt is read and the last one's latents
are decoded. Whatever goes wrong ends one job, never the loop.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from impasto.engine import failure
from impasto.engine.beside import Beside
from impasto.engine.custom import Custom
from impasto.engine.drawing import Drawing, Finished, Finisher, Preview, PromptRefused
from impasto.engine.failure import Failure
from impasto.engine.job import Job, JobResult
from impasto.engine.pipeline import Pipeline, Step
from impasto.engine.safety import Verdict
from impasto.engine.scheduler import Scheduler

log = logging.getLogger("impasto.engine")
T = TypeVar("T")

STEPS, PROMPTS, PIXELS = range(3)  # places of `Mark`: the engine's thread and the two beside it

Mark = Callable[[int, str], None]
"""(place, lease): the thread of this place works on that lease from now on; "": on none."""


def unmarked(place: int, lease: str) -> None:
    """For engines whose end nobody judges."""


class Sink(Protocol):
    """Who hears of it. Called from the engine's thread; must return at once."""

    def log(self, job: Job, lease: str, message: str, *, level: str = "INFO") -> None:
        """A line for the caller's `logs`."""
        ...

    def progress(self, job: Job, lease: str, *, image: int, step: int, steps: int) -> None:
        """Picture `image` (1-based) has made `step` of `steps`."""
        ...

    def preview(self, job: Job, lease: str, preview: Preview, *, image: int, step: int, steps: int) -> None:
        """What picture `image` (1-based) looks like after `step`; from the finisher's thread, at times of its own."""
        ...

    def done(self, job: Job, lease: str, result: JobResult) -> None: ...

    def failed(self, job: Job, lease: str, failure: Failure) -> None: ...

    def released(self, job: Job, lease: str) -> None:
        """Handed back unfinished; somebody else draws it."""
        ...


@dataclass(frozen=True, slots=True)
class _Submit:
    job: Job
    lease: str


@dataclass(frozen=True, slots=True)
class _Remove:
    lease: str
    silent: bool


@dataclass(frozen=True, slots=True)
class _Drain:
    deadline: float  # monotonic


@dataclass(frozen=True, slots=True)
class _Finished:
    lease: str
    index: int
    future: Future[Finished]


@dataclass(frozen=True, slots=True)
class _Read:
    lease: str
    future: Future[Verdict]


_Command = _Submit | _Remove | _Drain | _Read | _Finished


class Engine:
    """One pipeline and the thread that owns it. Work is named by its lease: a request may come back with a new one."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        finisher: Finisher,
        sink: Sink,
        scheduler: Scheduler | None = None,
        custom: Mapping[str, Custom] | None = None,
        mark: Mark = unmarked,
    ) -> None:
        self._pipeline = pipeline
        self._custom = {"": Custom(pipeline), **(custom or {})}
        self._finisher = finisher
        self._sink = sink
        self._mark = mark
        self._scheduler = scheduler or Scheduler()
        self._drawings: dict[str, Drawing] = {}
        self._inbox: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._deadline: float | None = None  # of a drain
        self._turn_started: float | None = None
        self._beside = Beside()
        self._thread = threading.Thread(target=self._run, name="impasto-engine", daemon=True)

    # ------------------------------------------------------------ any thread

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job, lease: str) -> None:
        self._inbox.put(_Submit(job, lease))

    def cancel(self, lease: str) -> None:
        """Ends in failed(499) before the next step; nothing happens when the work is over already."""
        self._inbox.put(_Remove(lease, silent=False))

    def drop(self, lease: str) -> None:
        """As cancel, without a word: the work is somebody else's."""
        self._inbox.put(_Remove(lease, silent=True))

    def drain(self, seconds: float) -> None:
        """Finish for `seconds`, release what is left, end the thread. Later submits are released at once."""
        self._inbox.put(_Drain(time.monotonic() + seconds))

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end; → whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def broken(self) -> bool:
        """Whether the thread has ended, and nobody had asked it to."""
        return self._deadline is None and self._thread.ident is not None and not self._thread.is_alive()

    @property
    def stalled_for(self) -> float:
        """Seconds that the current step, or what runs beside it, has taken so far; 0 when nothing does."""
        started = self._turn_started
        return max(0.0 if started is None else time.monotonic() - started, self._beside.stalled_for)

    # ------------------------------------------------------------ the engine's thread

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException:
            # Freeing memory failed: after some faults a GPU does nothing more in this process.
            log.critical("The engine cannot go on; the runner ends, its work is drawn again", exc_info=True)
            raise

    def _loop(self) -> None:
        while self._deadline is None or (self._drawings and time.monotonic() < self._deadline):
            turn = None if self._obey() else self._scheduler.next()
            if turn is not None:
                lease, index = turn
                self._turn_started = time.monotonic()
                self._mark(STEPS, lease)
                self._guarded(lease, partial(self._step, lease, index))
                self._mark(STEPS, "")
                self._turn_started = None
        self._obey()
        for drawing in list(self._drawings.values()):
            self._forget(drawing.lease)
            self._sink.released(drawing.job, drawing.lease)
        self._beside.close()

    def _obey(self) -> bool:
        """Carry out what lies in the inbox; wait for something when there is no step to make. → whether it waited."""
        waits = not len(self._scheduler) and not (self._deadline is not None and not self._drawings)
        timeout = None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
        try:
            command = self._inbox.get(block=waits, timeout=timeout)
            while True:
                self._carry_out(command)
                command = self._inbox.get_nowait()
        except queue.Empty:
            return waits

    def _carry_out(self, command: _Command) -> None:
        match command:
            case _Submit(job, lease) if self._deadline is not None:
                self._sink.released(job, lease)
            case _Submit(job, lease) if job.endpoint not in self._custom:
                message = f"this runner does not know the code of {job.endpoint}"
                self._fail(Drawing(job, lease, self._pipeline), failure.explain(LookupError(message)))
                log.error("Request %s: %s", job.request_id, message)
            case _Submit(job, lease):
                custom = self._custom[job.endpoint]
                drawing = Drawing(job, lease, custom.pipeline, custom.post)
                self._drawings[lease] = drawing
                if self._overlaps(drawing):
                    task = self._marked(PROMPTS, lease, partial(self._read, drawing))
                    self._hand_over(drawing, self._beside.read(task), partial(_Read, lease))
                else:
                    self._schedule(drawing)
            case _Remove(lease, silent):
                drawing = self._forget(lease)
                if drawing is not None and not silent:
                    self._fail(drawing, failure.cancelled())
            case _Drain(deadline):
                self._deadline = deadline
            case _Read(lease, future):
                self._guarded(lease, partial(self._begin, lease, future))
            case _Finished(lease, index, future):
                self._guarded(lease, partial(self._finish, lease, index, future))

    def _guarded(self, lease: str, action: Callable[[], None]) -> None:
        """The one place where anything is caught: the job fails, the loop goes on."""
        try:
            action()
            return
        except BaseException as error:  # users' code may call sys.exit
            drawing = self._forget(lease)
            if drawing is None:
                return
            if self._pipeline.is_out_of_memory(error):
                verdict = failure.out_of_memory(drawing.job, alone=not self._drawings)
            else:
                verdict = failure.explain(error)
            if verdict.status >= 500:
                log.exception("Request %s failed", drawing.job.request_id)
        # Only here: inside the except block the traceback's frames still hold the tensors.
        self._fail(drawing, verdict)
        del drawing
        if verdict.status >= 500:  # a bad input takes nothing from those who sent good ones
            self._pipeline.free_memory()

    def _step(self, lease: str, index: int) -> None:
        drawing = self._drawings[lease]
        job = drawing.job
        if drawing.started is None:
            if drawing.conditioning is None and self._blacken(drawing, partial(self._finisher.screen, job)):
                return
            self._sink.log(job, lease, _opening(job))
            for notice in (*job.notices, *drawing.begin().notices):
                self._sink.log(job, lease, notice.message, level="WARN")
        step = drawing.step(index)
        if step is not None:
            self._sink.progress(job, lease, image=index + 1, step=step.number, steps=step.total)
            self._preview(drawing, index, step)
            if _is_tenth(step):
                self._sink.log(job, lease, f"{_image(job, index)}step {step.number}/{step.total}")
        if step is None or step.number >= step.total:
            self._scheduler.end(lease, index)
            latents = drawing.take(index)
            if self._overlaps(drawing):
                task = partial(self._develop, drawing, latents)
            else:
                task = partial(self._finisher, job, drawing.decode(latents))
            task = self._marked(PIXELS, lease, task)
            self._hand_over(drawing, self._beside.finish(task), partial(_Finished, lease, index))

    # ------------------------------------------------------------ beside the steps

    def _overlaps(self, drawing: Drawing) -> bool:
        """Others' pipelines were promised one thread at a time."""
        return drawing.pipeline is self._pipeline and self._pipeline.overlaps

    def _marked(self, place: int, lease: str, task: Callable[[], T]) -> Callable[[], T]:
        """`task`, which marks its lease while it runs."""

        def run() -> T:
            self._mark(place, lease)
            try:
                return task()
            finally:
                self._mark(place, "")

        return run

    def _hand_over(self, drawing: Drawing, future: Future[T], news: Callable[[Future[T]], _Command]) -> None:
        drawing.pending.append(future)
        future.add_done_callback(lambda done: self._inbox.put(news(done)))

    def _read(self, drawing: Drawing) -> Verdict:
        """The reader's thread: what of a job needs no step."""
        verdict = self._finisher.screen(drawing.job)
        if not verdict.flagged:
            drawing.read()
        return verdict

    def _develop(self, drawing: Drawing, latents: Any) -> Finished:
        """The finisher's thread."""
        return self._finisher(drawing.job, drawing.decode(latents))

    # ------------------------------------------------------------ the engine's thread again

    def _begin(self, lease: str, future: Future[Verdict]) -> None:
        drawing = self._drawings.get(lease)
        if drawing is not None and not self._blacken(drawing, future.result):
            self._schedule(drawing)

    def _schedule(self, drawing: Drawing) -> None:
        job = drawing.job
        self._scheduler.add(
            drawing.lease,
            samples=job.num_images,
            steps=job.steps,
            cost=job.width * job.height,
            priority=job.priority,
        )

    def _preview(self, drawing: Drawing, index: int, step: Step) -> None:
        """Hand a preview to the finisher's thread. One that fails is a line in the server's log, never a failed job."""
        job, every = drawing.job, drawing.job.preview_every
        if not every or step.number % every or step.number >= step.total or step.preview is None:
            return
        try:
            pixels = step.preview()
        except Exception:
            log.exception("A preview of request %s failed", job.request_id)
            return

        def finish() -> None:
            try:
                preview = self._finisher.preview(job, pixels)
            except Exception:
                log.exception("A preview of request %s failed", job.request_id)
                return
            if preview is not None:
                self._sink.preview(job, drawing.lease, preview, image=index + 1, step=step.number, steps=step.total)

        self._beside.finish(self._marked(PIXELS, drawing.lease, finish))

    def _blacken(self, drawing: Drawing, judge: Callable[[], Verdict]) -> bool:
        """Ends the job at once when `judge` flags its prompt; → whether it does. Raises when the prompt is refused."""
        job, lease = drawing.job, drawing.lease
        try:
            verdict = judge()
        except PromptRefused as refused:
            self._sink.log(job, lease, f"Refused: {_reason(refused.verdict)}", level="WARN")
            raise
        if not verdict.flagged:
            return False
        result = drawing.blacken(self._finisher.black(job, verdict), verdict)
        self._forget(lease)
        for notice in job.notices:
            self._sink.log(job, lease, notice.message, level="WARN")
        self._sink.log(job, lease, f"Nothing is drawn, the pictures are black: {_reason(verdict)}", level="WARN")
        self._sink.done(job, lease, result)
        return True

    def _finish(self, lease: str, index: int, future: Future[Finished]) -> None:
        drawing = self._drawings.get(lease)
        if drawing is None:
            return  # cancelled while the picture was compressed
        finished = future.result()
        drawing.add(index, finished)
        self._log_verdict(drawing, index, finished)
        if drawing.complete:
            result = drawing.result()
            self._forget(lease)
            for notice in drawing.afterwards:
                self._sink.log(drawing.job, lease, notice.message, level="WARN")
            stages = ", ".join(f"{name} {seconds:.4f}" for name, seconds in result.timings.items())
            log.debug("Request %s: %s s", drawing.job.request_id, stages)
            self._sink.log(drawing.job, lease, f"Done in {result.timings['inference']:.1f} s")
            self._sink.done(drawing.job, lease, result)

    def _log_verdict(self, drawing: Drawing, index: int, finished: Finished) -> None:
        job, picture = drawing.job, finished.picture
        if picture.nsfw:
            message = f"{_image(job, index)}safety score {picture.nsfw_score:.2f}: flagged, the picture is black"
            self._sink.log(job, drawing.lease, message, level="WARN")
        elif finished.judged:
            self._sink.log(job, drawing.lease, f"{_image(job, index)}safety score {picture.nsfw_score:.2f}: passed")

    def _fail(self, drawing: Drawing, verdict: Failure) -> None:
        level = "INFO" if verdict.status == 499 else "ERROR"
        self._sink.log(drawing.job, drawing.lease, verdict.message, level=level)
        self._sink.failed(drawing.job, drawing.lease, verdict)

    def _forget(self, lease: str) -> Drawing | None:
        self._scheduler.remove(lease)
        drawing = self._drawings.pop(lease, None)
        if drawing is not None:
            for future in drawing.pending:
                future.cancel()  # what has begun goes on, and nobody listens
        return drawing


def _opening(job: Job) -> str:
    images = "1 image" if job.num_images == 1 else f"{job.num_images} images"
    return f"Drawing {images} of {job.width}x{job.height} in {job.steps} steps, seed {job.sent_seed or job.seed}"


def _reason(verdict: Verdict) -> str:
    return f"{verdict.reason or verdict.category} (score {verdict.score:.2f})"


def _image(job: Job, index: int) -> str:
    """Names the picture where there are several."""
    return "" if job.num_images == 1 else f"image {index + 1}/{job.num_images}: "


def _is_tenth(step: Step) -> bool:
    """Whether this step passed another tenth of the way: about ten lines a picture, however many steps."""
    return step.number * 10 // step.total > (step.number - 1) * 10 // step.total
