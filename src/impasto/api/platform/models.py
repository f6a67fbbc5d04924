"""`GET /v1/models`: the endpoint table, page by page, and what draws each of them now."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from starlette.responses import Response

from impasto.api.bodies import Json, zipped
from impasto.api.gateway import Call
from impasto.api.openapi import queue_document
from impasto.api.platform import query as q
from impasto.api.platform.installed import licence_of
from impasto.endpoints.base import Endpoint
from impasto.engine.senses import Lack

Licence = Callable[[str], str | None]
STATUSES = ("active", "deprecated")
EXPANDS = ("openapi-3.0",)
WAITING = "No runner that is ready has a model for this endpoint; requests wait in the queue."


async def models(call: Call) -> Response:
    """Filters: endpoint_id (up to 50), q, category, status. Unknown ids are left out, as fal does."""
    query = call.request.query_params
    ids = q.endpoint_ids(query)
    words = query.get("q", "").lower().split()
    category = query.get("category")
    status = q.choice(query, "status", STATUSES)
    expand = q.expands(query, EXPANDS)
    endpoints = [
        endpoint
        for endpoint in call.gateway.endpoints.values()
        if (not ids or endpoint.id in ids)
        and all(word in f"{endpoint.id} {endpoint.title} {endpoint.description}".lower() for word in words)
        and category in (None, endpoint.category)
        and status in (None, "active")
    ]
    rows, next_ = q.slice_page(query, endpoints)
    # One page asks for few names again and again, each of which may be a file to read.
    licence = cache(partial(licence_of, call.gateway.settings.models_folder))
    found = [_model(call, row, licence, openapi="openapi-3.0" in expand) for row in rows]
    return zipped(call.request, Json(q.page("models", found, next_=next_)))


def _model(call: Call, endpoint: Endpoint, licence: Licence, *, openapi: bool) -> dict[str, Any]:
    """fal's fields as far as they mean something here; `impasto` says which model is asked, and what
    draws it now under which licence."""
    home, fleet = call.address.file_base, call.gateway.dispatcher
    served_by = fleet.served_by(endpoint)
    residency = next((runner.residency for runner in fleet.runners if served_by in runner.models), None)
    row: dict[str, Any] = {
        "endpoint_id": endpoint.id,
        "metadata": {
            "display_name": endpoint.title,
            "category": endpoint.category,
            "description": endpoint.description,
            "status": "active",
            "tags": [],
            "updated_at": q.shown(call.gateway.started_at),
            "model_url": f"{home}/{endpoint.id}",
        },
        "impasto": {
            "model": endpoint.model,
            "served_by": served_by,
            "availability": _availability(served_by, fleet.lack(endpoint)),
            "licence": served_by and licence(served_by),
            "residency": residency,
        },
    }
    if openapi:
        row["openapi"] = queue_document(endpoint, base=call.address.queue_door, home=home)
    return row


def _availability(served_by: str | None, lack: Lack | None) -> dict[str, Any]:
    """Whether a request can be drawn now; "unsupported": it is refused (422) until the operator runs `commands`."""
    if lack is not None:
        return {"status": "unsupported", "reason": lack.reason, "commands": list(lack.commands)}
    if served_by is None:
        return {"status": "waiting", "reason": WAITING, "commands": []}
    return {"status": "available", "reason": None, "commands": []}
