"""How a request ends: lines, files and results written down in the order in which a runner said them.

In: what a link has in its queue. Out: one of `finish` and `requeue` for every piece of work; `let_go` hears of it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from itertools import groupby

from impasto import telemetry
from impasto.engine.job import JobResult
from impasto.errors import InternalError, ServiceUnavailable, StoreError
from impasto.files.blobs import BlobStore
from impasto.files.urls import file_url
from impasto.fleet import messages as m
from impasto.fleet import work as w
from impasto.fleet.link import Link, Settled
from impasto.fleet.work import Ending, Work
from impasto.store.base import Store
from impasto.store.records import FileRecord, LogLine

log = logging.getLogger("impasto.dispatcher")

LINES_WAITING = 64  # writes of log lines under way at once
PATIENCE = 600.0  # seconds for which an outcome is held that the store does not take, say on a full disk
PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds between two tries; doubled each time

Outcome = m.Done | m.Failed | m.Released


class Outcomes:
    """Between the runners' links and store and blobs."""

    def __init__(self, store: Store, blobs: BlobStore, let_go: Callable[[Link, str, str], None]) -> None:
        self._store = store
        self._let_go = let_go
        self._blobs = blobs
        self._writing: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for lines that are being written; outcomes that the store does not take are left to the next start."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        await asyncio.gather(*self._writing)

    async def settle(self, link: Link) -> None:
        """One task a link, until it is cancelled. `link.settling.join` tells when all that was said is written down."""
        while True:
            said = [await link.settling.get()]
            while not link.settling.empty():
                said.append(link.settling.get_nowait())
            # Lines that came together are written together: one commit, not one a line.
            for (request_id, lease, kind), group in groupby(said, lambda x: (x.request_id, x.lease, type(x))):
                messages = list(group)
                token = telemetry.request_id.set(request_id)
                try:
                    await self._settle_group(link, request_id, lease, messages)
                except StoreError:
                    log.exception("%s could not be stored", kind.__name__)
                except Exception:
                    # A fault in an endpoint: another attempt would meet it again.
                    log.exception("%s could not be turned into a result", kind.__name__)
                    with contextlib.suppress(StoreError):
                        await self.finish(request_id, lease, w.refused(InternalError()))
                finally:
                    telemetry.request_id.reset(token)
                    for _ in messages:
                        link.settling.task_done()

    async def _settle_group(self, link: Link, request_id: str, lease: str, messages: Sequence[Settled]) -> None:
        """What a runner said of one piece of work, in a row: lines, or an outcome."""
        lines = [LogLine(x.timestamp, x.message, x.level) for x in messages if isinstance(x, m.Log)]
        if lines and link.held(request_id, lease):
            await self._write_lines(request_id, lease, lines)
        for message in messages:
            if isinstance(message, m.Log):
                continue
            work = link.held(request_id, lease)  # asked anew: the first outcome lets go
            if work is None:
                log.info("%s: late %s dropped", link.runner_id, type(message).__name__)
                continue
            try:
                await self._end(work, message)
            except StoreError as error:
                # The work is done, and a full disk is no fault of it: its lease goes on, and its slot is taken, so that
                # no more is drawn than can be kept.
                log.warning("%s could not be stored (%s); it is tried again", type(message).__name__, error)
                task = asyncio.create_task(self._end_later(link, work, message))
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)
            except BaseException:
                self._let_go(link, request_id, lease)
                raise
            else:
                self._let_go(link, request_id, lease)

    async def _end_later(self, link: Link, work: Work, message: Outcome) -> None:
        """Store an outcome as soon as the store takes it, while its lease holds. Then, or when that took too long, the
        runner's slot is free; what was not stored is drawn again when the lease has run out.
        """
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + PATIENCE, PAUSE
        request_id, lease = work.request.request_id, work.lease
        token = telemetry.request_id.set(request_id)
        try:
            while loop.time() < until and link.held(request_id, lease) is work:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                try:
                    await self._end(work, message)
                    return
                except StoreError:
                    continue
                except Exception:
                    log.exception("%s could not be turned into a result", type(message).__name__)
                    message = m.Failed(
                        request_id=request_id,
                        lease=lease,
                        status=500,
                        error_type=InternalError.error_type,
                        body=InternalError().body(),
                        headers=InternalError().headers(),
                        retryable=False,
                    )
            log.error("%s could not be stored; the request is drawn again", type(message).__name__)
        finally:
            telemetry.request_id.reset(token)
            self._let_go(link, request_id, lease)

    async def _write_lines(self, request_id: str, lease: str, lines: Sequence[LogLine]) -> None:
        """Hand the lines to the store and go on: the store keeps the order of its calls, so an outcome that follows
        shares their commit instead of waiting for it.
        """

        async def write() -> None:
            try:
                await self._store.progress(request_id, lease, lines)
            except StoreError:
                log.exception("Log lines could not be stored")

        task = asyncio.create_task(write())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        if len(self._writing) > LINES_WAITING:
            await asyncio.wait(self._writing)
        await asyncio.sleep(0)  # the task's first step hands the lines over

    async def _end(self, work: Work, message: Outcome) -> None:
        match message:
            case m.Done(result=result):
                await self._done(work, result)
            case m.Failed(retryable=True):
                await self.requeue(work, crashed=False, reason=w.one_line(message.body), last=w.failed(message))
            case m.Failed():
                log.log(
                    logging.WARNING if message.status >= 500 else logging.INFO,
                    "Ended with %d %s: %s", message.status, message.error_type, w.one_line(message.body),
                )  # fmt: skip
                await self.finish(message.request_id, message.lease, w.failed(message))
            case m.Released():
                await self.requeue(work, crashed=False, drain=True, reason="the runner was stopped")

    async def _done(self, work: Work, result: JobResult) -> None:
        """Files first, synced; then the result that names them, if the lease still holds."""
        files: list[FileRecord] = []
        kept, nobodys = False, True
        try:
            if not work.inline:
                for picture in result.pictures:
                    token = await asyncio.to_thread(self._blobs.put, picture.data, media_type=picture.media_type)
                    files.append(FileRecord(token=token, media_type=picture.media_type, size=len(picture.data)))
            urls = [file_url(work.request.base_url, file.token) for file in files]
            ending = w.succeeded(work, result, urls)
            # If this raises, nobody knows whether the commit is in the log, to be replayed at the next start: the
            # files stay, and the sweep for orphans decides.
            nobodys = False
            kept = await self.finish(result.request_id, work.lease, ending, files)
            nobodys = not kept
        except OSError as error:
            log.exception("The pictures could not be written")
            reason = f"the pictures could not be written ({error.strerror})"
            last = w.refused(ServiceUnavailable(f"On the server {reason}: tell its operator."))
            await self.requeue(work, crashed=False, reason=reason, last=last)
        finally:
            if nobodys:
                for file in files:
                    await asyncio.to_thread(self._blobs.delete, file.token)
        if kept:
            count = len(result.pictures)
            log.info("Drew %d picture%s in %.2f s", count, "" if count == 1 else "s", result.timings["inference"])

    async def finish(self, request_id: str, lease: str, ending: Ending, files: list[FileRecord] | None = None) -> bool:
        """→ whether the lease still held, and so whether the ending is now the request's."""
        kept = await self._store.finish(
            request_id,
            lease,
            outcome=ending.outcome,
            result=ending.result,
            files=files or [],
            error=ending.error,
            error_type=ending.error_type,
            inference_time=ending.inference_time,
            pictures=ending.pictures,
        )
        if not kept:
            log.warning("The outcome came too late: the lease is somebody else's. It is dropped")
        return kept

    async def requeue(
        self, work: Work, *, crashed: bool, drain: bool = False, reason: str, last: Ending | None = None
    ) -> None:
        """`last`: how the request ends if this was its last attempt; None: the runner is blamed."""
        reason = reason.rstrip(".")  # the sentence goes on after it
        request = await self._store.requeue(
            work.request.request_id,
            work.lease,
            crashed=crashed,
            drain=drain,
            reason=reason,
            result=None if last is None else last.result,
            error=None if last is None else last.error,
            error_type=None if last is None else last.error_type,
        )
        if request is not None:
            log.warning("Attempt %d ended: %s. Now %s", work.request.attempt, reason, request.status)
