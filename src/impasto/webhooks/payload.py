"""A request that ended → the bytes of its webhook. The same bytes at every attempt, save for the URLs of
files when the server got another public URL meanwhile.
"""

from typing import Any
from uuid import UUID, uuid5

import msgspec

from impasto.files.urls import moved
from impasto.store.records import Outcome, Request, Result

MIB = 1024 * 1024


def body_of(request: Request, result: Result, *, max_bytes: int, base_url: str | None = None) -> bytes:
    """The JSON body, in fal's shape and order. A payload that is too large or no JSON is null, with a payload_error.

    `base_url`: of the URLs of files; None: as when the result was stored.
    """
    head: dict[str, Any] = {
        "request_id": request.request_id,
        "gateway_request_id": gateway_request_id(request),
        "status": "OK" if request.outcome is Outcome.OK else "ERROR",
    }
    if request.outcome is not Outcome.OK:
        head["error"] = f"Invalid status code: {result.http_status}"
    try:
        payload = result.payload
        if request.outcome is Outcome.OK:
            payload = moved(payload, before=request.base_url, after=base_url or request.base_url)
        body = msgspec.json.encode(head | {"payload": payload})
    except (UnicodeEncodeError, msgspec.MsgspecError, TypeError, OverflowError) as error:
        return msgspec.json.encode(head | {"payload": None, "payload_error": f"The payload is no valid JSON: {error}"})
    if len(body) <= max_bytes:
        return body
    reason = (
        f"The payload is too large for a webhook ({len(body) / MIB:.3g} MiB, at most {max_bytes / MIB:.3g}); "
        f"fetch the result of {request.request_id} from the queue."
    )
    return msgspec.json.encode(head | {"payload": None, "payload_error": reason})


def gateway_request_id(request: Request) -> str:
    """The id of the last attempt: the request's own for the first one; any other has one that follows from it."""
    if request.attempt <= 1:
        return request.request_id
    try:
        return str(uuid5(UUID(request.request_id), str(request.attempt)))
    except ValueError:  # an id that is no UUID
        return request.request_id
