"""The gateway's side of the fleet: who runs the work. START READING THE FLEET AT `messages`, then here.

In: runners that dial the Unix socket (0600, token), and the store's doorbell. Out: Assign, Cancel, Lost, Drain to
them; moves to the store. It claims for runners with free slots, validates, assigns, renews leases at every Beat, and
ends each request in finish (Done, Failed, a refused input) or requeue (Released, a retryable failure, a lost
connection). Nothing that one request or one runner does stops the others.

    _dispatch    waits for the doorbell or for a free slot, tells cancels, claims
    _connected   one task a runner: reads what it says; beats and progress are answered here
    outcomes     one task a runner: lines and outcomes in order, because they wait for the disk
    sweeper      every second
"""

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Hashable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import msgspec

from impasto import telemetry
from impasto.endpoints.base import Endpoint
from impasto.endpoints.table import Endpoints
from impasto.engine.senses import Lack, lack
from impasto.errors import InternalError, ServiceUnavailable, StoreError, WireError
from impasto.files.blobs import BlobStore
from impasto.files.parts import FOLDER, Parts
from impasto.fleet import messages as m
from impasto.fleet import work as w
from impasto.fleet.crashes import Crashes
from impasto.fleet.inputs import Inputs
from impasto.fleet.link import Link, RunnerFacts, bind
from impasto.fleet.loras import LoraFiles
from impasto.fleet.marks import MarkFiles
from impasto.fleet.outcomes import Outcomes
from impasto.fleet.reading import Reading
from impasto.fleet.scopes import Scopes
from impasto.fleet.sweeper import sweep_for_ever
from impasto.fleet.work import Work
from impasto.flux.models import usual
from impasto.settings import Settings
from impasto.store.base import Store
from impasto.store.records import Held, Request

log = logging.getLogger("impasto.dispatcher")

HELLO_SECONDS = 10.0  # a connection that does not introduce itself by then is closed
POLL_SECONDS = 1.0  # back-offs end without a doorbell
JUDGED_SECONDS = 5.0  # that a dead runner's last words may take to be written down, before it is started again
GONE_MAX = 100
WATCHED_MAX = 10_000
PREVIEWS = 4  # of one picture
SOCKET_PATH_MAX = 100  # bytes; the system's limit is 108 on Linux, 104 on macOS


