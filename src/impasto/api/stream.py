"""`POST /{endpoint}/stream`: the sync run, told while it happens (reference, protocol section 6.1).

What is wrong before the first picture is an ordinary status; after it, an event with the error's body, since the 200 is
out. Progress events have the output's shape with previews as pictures; the last event is the model's own output.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import anyio
from starlette.responses import Response

from impasto.api.admission import admit, comes_back, resolve
from impasto.api.auth import KEY_CHECK_SECONDS, check_key
from impasto.api.bodies import let_go, read_object
from impasto.api.gateway import Call
from impasto.api.problems import STOPPING
from impasto.api.queue import progress_of, shown_payload
from impasto.api.run import OVERDUE, check_storable, end_overdue, start_deadline
from impasto.api.sse import PING, PING_SECONDS, EventStream, event
from impasto.endpoints.validation import validate
from impasto.errors import RequestError, ServiceUnavailable
from impasto.store.records import Request, Status


async def stream(call: Call) -> Response:
    """Validated as the sync run is. When the client hangs up, the request is cancelled."""
    endpoint = resolve(call.address.path.removesuffix("/stream"), call.gateway.endpoints)
    input_ = await read_object(call.request, limit_mb=call.gateway.settings.server.max_body_mb)
    validate(endpoint, input_)
    request = replace(await admit(call, endpoint, input_, previews=True), input=None)
    let_go(call.request)
    call.request.scope["impasto.last_words"].append(event(ServiceUnavailable(STOPPING).body()))
    return EventStream(_events(call, request))


async def _events(call: Call, request: Request) -> AsyncIterator[bytes]:
    told: dict[str, Any] | None = None
    try:
        async with aclosing(follow(call, request)) as changes:
            async for now in changes:
                if now is None:
                    yield PING
                elif now.status is Status.COMPLETED:
                    stored = call.gateway.store.result(now.request_id)
                    if stored is not None:
                        yield event(shown_payload(call, now, stored))
                elif (progress := _progress(call, now)) != told:
                    told = progress
                    yield event(progress)
    except RequestError as error:
        yield event(error.body())


async def follow(call: Call, request: Request) -> AsyncGenerator[Request | None]:
    """`request` now and at every change, last when it is completed; None where nothing happened for `PING_SECONDS`.

    Left before its end, because the client hung up, it cancels the request. Raises `ServiceUnavailable` on a
    full disk, `RequestTimeout` past the caller's
    own start deadline.
    """
    store, request_id = call.gateway.store, request.request_id
    deadline = start_deadline(call)
    ended, quiet_since = False, time.monotonic()
    try:
        while True:
            since = store.version(request_id)
            now = store.get(request_id)
            ended = now is None or now.status is Status.COMPLETED
            if now is not None:
                await check_key(store, now)
                yield now
            if now is None or ended:
                return
            await check_storable(call.gateway, now)
            timeout = KEY_CHECK_SECONDS
            if deadline is not None and now.status is Status.IN_QUEUE:
                timeout = min(timeout, deadline + OVERDUE - time.monotonic())
                if timeout <= 0:
                    await end_overdue(store, request_id)
                    timeout = OVERDUE
            if await store.changed(request_id, since=since, timeout=timeout) != since:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= PING_SECONDS:
                quiet_since = time.monotonic()
                yield None
    finally:
        if not ended and not comes_back(call.request.headers):
            with anyio.CancelScope(shield=True):
                await store.cancel(request_id)


def _progress(call: Call, request: Request) -> dict[str, Any]:
    """The output's shape, with previews as pictures."""
    return {
        "status": request.status.value,
        "request_id": request.request_id,
        **progress_of(call, request),
        "seed": request.seed,
    }
