"""`/v1/webhooks`, ours and not fal's: the deliveries of all webhooks in one list, and one of them sent again.

A key sees those of its own requests, an ADMIN key all. The log of one delivery: `/{app}/requests/{id}/webhook`, or
`expand=webhook` of `/v1/requests`.
"""

from typing import Any

from starlette.responses import Response

from impasto.api import webhooks
from impasto.api.bodies import Json
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.api.platform.door import whose
from impasto.api.platform.requests import own
from impasto.errors import BadRequest, NotFound
from impasto.store.base import Store
from impasto.store.records import DeliveryRow, DeliveryState

STATES = tuple(state.value for state in DeliveryState)


async def listed(call: Call) -> Response:
    """Newest first; `state`: DUE, DELIVERED or DEAD."""
    query = call.request.query_params
    state = q.choice(query, "state", STATES)
    size = q.limit(query)
    found = await call.gateway.reading.run(
        call.gateway.store.deliveries,
        key_id=whose(call),
        state=None if state is None else DeliveryState(state),
        before=q.place(query),
        limit=size + 1,
    )
    next_ = str(found[size - 1].seq) if len(found) > size else None
    return Json(q.page("deliveries", [_row(row, call.gateway.store) for row in found[:size]], next_=next_))


async def redeliver(call: Call) -> Response:
    """Send it again, now, whatever became of it. 202."""
    request = own(call, call.request.path_params["request_id"])
    if request is None or request.webhook_url is None:
        raise NotFound("No request of this caller has that id and a webhook.")
    store = call.gateway.store
    if not await store.redeliver(request.request_id):
        raise BadRequest("The request is still in progress; its webhook is sent when it ends.")
    call.request_id = request.request_id
    return Json(webhooks.shown(request, store.delivery(request.request_id), store), status_code=202)


def _row(row: DeliveryRow, store: Store) -> dict[str, Any]:
    delivery = row.delivery
    return {
        "request_id": delivery.request_id,
        "endpoint_id": row.endpoint,
        "url": delivery.url,
        "state": delivery.state.value,
        "attempts": delivery.attempt,
        "next_try": webhooks.next_try(delivery, store),
        "created_at": q.shown(delivery.created_at),
        "last": None if row.last is None else webhooks.attempted(row.last),
    }
