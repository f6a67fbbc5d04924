"""The sync run: submit, wait, answer with the model's own output (reference, protocol section 2).

The request goes the same durable way as one from the queue; what differs is that a bad input is refused before it is
stored, and that nobody but the waiting client wants it: when that one hangs up, the request is cancelled.
"""

import asyncio
import contextlib
import time
from dataclasses import replace

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from impasto.api import queue
from impasto.api.admission import admit, comes_back, resolve, start_timeout
from impasto.api.auth import KEY_CHECK_SECONDS, check_key
from impasto.api.bodies import let_go, read_object
from impasto.api.gateway import Call, Gateway
from impasto.endpoints.validation import validate
from impasto.errors import ClientDisconnected, RequestTimeout, ServiceUnavailable, StoreError, UnknownRequest
from impasto.store.base import Store
from impasto.store.records import Request, Status

RECHECK = 2.0  # seconds; the change counter wakes us, this bounds a lost wake-up, and how long a full disk goes unseen
OVERDUE = 0.02  # seconds past a start deadline before the sweep is asked to enforce it


async def run(call: Call) -> Response:
    """Wait as long as it takes. 504 when it did not start within X-Fal-Request-Timeout; 499 when the client is gone."""
    endpoint = resolve(call.address.path, call.gateway.endpoints)
    input_ = await read_object(call.request, limit_mb=call.gateway.settings.server.max_body_mb)
    validate(endpoint, input_)
    request = replace(await admit(call, endpoint, input_), input=None)
    del input_  # it may hold megabytes, and the wait may be long
    let_go(call.request)
    completed = await completed_or_gone(call, request)
    stored = call.gateway.store.result(request.request_id)
    if stored is None:
        raise UnknownRequest
    return queue.answer(call, completed, stored)


async def completed_or_gone(call: Call, request: Request) -> Request:
    """Wait for `request`. When the client hangs up, `ClientDisconnected`; the request is cancelled then, unless it has
    an Idempotency-Key, with which the client may come back for it. `RequestTimeout` past the caller's start deadline.
    """
    waiting = asyncio.create_task(_completed(call.gateway, request.request_id, start_deadline(call)))
    listening = asyncio.create_task(_disconnected(call.request))
    try:
        await asyncio.wait({waiting, listening}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if not comes_back(call.request.headers):
            await asyncio.shield(call.gateway.store.cancel(request.request_id))
        raise ClientDisconnected
    finally:
        waiting.cancel()
        listening.cancel()
        await asyncio.gather(waiting, listening, return_exceptions=True)


async def _completed(gateway: Gateway, request_id: str, deadline: float | None) -> Request:
    store = gateway.store
    while True:
        since = store.version(request_id)
        request = store.get(request_id)
        if request is None:
            raise UnknownRequest
        await check_key(store, request)
        if request.status is Status.COMPLETED:
            return request
        await check_storable(gateway, request)
        timeout = min(RECHECK, KEY_CHECK_SECONDS)
        if deadline is not None and request.status is Status.IN_QUEUE:
            timeout = min(timeout, deadline + OVERDUE - time.monotonic())
            if timeout <= 0:
                await end_overdue(store, request_id)
                timeout = OVERDUE
        await store.changed(request_id, since=since, timeout=timeout)


async def check_storable(gateway: Gateway, request: Request) -> None:
    """End the wait for a request whose result has no room on the disk. Raises `ServiceUnavailable`; it is cancelled."""
    reason = gateway.unwell
    retried = request.status is Status.IN_QUEUE and request.attempt > 0
    if reason and (retried or gateway.store.full or gateway.space.exhausted):
        with contextlib.suppress(StoreError):
            await gateway.store.cancel(request.request_id)
        raise ServiceUnavailable(f"The result cannot be stored: {reason}.")


def start_deadline(call: Call) -> float | None:
    """Until when the caller waits for the start, by the monotonic clock. The stored request may have another deadline,
    or none: the first call of its Idempotency-Key set that one.
    """
    seconds = start_timeout(call.request.headers)
    return None if seconds is None else time.monotonic() + seconds


async def end_overdue(store: Store, request_id: str) -> None:
    """The caller's deadline is over: sweep at once what missed its start, which is otherwise done every second. Raises
    `RequestTimeout` for a request that waits on, because its own deadline is another one.
    """
    await store.sweep()
    request = store.get(request_id)
    if request is not None and request.status is Status.IN_QUEUE:
        raise RequestTimeout


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
