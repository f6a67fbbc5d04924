"""The queue: submit, status and its stream, result, cancel (reference, protocol section 3).

In: `POST /{endpoint}`, `GET|PUT /{app}/requests/{id}[/status|/status/stream|/response|/cancel]`. Out: fal's bodies,
field by field in the order of the real service. Status is asked ten times a second by every waiting Python client, so
it is one read, a dict and one encoding: no validation, no write. A request of another key, or under another app, does
not exist.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import Response

from impasto.api.admission import admit, resolve
from impasto.api.auth import KEY_CHECK_SECONDS, key_is_live
from impasto.api.bodies import Json, read_object
from impasto.api.gateway import Call
from impasto.api.roles import app_of
from impasto.api.sse import PING, PING_SECONDS, EventStream, event
from impasto.endpoints.base import split_id
from impasto.errors import RequestTimeout, StillInProgress, UnknownRequest
from impasto.files.images import data_uri
from impasto.files.urls import moved
from impasto.store.records import CancelResult, LogLine, Outcome, Request, Result, Status
from impasto.webhooks.payload import gateway_request_id

PREVIEWS = "x-impasto-previews"  # on a submit: somebody will watch; then `previews=1` on the status stream shows them
LOOK_SECONDS = 0.2  # between looks at a watched request's steps, which are not in the store
_ON = frozenset({"1", "true", "yes", "on"})
_CANCEL_STATUS = {
    CancelResult.CANCELLATION_REQUESTED: 202,
    CancelResult.ALREADY_COMPLETED: 400,
    CancelResult.NOT_FOUND: 404,
}


async def submit(call: Call) -> Response:
    """200 at once, whatever the input says: validation happens when the request is run."""
    endpoint = resolve(call.address.path, call.gateway.endpoints)
    input_ = await read_object(call.request, limit_mb=call.gateway.settings.server.max_body_mb)
    previews = call.request.headers.get(PREVIEWS, "").lower() in _ON
    request = await admit(call, endpoint, input_, waits=True, previews=previews)
    waiting = request.status is Status.IN_QUEUE
    return Json(
        {
            "status": Status.IN_QUEUE.value,
            "request_id": request.request_id,
            **({} if request.webhook_url is None else {"gateway_request_id": gateway_request_id(request)}),
            **_urls(call, request),
            "logs": None,
            "metrics": {},
            "queue_position": await call.gateway.store.position(request) if waiting else 0,
        }
    )


async def status(call: Call) -> Response:
    """202 until the request is completed, then 200; one of fal's packages looks at nothing else."""
    request = own(call)
    logs = None
    if _with_logs(call) and request.status is not Status.IN_QUEUE:
        logs = call.gateway.store.logs(request.request_id)
    return Json(await _status(call, request, logs), status_code=200 if request.status is Status.COMPLETED else 202)


async def status_stream(call: Call) -> Response:
    """The status as events: now, at every change, until it is COMPLETED. Logs are only those that no event told yet.

    Ours, not fal's: with `previews=1` an event of a running request also tells `progress` (0 to 1) and `images`.
    """
    return EventStream(_statuses(call, own(call).request_id))


async def _statuses(call: Call, request_id: str) -> AsyncIterator[bytes]:
    store, told, last, quiet = call.gateway.store, 0, b"", 0.0
    watched = call.request.query_params.get("previews", "").lower() in _ON
    while True:
        since = store.version(request_id)
        request = store.get(request_id)
        # Past its retention, or the key was revoked since.
        if request is None or not key_is_live(store, request.key_id):
            return
        logs = None
        if _with_logs(call) and request.status is not Status.IN_QUEUE:
            logs = store.logs(request_id, after=told)
            told += len(logs)
        body = await _status(call, request, logs)
        if watched and request.status is Status.IN_PROGRESS:
            body |= progress_of(call, request)
        now = event(body)
        if now != last or logs:
            yield now
            quiet = 0.0
        last = now
        if request.status is Status.COMPLETED:
            return
        patience = LOOK_SECONDS if watched and request.status is Status.IN_PROGRESS else KEY_CHECK_SECONDS
        if await store.changed(request_id, since=since, timeout=patience) == since:
            quiet += patience
        if quiet >= PING_SECONDS:
            yield PING
            quiet = 0.0


def _with_logs(call: Call) -> bool:
    return call.request.query_params.get("logs", "").lower() in _ON


