"""Webhooks, as callers and receivers see them: the delivery log, asking for another delivery, the signing keys.

In: `GET /{app}/requests/{id}/webhook`, `POST …/webhook/redeliver`, `GET /.well-known/jwks.json`. The first two are
ours, fal has them in its dashboard only; another key's request does not exist, as everywhere.
"""

import time
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from impasto.api.bodies import Json
from impasto.api.gateway import Call
from impasto.api.queue import own
from impasto.errors import NotFound, StillInProgress
from impasto.store.base import Store
from impasto.store.records import Delivery, DeliveryAttempt, DeliveryState, Request
from impasto.webhooks.signature import jwks as key_set

KEYS_SECONDS = 3600  # that anybody may keep the key set; a new key is published for days before it signs


async def jwks(call: Call) -> Response:
    """The public keys, those to come and those of yesterday included."""
    keys = call.gateway.store.signing_keys()
    return Json(
        key_set((key.kid, key.public) for key in keys),
        headers={"Cache-Control": f"public, max-age={KEYS_SECONDS}"},
    )


async def delivery_log(call: Call) -> Response:
    """Where the request's webhook stands, and what became of every try (the last hundred)."""
    request = _with_webhook(call)
    return Json(shown(request, call.gateway.store.delivery(request.request_id), call.gateway.store))


async def redeliver(call: Call) -> Response:
    """Send the webhook again, now, whatever became of it. 400 while the request is not completed."""
    request = _with_webhook(call)
    if not await call.gateway.store.redeliver(request.request_id):
        raise StillInProgress
    return Json(shown(request, call.gateway.store.delivery(request.request_id), call.gateway.store), status_code=202)


def _with_webhook(call: Call) -> Request:
    request = own(call)
    if request.webhook_url is None:
        raise NotFound("This request was submitted without fal_webhook.")
    return request


def shown(request: Request, found: tuple[Delivery, list[DeliveryAttempt]] | None, store: Store) -> dict[str, Any]:
    """Where the webhook of `request` stands, `found` being what the store says of it."""
    delivery, attempts = found or (None, [])
    return {
        "request_id": request.request_id,
        "url": request.webhook_url,
        "state": "WAITING" if delivery is None else delivery.state.value,
        "next_try": next_try(delivery, store),
        "attempts": [attempted(attempt) for attempt in attempts],
    }


def next_try(delivery: Delivery | None, store: Store) -> str | None:
    """Return when it is sent next, by the machine's clock. None: there is no next try, or it is under way."""
    if delivery is None or delivery.state is not DeliveryState.DUE or delivery.claimed_until is not None:
        return None
    set_by = time.time() - store.steady()  # seconds that the machine's clock was set since the start
    return _time(delivery.next_at + (set_by if abs(set_by) >= 1 else 0.0))


def attempted(attempt: DeliveryAttempt) -> dict[str, Any]:
    """One line of the delivery log."""
    return {
        "number": attempt.number,
        "at": _time(attempt.at),
        "http_status": attempt.http_status,
        "error": attempt.error,
        "seconds": round(attempt.seconds, 3),
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