class Dispatcher:
    """`async with Dispatcher(...)`: listens from then on. `endpoints` defaults to the shipped ones. `secret` signed the
    links that inputs may name.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        blobs: BlobStore,
        endpoints: Mapping[str, Endpoint] | None = None,
        secret: bytes | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._outcomes = Outcomes(store, blobs, self._let_go)
        self._endpoints = Endpoints() if endpoints is None else endpoints
        self._inputs = Inputs(settings=settings, store=store, blobs=blobs, secret=secret)
        self._scopes = Scopes()
        self._loras = LoraFiles(settings=settings, own=self._inputs.own_file)
        self._reading = Reading(
            store=store,
            inputs=self._inputs,
            loras=self._loras,
            endpoints=self._endpoints,
            limits=settings.fetch,
            served=self._served,
        )
        self.marks = MarkFiles(settings.data)
        self._crashes = Crashes(settings.queue.max_crashes_per_hour, time.monotonic)
        self._blamed: set[str] = set()  # leases of crashes that could not be written down: the sweeper does it
        self._gone: dict[str, Link] = {}  # runners that left last, for `ended_by_its_work`
        self._runners: dict[str, Link] = {}
        self._progress: dict[str, m.Progress] = {}
        self._previews: dict[str, dict[int, m.Preview]] = {}
        self._watched: dict[str, str] = {}  # request id → key id, in the order in which they came
        self._watching: Counter[str] = Counter()  # of these, how many each key has
        self._trouble = ""
        self._draining = False
        self._wake = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._cleanup = contextlib.AsyncExitStack()
        self.token = secrets.token_urlsafe(32)
        self.socket_path = Path()

    # ------------------------------------------------------------ start and stop

    async def __aenter__(self) -> Self:
        self.socket_path = self._choose_path()
        server = await asyncio.start_unix_server(self._accept, sock=bind(self.socket_path))
        self._cleanup.callback(server.close)
        self._start(self._dispatch())
        self._start(self._reading.run())
        self._start(self._listen_for_work())
        self._start(sweep_for_ever(self._store, self._blobs, Parts(self._settings.data / FOLDER), self._held))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening; what runners still hold goes back to the queue without costing an attempt."""
        self._draining = True
        async with self._claiming:  # a request that was claimed is assigned, too
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for runner in list(self._runners.values()):
            runner.writer.close()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._outcomes.close()
        await self._inputs.close()
        await self._cleanup.aclose()
        with contextlib.suppress(OSError):
            self.socket_path.unlink()

    async def drain(self, seconds: float) -> None:
        """No new work; runners finish for `seconds`, release the rest and leave. Returns when they have left."""
        self._draining = True
        for runner in self._runners.values():
            runner.say(m.Drain(seconds=seconds))
        if self._connections:
            # Done may be a large frame and its files go to the disk: some time on top.
            await asyncio.wait(self._connections, timeout=seconds + 5.0)

    # ------------------------------------------------------------ what others ask

    @property
    def ready(self) -> bool:
        """Whether a request would be drawn now."""
        return not self._draining and any(self._is_able(runner) for runner in self._runners.values())

    @property
    def reason(self) -> str:
        """Why not `ready`, for people; "" when it is."""
        if self.ready:
            return ""
        if self._draining:
            return "The server is stopping."
        if self._trouble:
            return self._trouble
        if any(runner.ready is None for runner in self._runners.values()):
            return f"The model {self._settings.model.name} is being loaded."
        if self._runners:
            return "The runner does not answer."
        return "The runner is being started."

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def runners(self) -> list[RunnerFacts]:
        """The runners that are ready."""
        return [facts for runner in self._runners.values() if (facts := runner.facts) is not None]

    @property
    def serving(self) -> Hashable:
        """The models of the runners that answer, with what is told of them: changes when `served_by` or `lack` may."""
        ready = (runner.ready for runner in self._runners.values() if self._is_able(runner))
        return tuple((*each.models, each.residency, *sorted(each.senses.items())) for each in ready if each is not None)

    def served_by(self, endpoint: Endpoint) -> str | None:
        """Name of the loaded model that draws for the endpoint; None: no runner that is ready has one, or none of
        theirs can (`lack`).
        """
        return next((name for name, found in self._candidates(endpoint) if found is None), None)

    def lack(self, endpoint: Endpoint) -> Lack | None:
        """Why the model that is asked for the endpoint refuses its images; None: one can draw, or no runner is ready
        that has the model.
        """
        found = [each for _, each in self._candidates(endpoint)]
        return None if None in found else next(iter(found), None)

    def _candidates(self, endpoint: Endpoint) -> Iterator[tuple[str, Lack | None]]:
        """The model that each ready runner would ask for the endpoint, and what that model lacks for it."""
        for runner in self._runners.values():
            name = self._model_for(endpoint, runner) if self._is_able(runner) else None
            if runner.ready is None or name is None:
                continue
            senses = runner.ready.senses.get(name)
            # An endpoint with a pipeline of its own may do with the images what the model cannot.
            if senses is None or endpoint.pipeline is not None:
                yield name, None
            else:
                yield name, lack(senses, endpoint.roles)

    def progress(self, request_id: str) -> m.Progress | None:
        """The last step that a running request has made."""
        return self._progress.get(request_id)

    def want_previews(self, request_id: str, *, key_id: str = "") -> None:
        """Note that a caller will watch this request, which is about to be submitted. Of more than `WATCHED_MAX`, the
        oldest of the key that has the most are forgotten.
        """
        self._watched[request_id] = key_id
        self._watching[key_id] += 1
        if len(self._watched) > WATCHED_MAX:
            most = self._watching.most_common(1)[0][0]
            self._unwatch(next(id_ for id_, key in self._watched.items() if key == most))

    def _unwatch(self, request_id: str) -> None:
        key_id = self._watched.pop(request_id, None)
        if key_id is not None:
            self._watching[key_id] -= 1
            if not self._watching[key_id]:
                del self._watching[key_id]

    def previews(self, request_id: str) -> list[m.Preview]:
        """What its pictures look like, the latest of each, in their order."""
        return [preview for _, preview in sorted(self._previews.get(request_id, {}).items())]

    def silence(self, runner_id: str) -> float:
        """Seconds since a connected runner last said something; 0 for one that is not connected."""
        runner = self._runners.get(runner_id)
        return 0.0 if runner is None else runner.silence

    async def ended_by_its_work(self, runner_id: str) -> bool:
        """Whether a runner that has died was ended by a request that it worked on, which is blamed for it."""
        link = self._runners.get(runner_id) or self._gone.get(runner_id)
        if link is None:
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(link.gone.wait(), JUDGED_SECONDS)
        return link.blamed is True

    def report(self, trouble: str) -> None:
        """Remember why there is no runner (`fleet.local` saw it die); forgotten when one becomes ready."""
        self._trouble = trouble

    # ------------------------------------------------------------ claiming

    async def _dispatch(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._reading.ring()
            try:
                self._tell_cancels()
                async with self._claiming:
                    for runner in list(self._runners.values()):
                        await self._claim_for(runner)
            except Exception:
                log.exception("Claiming failed; it is tried again in a second")

    async def _listen_for_work(self) -> None:
        """Rings on the store's doorbell, and once a second for what comes due by itself."""
        while True:
            await self._store.work_available(timeout=POLL_SECONDS)
            self._wake.set()

    def _tell_cancels(self) -> None:
        for runner in self._runners.values():
            for work in runner.works.values():
                if not work.cancel_sent:
                    request = self._store.get(work.request.request_id)
                    if request is not None and request.cancel_requested:
                        self._cancel(runner, work)

    def _cancel(self, runner: Link, work: Work) -> None:
        work.cancel_sent = True
        runner.say(m.Cancel(request_id=work.request.request_id, lease=work.lease))

    async def _claim_for(self, runner: Link) -> None:
        free, guests = runner.free_slots, runner.guest_slots
        if not (free or guests) or self._draining or not self._is_able(runner):
            return
        endpoints = [endpoint.id for endpoint in self._endpoints.values() if self._model_for(endpoint, runner)]
        suspects = self._crashes.suspects
        requests = await self._store.claim(
            endpoints=endpoints,
            runner_id=runner.runner_id,
            limit=free or guests,
            lease_seconds=self._settings.queue.lease_seconds,
            idle=not runner.works,
            busy=None if free else runner.keys,
            suspects=suspects,
            resting=self._crashes.resting,
        )
        for request in requests:
            token = telemetry.request_id.set(request.request_id)
            try:
                alone = bool(request.crash_count) or (request.key_id, request.endpoint) in suspects
                await self._assign(runner, request, alone=alone)
            except StoreError:
                # Its lease runs out, and the sweeper brings it back; the others of this claim must not wait for theirs.
                log.exception("%s could not be assigned", request.request_id)
            finally:
                telemetry.request_id.reset(token)
            if request.request_id not in runner.works:
                self._store.settle(request, 0.0)
        if any(request.request_id not in runner.works for request in requests):
            self._wake.set()  # some were refused, or wait for their files: their slots are free

    def _is_able(self, runner: Link) -> bool:
        """Ready and not silent: a frozen runner must not be given more."""
        return runner.ready is not None and runner.silence <= 3 * self._settings.queue.beat_seconds

    def _model_for(self, endpoint: Endpoint, runner: Link) -> str | None:
        """Name of the loaded model that serves the endpoint; None: this runner cannot."""
        loaded = runner.ready.models if runner.ready else []
        name = self._settings.model.serve.get(endpoint.model, usual(endpoint.model, loaded))
        return name if name in loaded else None

    def _served(self) -> set[str]:
        """Ids of the endpoints that a runner would draw for now."""
        able = [runner for runner in self._runners.values() if self._is_able(runner)]
        return {
            endpoint.id
            for endpoint in self._endpoints.values()
            if any(self._model_for(endpoint, runner) for runner in able)
        }

    async def _assign(self, runner: Link, request: Request, *, alone: bool) -> None:
        endpoint = self._endpoints.get(request.endpoint)
        model = self._model_for(endpoint, runner) if endpoint else None
        lease = request.lease
        assert lease is not None, "a claimed request has a lease"
        try:
            work = w.prepare(request, endpoints=self._endpoints, model=model or "")
        except WireError as error:
            log.info("Refused: %s", error.message)
            await self._outcomes.finish(request.request_id, lease, w.refused(error))
            return
        except Exception:
            # A fault in an endpoint must not leave its request to run out its lease, again and again.
            log.exception("The input could not be turned into a job")
            await self._outcomes.finish(request.request_id, lease, w.refused(InternalError()))
            return
        work.alone = alone
        pause = self._crashes.pause(request.key_id, request.endpoint)
        if pause:
            most = self._settings.queue.max_crashes_per_hour
            reason = (
                f"Requests of this key ended their runner {most} times within an hour (setting "
                f"queue.max_crashes_per_hour): those for {request.endpoint} are drawn again in {pause} s."
            )
            log.warning("Refused: %s", reason)
            await self._outcomes.finish(request.request_id, lease, w.refused(ServiceUnavailable(reason)))
            return
        if runner.runner_id not in self._runners:
            await self._store.requeue(
                request.request_id, lease, crashed=False, drain=True, reason="the runner left before it began"
            )
            return
        if request.store_io:  # what must not be kept is nobody's
            work.job = replace(work.job, scope=self._scopes.of(request.key_id))
        if request.request_id in self._watched:
            every = max(1, work.job.steps // (PREVIEWS + 1))
            work.job = replace(work.job, preview_every=every)
        if (work.pictures or work.loras) and not await self._add_files(work):
            return
        runner.works[request.request_id] = work
        self._store.charge(request, work.ordinary_images)
        runner.pace.begin(asyncio.get_running_loop().time())
        runner.say(m.Assign(lease=work.lease, attempt=work.request.attempt, job=work.job))
        log.info("%s: %s draws it (attempt %d)", work.request.endpoint, runner.runner_id, work.request.attempt)

    async def _add_files(self, work: w.Work) -> bool:
        """Put what was read for a claimed request into its job. False: it goes back until that is read, or it ended."""
        request_id, files = work.request.request_id, self._reading.take(work.request.request_id)
        if files is None:
            await self._store.defer(request_id, work.lease)
            return False
        error = files.error
        if error is None:
            try:
                notices = (*work.job.notices, *files.notices)
                job = replace(work.job, images=files.images, loras=files.loras, notices=notices)
                work.job = work.endpoint.with_pictures(job)
                m.check(replace(work.job, images=()))
                return True
            except WireError as refusal:
                error = refusal
            except Exception:
                log.exception("The images could not be put into the job")
                error = InternalError()
        log.info("Refused: %s", error.message)
        await self._outcomes.finish(request_id, work.lease, w.refused(error))
        return False

    # ------------------------------------------------------------ connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._connected(reader, writer)
        except Exception:
            log.exception("A runner's connection failed")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        runner = await self._introduce(reader, writer)
        if runner is None:
            return
        self._runners[runner.runner_id] = runner
        settling = asyncio.create_task(self._outcomes.settle(runner))
        renewing = asyncio.create_task(self._renew_ended(runner))
        try:
            while (frame := await m.read_frame(reader)) is not None:
                runner.heard = asyncio.get_running_loop().time()
                await self._hear(runner, m.decode_up(frame))
        except msgspec.MsgspecError as error:
            log.warning("%s says what nobody understands (%s); its connection is closed", runner.runner_id, error)
        finally:
            del self._runners[runner.runner_id]
            self._gone[runner.runner_id] = runner
            while len(self._gone) > GONE_MAX:
                del self._gone[next(iter(self._gone))]
            await runner.settling.join()  # what it said before it left still counts
            settling.cancel()
            renewing.cancel()
            await self._give_back(runner)

    async def _introduce(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Link | None:
        """Hello → Welcome; None for a stranger."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                frame = await m.read_frame(reader)
            hello = None if frame is None else m.decode_up(frame)
        except (TimeoutError, msgspec.MsgspecError):
            hello = None
        if not isinstance(hello, m.Hello) or hello.protocol != m.PROTOCOL or hello.runner_id in self._runners:
            log.warning("Somebody dialled the runners' socket and did not introduce itself")
            return None
        if not hmac.compare_digest(hello.token.encode(), self.token.encode()):
            log.warning("%s dialled with a wrong token", hello.runner_id)
            return None
        runner = Link(hello.runner_id, hello.pid, writer, asyncio.get_running_loop().time())
        runner.say(m.Welcome(beat_seconds=self._settings.queue.beat_seconds))
        if self._draining:
            runner.say(m.Drain(seconds=0))
        return runner

    async def _hear(self, runner: Link, message: m.Up) -> None:
        match message:
            case m.Ready():
                runner.ready = message
                self._trouble = ""
                log.info(
                    "%s ready: %s on %s (%s; %s), loaded in %.1f s",
                    runner.runner_id, ", ".join(message.models), message.device, message.dtype, message.residency,
                    message.load_seconds,
                )  # fmt: skip
                self._wake.set()
            case m.Unready(reason=reason):
                if reason != self._trouble:
                    log.error("%s cannot draw: %s", runner.runner_id, reason)
                self._trouble = reason
            case m.Beat(leases=leases, counters=counters):
                runner.counters = counters
                await self._renew(runner, leases)
            case m.Progress(request_id=request_id, lease=lease):
                if runner.held(request_id, lease):
                    self._progress[request_id] = message
                    runner.pace.step(runner.heard)
            case m.Preview(request_id=request_id, lease=lease):
                if runner.held(request_id, lease):
                    self._previews.setdefault(request_id, {})[message.image] = message
            case m.Log() | m.Done() | m.Failed() | m.Released():
                work = runner.held(message.request_id, message.lease)
                if work is not None and not isinstance(message, m.Log):
                    work.ended = True
                    if work.alone and not isinstance(message, m.Released):  # nothing happened
                        self._crashes.forgive(work.request.key_id, work.request.endpoint, work.request.request_id)
                    runner.pace.pictures += len(message.result.pictures) if isinstance(message, m.Done) else 0
                await runner.settling.put(message)
            case m.Hello():
                log.warning("%s introduces itself twice", runner.runner_id)

    async def _renew_ended(self, runner: Link) -> None:
        """What waits for the disk, however slow that is: nobody else renews these leases. Until it is cancelled."""
        while True:
            await asyncio.sleep(self._settings.queue.beat_seconds)
            await self._renew(runner, {id_: work.lease for id_, work in runner.works.items() if work.ended})

    async def _renew(self, runner: Link, leases: dict[str, str]) -> None:
        if not leases:
            return
        try:
            lost, cancelled = await self._store.renew(leases, lease_seconds=self._settings.queue.lease_seconds)
        except StoreError:
            log.exception("Leases could not be renewed; the next beat tries again")
            return
        for request_id in lost:
            # The work may have ended while the Beat was on its way; then nobody holds it, and Lost hits nothing.
            runner.say(m.Lost(request_id=request_id, lease=leases[request_id]))
            if runner.held(request_id, leases[request_id]):
                log.info("%s no longer holds %s", runner.runner_id, request_id)
                self._let_go(runner, request_id, leases[request_id])
        for request_id in cancelled:
            work = runner.held(request_id, leases[request_id])
            if work is not None and not work.cancel_sent:
                self._cancel(runner, work)

    async def _give_back(self, runner: Link) -> None:
        """The connection is gone: all it held goes back to the queue at once."""
        stopping = self._draining
        at_work = frozenset[str]() if stopping else self._at_work(runner)
        runner.blamed = any(work.lease in at_work for work in runner.works.values())
        for work in list(runner.works.values()):
            crashed = work.lease in at_work
            # What only waited in a runner that another one's work has ended did not have an attempt.
            drain = stopping or (runner.blamed and not crashed and not (work.request.no_retry and self._begun(work)))
            self._let_go(runner, work.request.request_id, work.lease)
            if crashed:
                self._crashes.blame(work.request.key_id, work.request.endpoint, work.request.request_id)
            reason = "the server stops" if stopping else "the runner went away"
            try:
                await self._outcomes.requeue(work, crashed=crashed, drain=drain, reason=reason)
            except StoreError:
                # Nobody renews the lease any more: the sweeper will bring the request back.
                self._blamed |= {work.lease} if crashed else set()
                log.exception("%s could not be given back", work.request.request_id)
        runner.gone.set()
        self.marks.drop(runner.runner_id)
        level = logging.INFO if stopping or runner.ready is None else logging.WARNING
        log.log(level, "%s has left", runner.runner_id)

    def _at_work(self, runner: Link) -> frozenset[str]:
        """The leases that a runner works on, or worked on when it died. All it holds, if it does not say."""
        marked = self.marks.read(runner.runner_id)
        held = (work.lease for work in runner.works.values() if not work.ended)
        return frozenset(lease for lease in held if marked is None or lease in marked)

    def _begun(self, work: Work) -> bool:
        return work.request.request_id in self._progress

    def _held(self) -> Held:
        """What the sweeper has to know: results that wait for the disk, and leases at work in silent runners."""
        links = self._runners.values()
        waiting = {id_: work.lease for link in links for id_, work in link.works.items() if work.ended}
        silent = (self._at_work(link) for link in links if not self._is_able(link))
        return Held(waiting=waiting, blamed=frozenset(self._blamed).union(*silent))

    def _let_go(self, runner: Link, request_id: str, lease: str) -> None:
        """Nothing when that is over already: the runner may hold the request anew by now."""
        work = runner.held(request_id, lease)
        if work is None:
            return
        del runner.works[request_id]
        step = self._progress.get(request_id)
        self._store.settle(work.request, 0.0 if step is None else step.share)
        if not runner.works:
            runner.pace.pause(asyncio.get_running_loop().time())
        self._progress.pop(request_id, None)
        self._previews.pop(request_id, None)
        self._unwatch(request_id)
        self._wake.set()

    # ------------------------------------------------------------ pieces

    def _start(self, loop: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(loop))

    def _choose_path(self) -> Path:
        path = (self._settings.data / "runners.sock").absolute()
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path
        folder = tempfile.mkdtemp(prefix="impasto-")
        self._cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder) / "runners.sock"
