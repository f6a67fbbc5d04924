"""`/v1/models/pricing` and its estimate: what the operator configured, by default nothing."""

import time
from typing import Any, cast

from starlette.responses import Response

from impasto.api.auth import EVERYBODY
from impasto.api.bodies import Json, read_object
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.errors import BadRequest, NotFound

UNIT = "image"
KINDS = {"historical_api_price": "call_quantity", "unit_price": "unit_quantity"}
HISTORY_SECONDS = 7 * 24 * 3600
MOST = 1e12  # calls or pictures of one estimate


async def prices(call: Call) -> Response:
    """`endpoint_id` is needed, up to 50; an unknown one is 404."""
    query = call.request.query_params
    ids = q.endpoint_ids(query)
    if not ids:
        raise BadRequest("endpoint_id is missing: name 1 to 50 endpoints, e.g. endpoint_id=fal-ai/flux-pro.")
    for id_ in ids:
        _known(call, id_)
    rows, next_ = q.slice_page(query, list(dict.fromkeys(ids)))
    settings = call.gateway.settings.platform
    listed = [
        {"endpoint_id": id_, "unit_price": settings.price_of(id_), "unit": UNIT, "currency": settings.currency}
        for id_ in rows
    ]
    return Json(q.page("prices", listed, next_=next_))


async def estimate(call: Call) -> Response:
    """`unit_price`: pictures times price. `historical_api_price`: calls times the images that the key's own made."""
    body = await read_object(call.request, limit_mb=1)
    kind = body.get("estimate_type")
    asked = body.get("endpoints")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadRequest(f"estimate_type is one of {', '.join(KINDS)}.")
    if not isinstance(asked, dict) or not 1 <= len(asked) <= q.MAX_ENDPOINTS:
        raise BadRequest(
            f'endpoints is an object of 1 to {q.MAX_ENDPOINTS}: {{"fal-ai/flux-pro": {{"{KINDS[kind]}": 10}}}}.'
        )
    quantities = {id_: _quantity(id_, wish, KINDS[kind]) for id_, wish in cast("dict[str, Any]", asked).items()}
    pictures = await _pictures_a_call(call) if kind == "historical_api_price" else {}
    settings = call.gateway.settings.platform
    total = sum(
        quantity * pictures.get(_known(call, id_), 1.0) * settings.price_of(id_) for id_, quantity in quantities.items()
    )
    return Json({"estimate_type": kind, "total_cost": round(total, 6), "currency": settings.currency})


def _quantity(id_: str, wish: object, name: str) -> float:
    quantity = cast("dict[str, Any]", wish).get(name) if isinstance(wish, dict) else None
    if isinstance(quantity, bool) or not isinstance(quantity, int | float) or not 0 < quantity <= MOST:
        raise BadRequest(f"endpoints.{id_[:80]}.{name} is a number above 0.")
    return quantity


def _known(call: Call, id_: str) -> str:
    if id_ not in call.gateway.endpoints:
        raise NotFound(f"There is no endpoint {id_[:80]!r} here; GET /v1/models lists them.")
    return id_


async def _pictures_a_call(call: Call) -> dict[str, float]:
    """Return how many images a successful call of this caller's key made on average in the last week, by endpoint.
    Other keys' habits are their own: no key's estimate is made of them, an ADMIN key's neither.
    """
    now = time.time()
    key_id = (call.caller or EVERYBODY).key_id
    rows, _ = await call.gateway.store.usage(buckets=[now - HISTORY_SECONDS], until=now, key_id=key_id)
    counted: dict[str, tuple[int, int]] = {}
    for row in rows:
        pictures, calls = counted.get(row.endpoint, (0, 0))
        counted[row.endpoint] = (pictures + row.pictures, calls + row.successes)
    return {id_: pictures / calls for id_, (pictures, calls) in counted.items() if calls}