async def _status(call: Call, request: Request, logs: Sequence[LogLine] | None) -> dict[str, Any]:
    """The status object, in the order of the real service."""
    body: dict[str, Any] = {"status": request.status.value, "request_id": request.request_id, **_urls(call, request)}
    if request.status is Status.IN_QUEUE:
        body["queue_position"] = await call.gateway.store.position(request)
        body["logs"] = None
        body["metrics"] = {}
        return body
    body["logs"] = None if logs is None else [log_line(line) for line in logs]
    done = request.status is Status.COMPLETED
    timed = done and request.inference_time is not None
    body["metrics"] = {"inference_time": request.inference_time} if timed else {}
    if done and request.outcome is not Outcome.OK:
        body["error"] = request.error or f"Invalid status code: {request.http_status}"
        body["error_type"] = request.error_type or "internal_error"
    return body


async def result(call: Call) -> Response:
    """The model's own status and body; 400 while there is none."""
    request = own(call)
    if request.status is not Status.COMPLETED:
        raise StillInProgress
    stored = call.gateway.store.result(request.request_id)
    if stored is None:  # past its retention
        raise UnknownRequest
    return answer(call, request, stored)


async def cancel(call: Call) -> Response:
    """A queued request leaves the queue; a running one is told to stop and may still complete."""
    return await end_early(call, own(call))


async def end_early(call: Call, request: Request) -> Response:
    """The answer to who wants a request cancelled that is theirs to cancel."""
    word = await call.gateway.store.cancel(request.request_id)
    return Json({"status": word.value}, status_code=_CANCEL_STATUS[word])


def progress_of(call: Call, request: Request) -> dict[str, Any]:
    """How far a request is, 0 to 1, and previews of its pictures: small, never stored."""
    fleet = call.gateway.dispatcher
    step = fleet.progress(request.request_id)
    return {
        "progress": 0.0 if step is None else round(step.share, 4),
        "images": [
            {
                "url": data_uri(preview.jpeg, "image/jpeg"),
                "width": preview.width,
                "height": preview.height,
                "content_type": "image/jpeg",
            }
            for preview in fleet.previews(request.request_id)
        ],
    }


def shown_payload(call: Call, request: Request, stored: Result) -> Any:
    """The stored output with the URLs of its files as the asking client reaches them; an error as it is."""
    if stored.http_status >= 400:
        return stored.payload
    return moved(stored.payload, before=request.base_url, after=call.address.file_base)


def answer(call: Call, request: Request, stored: Result) -> Response:
    """A stored result as the HTTP answer of the sync run and of the queue alike."""
    return Json(
        shown_payload(call, request, stored), status_code=stored.http_status, headers=headers_of(request, stored)
    )


def headers_of(request: Request, stored: Result) -> dict[str, str]:
    """The headers of a stored result's answer."""
    headers = dict(stored.headers)
    if stored.http_status >= 400:
        present = {name.lower() for name in headers}
        for name, value in _error_headers(request, stored).items():
            if name.lower() not in present:
                headers[name] = value
    return headers


def _error_headers(request: Request, stored: Result) -> dict[str, str]:
    """What clients read from an error's headers, for results that were stored without them."""
    payload = stored.payload if isinstance(stored.payload, dict) else {}
    if isinstance(payload.get("detail"), list):
        return {"X-Fal-Retryable": "false"}
    headers = {"X-Fal-Error-Type": request.error_type or "internal_error"}
    if request.error_type == RequestTimeout.error_type:
        headers["X-Fal-Request-Timeout-Type"] = "user"
    return headers


def own(call: Call) -> Request:
    """The request that the path names. Raises `UnknownRequest` unless it is the caller's and of that app."""
    parameters = call.request.path_params
    request = call.gateway.store.get(parameters["request_id"])
    if (
        request is None
        or call.caller is None
        or request.key_id != call.caller.key_id
        or split_id(request.endpoint)[0] != app_of(parameters["endpoint"])
    ):
        raise UnknownRequest
    call.request_id = request.request_id
    return request


def _urls(call: Call, request: Request) -> dict[str, str]:
    """App only, no suffix, no slash at the end: Python uses them verbatim, HF appends `/status` to the first."""
    base = f"{call.address.queue_base}/{split_id(request.endpoint)[0]}/requests/{request.request_id}"
    return {"response_url": base, "status_url": base + "/status", "cancel_url": base + "/cancel"}


def log_line(line: LogLine) -> dict[str, Any]:
    """One line as the wire shows it."""
    return {
        "timestamp": line.timestamp,
        "message": line.message,
        "level": line.level,
        "source": line.source,
        "labels": line.labels,
    }
