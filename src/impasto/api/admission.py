"""A call → a stored request. The sync run and the queue admit alike; only what they answer differs.

In: path, query, headers and JSON body of a POST. Out: a `Request` that is IN_QUEUE and durable. The input itself is not
validated here: in the queue a bad input is answered 422 at the result, as fal does.
"""

import math
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from impasto.api import lifecycle
from impasto.api.auth import EVERYBODY
from impasto.api.bodies import whole_number
from impasto.api.gateway import Call
from impasto.api.roles import Role, app_of, endpoint_id
from impasto.endpoints.base import Endpoint
from impasto.endpoints.fields import Seed
from impasto.endpoints.table import Endpoints
from impasto.errors import BadRequest, NotFound, PathNotFound, ServiceUnavailable
from impasto.files.fetch import FetchRefused, target
from impasto.settings import QueueSettings
from impasto.store.records import NewRequest, Request

PRIORITIES = {"normal": 0, "low": 1}
START_TIMEOUTS = ("X-Fal-Request-Start-Timeout", "X-Fal-Request-Timeout")  # the newer name counts where both come
MIN_START_TIMEOUT = 0.1  # seconds; the platform's floor
MAX_IDEMPOTENCY_KEY = 255  # characters
_SEED: TypeAdapter[int | None] = TypeAdapter(Seed)


def resolve(path: str, endpoints: Endpoints) -> Endpoint:
    """The endpoint that a path names. Raises `NotFound` with fal's words: unknown app, unknown path of a known one."""
    id_ = endpoint_id(path)
    if endpoint := endpoints.get(id_):
        return endpoint
    app = app_of(path)
    if app in endpoints.apps:
        raise PathNotFound(f"Path /{id_.removeprefix(app).lstrip('/')} not found")
    if "/" not in id_:
        raise NotFound(f"Path {path} not found")
    raise NotFound(f'Application "{app.rpartition("/")[2]}" not found')


async def admit(
    call: Call, endpoint: Endpoint, input_: dict[str, Any], *, waits: bool = False, previews: bool = False
) -> Request:
    """Store the request; a repeated Idempotency-Key gets the first one back. `waits`: in the queue, for its key's turn.

    Raises `ServiceUnavailable` (503) on a full disk;
    `BadRequest` for a header or query value that makes no sense; from the store `QueueFull` (429) past the
    caller's own `fal_max_queue_length` or its key's limits, `ModelError` (422) when an Idempotency-Key comes with
    another input.
    """
    store = call.gateway.store
    if reason := call.gateway.unwell:
        raise ServiceUnavailable(f"Nothing can be stored now: {reason}.")
    new = _limited(_new_request(call, endpoint, input_), call.gateway.settings.queue, waits=waits)
    if previews:
        call.gateway.dispatcher.want_previews(new.request_id, key_id=new.key_id)
    request = await store.submit(new)
    call.request_id = request.request_id
    return request


def _new_request(call: Call, endpoint: Endpoint, input_: dict[str, Any]) -> NewRequest:
    headers, query = call.request.headers, call.request.query_params
    return NewRequest(
        request_id=str(uuid4()),
        endpoint=endpoint.id,
        input=input_,
        seed=_seed(input_),
        base_url=call.address.file_base,
        key_id=(call.caller or EVERYBODY).key_id,
        priority=_priority(headers, query) if call.address.role is Role.QUEUE else 0,
        webhook_url=_webhook(query) if call.address.role is Role.QUEUE else None,
        no_retry=headers.get("x-fal-no-retry", "").lower() in {"1", "true", "yes"},
        store_io=headers.get("x-fal-store-io", "1").lower() not in {"0", "false", "no"},
        start_timeout=start_timeout(headers),
        idempotency_key=_idempotency_key(headers),
        max_attempts=call.gateway.settings.queue.max_attempts,
        lifecycle=lifecycle.of_request(headers),
        max_queue_length=_max_queue_length(query),
        names_files=endpoint.may_name_files(input_),
    )


def _limited(new: NewRequest, limits: QueueSettings, *, waits: bool) -> NewRequest:
    """What its key may have waiting, or open; nobody's requests, in the open mode, have no limit."""
    if not new.key_id:
        return new
    max_open = None if waits else limits.max_running or None
    return replace(new, max_queued=limits.max_queued or None, max_open=max_open)


def _seed(input_: dict[str, Any]) -> int:
    """The caller's seed as its field reads it ("42" and 42.0 are 42), else one below 2**32, which every client can echo
    (JavaScript is exact up to 2**53).
    """
    try:
        given = _SEED.validate_python(input_.get("seed"))
    except ValidationError:
        given = None
    return secrets.randbelow(2**32) if given is None else given


def start_timeout(headers: Mapping[str, str]) -> float | None:
    """Seconds the caller is ready to wait for the start: X-Fal-Request-Start-Timeout, else its older name."""
    name = next((name for name in START_TIMEOUTS if name.lower() in headers), None)
    if name is None:
        return None
    text = headers[name.lower()]
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds <= 0:
        raise BadRequest(f"{name} is a positive number of seconds, not {text!r}.")
    return max(seconds, MIN_START_TIMEOUT)


def _priority(headers: Mapping[str, str], query: Mapping[str, str]) -> int:
    """Of the header, which has to be a known word; else of the query, where what is unknown is ignored."""
    word = headers.get("x-fal-queue-priority")
    if not word:
        return PRIORITIES.get(query.get("priority", "").lower(), 0)
    if word.lower() not in PRIORITIES:
        raise BadRequest(f"X-Fal-Queue-Priority is one of {', '.join(PRIORITIES)}, not {word!r}.")
    return PRIORITIES[word.lower()]


def _webhook(query: Mapping[str, str]) -> str | None:
    """The URL, when it is one. Where it leads is not asked here: fal drops webhooks to private addresses, but takes the
    request. The deliverer does the same, and says so in the logs.
    """
    url = query.get("fal_webhook")
    if not url:
        return None
    try:
        target(url)
    except FetchRefused as error:
        raise BadRequest(f"fal_webhook is an absolute http or https URL. {error.message}") from None
    return url


def _max_queue_length(query: Mapping[str, str]) -> int | None:
    text = query.get("fal_max_queue_length")
    if text is None:
        return None
    length = whole_number(text)
    if length is None:
        raise BadRequest(f"fal_max_queue_length is a whole number, not {text[:80]!r}.")
    return length


def comes_back(headers: Mapping[str, str]) -> bool:
    """Whether a client that is cut off may call again for the same request."""
    return _idempotency_key(headers) is not None


def _idempotency_key(headers: Mapping[str, str]) -> str | None:
    key = headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        raise BadRequest(f"Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY} characters.")
    return key
