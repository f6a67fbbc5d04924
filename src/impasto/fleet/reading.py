"""Reading what inputs name (images, masks, LoRAs) before their requests compete for a runner.

In: requests of the store that wait for their files. Out: `take`, which hands the files of a claimed request over, or
the error that the request ends with. A request stays IN_QUEUE meanwhile, so that a slow URL costs no runner anything.

    submit ─▶ waits for its files ─ fill ─▶ read ─▶ may be claimed ─ take ─▶ drawn
                     ▲                                   │
                     └───────────── defer ───────────────┘  a new process, or files that are gone

The places are shared by key: a key holds at most `fetch.per_key` of them for each priority, all keys hold
`fetch.at_a_time`, and lanes (key, endpoint) come in turns. What was read is bounded in bytes, in all and for each key.
Nothing here is durable: after a kill -9 the files are read again.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from impasto import telemetry
from impasto.endpoints.base import Endpoint
from impasto.endpoints.validation import validate
from impasto.engine.job import ImageInput, LoraInput, Notice
from impasto.errors import InternalError, StoreError, WireError
from impasto.fleet.inputs import Inputs
from impasto.fleet.loras import LoraFiles
from impasto.settings import FetchSettings
from impasto.store.base import Store
from impasto.store.records import Request, Status

log = logging.getLogger("impasto.dispatcher")

MIB = 1024 * 1024
SHARE = 4  # one key holds at most this part of `fetch.ahead_mb`
LOOKS = 256  # lanes that one search for the next request passes; the next search goes on from there
PAUSE_SECONDS = 0.05  # between two searches of one round: others use the event loop meanwhile
AGAIN_SECONDS = 1.0  # until a reading that the disk or the store refused is tried again
WATCH_SECONDS = 30.0  # between two looks at a request that waits to be claimed, on top of its notices

PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # tried again with patience

Lane = tuple[str, str]
"""(key id, endpoint)."""

NOWHERE: Lane = ("", "")  # before all lanes


@dataclass(frozen=True, slots=True)
class Files:
    """What was read for one request. `error` is set when the request is to end with it."""

    images: tuple[ImageInput, ...] = ()
    loras: tuple[LoraInput, ...] = ()
    notices: tuple[Notice, ...] = ()
    error: WireError | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes in memory."""
        return sum(len(image.data) for image in self.images)

    @property
    def complete(self) -> bool:
        """Whether its LoRA files are still on the disk: another request's may have taken their room."""
        return all(Path(lora.path).exists() for lora in self.loras)


@dataclass(slots=True, eq=False)
class _Place:
    """One request whose files are being read, or were read and wait for its claim."""

    key_id: str
    endpoint: str
    priority: int
    size: int = 0  # bytes held: of the input while it is read, of the files afterwards
    files: Files | None = None
    task: asyncio.Task[None] = field(init=False)


class Reading:
    """The reading places. `served` tells which endpoints a runner would draw for now."""

    def __init__(
        self,
        *,
        store: Store,
        inputs: Inputs,
        loras: LoraFiles,
        endpoints: Mapping[str, Endpoint],
        limits: FetchSettings,
        served: Callable[[], Collection[str]],
    ) -> None:
        self._store = store
        self._inputs = inputs
        self._loras = loras
        self._endpoints = endpoints
        self._limits = limits
        self._served = served
        self._places: dict[str, _Place] = {}  # by request id
        self._lane: Lane = NOWHERE  # looked at last
        self._began: Lane | None = None  # where the round of searches began that has found nothing yet
        self._wrapped = False  # whether that round has passed the last lane
        self._wake = asyncio.Event()

    def ring(self) -> None:
        """Look for requests to read for: one came, a place is free, or a runner is ready."""
        self._wake.set()

    def take(self, request_id: str) -> Files | None:
        """Hand over the files of a request that was claimed, once. None: they are to be read (again)."""
        place = self._places.pop(request_id, None)
        if place is None:
            return None
        place.task.cancel()
        self.ring()
        return place.files if place.files is not None and place.files.complete else None

    @property
    def counts(self) -> tuple[int, int]:
        """Requests whose files are being read, and those that were read for and wait to be claimed."""
        read = sum(place.files is not None for place in self._places.values())
        return len(self._places) - read, read

    async def run(self) -> None:
        """Fill the places until cancelled; then end what is being read."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self._fill()
                except Exception:
                    log.exception("Looking for inputs to read failed; it is tried again in a second")
        finally:
            tasks = [place.task for place in self._places.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ who is next

    async def _fill(self) -> None:
        if self._store.reading_after(NOWHERE) is None:
            return
        served = frozenset(self._served())
        if served:
            self._forget_unserved(served)
        while served and (found := self._next(served)) is not None:
            request_id, place = found
            # One after the other: an input with data URIs takes tens of megabytes, which count before the next is read.
            unread = await self._store.unread(request_id)
            if unread is None:
                continue
            request, place.size = unread[0], 2 * unread[1]  # as text, and as the bytes that it means
            self._places[request_id] = place
            place.task = asyncio.create_task(self._serve(request, place))

    def _next(self, served: Collection[str]) -> tuple[str, _Place] | None:
        """The next request to read for, lanes in turns, each in the order of claims. None: no room, or no request."""
        if self.counts[0] >= self._limits.at_a_time or not self._has_room(()):
            return None
        for _ in range(LOOKS):
            lane = self._following()
            if lane is None:
                return None
            if lane[1] in served and (found := self._of(lane)) is not None:
                self._began = None
                return found
        asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.ring)
        return None

    def _following(self) -> Lane | None:
        """The lane to look at next; None: there is none, or the round is complete. The next round begins there."""
        lane = self._store.reading_after(self._lane)
        if lane is None:
            lane, self._wrapped = self._store.reading_after(NOWHERE), True
        if self._began is None:
            self._began, self._wrapped = lane, False
        elif lane is not None and self._wrapped and lane >= self._began:
            self._began = None
            return None
        if lane is not None:
            self._lane = lane
        return lane

    def _of(self, lane: Lane) -> tuple[str, _Place] | None:
        """The next request of one lane; None: its key has its share, or none waits."""
        key_id, endpoint = lane
        mine = [place for place in self._places.values() if place.key_id == key_id]
        if not self._has_room(mine):
            return None
        for request_id, priority in self._store.reading(lane, limit=len(mine) + 1):
            held = sum(place.priority == priority for place in mine)
            if request_id not in self._places and held < self._limits.per_key:
                return request_id, _Place(key_id, endpoint, priority)
        return None

    def _has_room(self, mine: Collection[_Place]) -> bool:
        """Whether a key that holds `mine` may hold more bytes. One that holds none has the last half for itself."""
        most = self._limits.ahead_mb * MIB
        total = sum(place.size for place in self._places.values())
        if not mine:
            return total < most
        return total < most // 2 and sum(place.size for place in mine) < most // SHARE

    def _forget_unserved(self, served: Collection[str]) -> None:
        """Free the places of endpoints that no runner draws for any more; claimed later, they are read again."""
        for request_id, place in list(self._places.items()):
            if place.files is not None and place.endpoint not in served:
                self._leave(request_id, place)
                place.task.cancel()

    # ------------------------------------------------------------ one request

    async def _serve(self, request: Request, place: _Place) -> None:
        """Read the files of one request, let it be claimed, and hold them until that happens or it ends otherwise."""
        request_id = request.request_id
        token = telemetry.request_id.set(request_id)
        try:
            files = await self._until_ended(request_id, self._read(request))
            if files is None:
                return
            place.size, place.files = files.size, files
            del request, files
            self.ring()  # the input's bytes are free
            if await self._store.files_are_read(request_id):
                await self._until_ended(request_id, None)
        except (OSError, StoreError) as error:  # a full disk: the request waits in the queue as before
            log.warning("The files of a request could not be read (%s); they are read again", error)
            await asyncio.sleep(AGAIN_SECONDS)
        finally:
            telemetry.request_id.reset(token)
            self._leave(request_id, place)

    def _leave(self, request_id: str, place: _Place) -> None:
        if self._places.get(request_id) is place:
            del self._places[request_id]
            self.ring()

    async def _until_ended(self, request_id: str, coming: Coroutine[Any, Any, Files] | None) -> Files | None:
        """What comes; None when the request ends before that (cancelled, past its deadline)."""
        task = None if coming is None else asyncio.create_task(coming)
        try:
            version = self._store.version(request_id)
            while (request := self._store.get(request_id)) is not None and request.status is not Status.COMPLETED:
                change = asyncio.create_task(self._store.changed(request_id, since=version, timeout=WATCH_SECONDS))
                try:
                    await asyncio.wait({change, task} if task else {change}, return_when=asyncio.FIRST_COMPLETED)
                    if task is not None and task.done():
                        return task.result()
                    version = change.result()
                finally:
                    change.cancel()
            return None
        finally:
            if task is not None:
                task.cancel()

    async def _read(self, request: Request) -> Files:
        """The files that an input names. What is wrong with them, or with the input, becomes the `error`.

        Raises `OSError`, `StoreError`: this machine's trouble, not the caller's.
        """
        endpoint = self._endpoints.get(request.endpoint)
        if endpoint is None:
            return Files()  # its claim says so
        try:
            input_ = validate(endpoint, request.input)
            pictures = () if endpoint.pictures is None else tuple(endpoint.pictures(input_))
            loras = () if endpoint.loras is None else tuple(endpoint.loras(input_))
            base_url, reader = request.base_url, request.key_id
            images, notices = await self._inputs.read_all(pictures, base_url=base_url, reader=reader)
            return Files(images, await self._loras.bring(loras, base_url=base_url, reader=reader), notices)
        except WireError as error:
            return Files(error=error)
        except StoreError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in PASSING:
                raise
            log.exception("The files of an input could not be read")
            return Files(error=InternalError())
