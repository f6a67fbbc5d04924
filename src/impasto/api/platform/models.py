"""`GET /v1/models`: the endpoint table, page by page, and what draws each of them now."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response

from impasto.api.auth import Access, identify
from impasto.api.bases import ROOM, bases_of, fill
from impasto.api.gateway import Call, Gateway
from impasto.api.openapi import queue_document
from impasto.api.platform import query as q
from impasto.api.platform.installed import licence_of
from impasto.endpoints.base import Endpoint
from impasto.engine.senses import Lack

STATUSES = ("active", "deprecated")
EXPANDS = ("openapi-3.0",)
CATALOGUE_PAGE = 40  # as at fal
WAITING = "No runner that is ready has a model for this endpoint; requests wait in the queue."


async def models(call: Call) -> Response:
    """Filters: endpoint_id (up to 50), q, category, status. Unknown ids are left out, as fal does."""
    query = call.request.query_params
    ids = frozenset(q.endpoint_ids(query))
    words = q.words(query, "q")
    category = query.get("category")
    status = q.choice(query, "status", STATUSES)
    openapi = "openapi-3.0" in q.expands(query, EXPANDS)
    endpoints = [
        endpoint
        for endpoint in call.gateway.endpoints.values()
        if (not ids or endpoint.id in ids)
        and q.has_words(endpoint, words)
        and category in (None, endpoint.category)
        and status in (None, "active")
    ]
    rows, next_ = q.slice_page(query, endpoints)
    gateway, bases = call.gateway, bases_of(call.address)
    documents, serving = gateway.documents, gateway.dispatcher.serving
    standings = documents.part(("standings", serving), lambda: _standings(gateway))

    def row(endpoint: Endpoint) -> msgspec.Raw:
        made = _model(gateway, endpoint, standings[endpoint.id], openapi=openapi)
        return msgspec.Raw(msgspec.json.encode(made))

    def build() -> bytes:
        found = [documents.part(("model", each.id, openapi, serving), partial(row, each)) for each in rows]
        return fill(msgspec.json.encode(q.page("models", found, next_=next_)), bases)

    key = ("models", tuple(endpoint.id for endpoint in rows), next_, openapi, serving, bases)
    return await documents.answer(call.request, key, build)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the fleet says of one endpoint."""

    served_by: str | None
    lack: Lack | None
    residency: str | None


def _standings(gateway: Gateway) -> dict[str, _Standing]:
    """By endpoint id. Asks the fleet: for the event loop."""
    fleet = gateway.dispatcher
    found: dict[str, _Standing] = {}
    for id_, endpoint in gateway.endpoints.items():
        served_by = fleet.served_by(endpoint)
        residency = next((runner.residency for runner in fleet.runners if served_by in runner.models), None)
        found[id_] = _Standing(served_by, fleet.lack(endpoint), residency)
    return found


def _model(gateway: Gateway, endpoint: Endpoint, standing: _Standing, *, openapi: bool) -> dict[str, Any]:
    """fal's fields as far as they mean something here; `impasto` says which model is asked, and what
    draws it now under which licence. URLs have `ROOM` for their bases.
    """
    served_by = standing.served_by
    row: dict[str, Any] = {
        "endpoint_id": endpoint.id,
        "metadata": {
            "display_name": endpoint.title,
            "category": endpoint.category,
            "description": endpoint.description,
            "status": "active",
            "tags": [],
            "updated_at": q.shown(gateway.started_at),
            "model_url": f"{ROOM.run}/{endpoint.id}",
        },
        "impasto": {
            "model": endpoint.model,
            "served_by": served_by,
            "availability": _availability(served_by, standing.lack),
            "licence": served_by and licence_of(gateway.settings.models_folder, served_by),
            "residency": standing.residency,
        },
    }
    if openapi:
        row["openapi"] = queue_document(endpoint)
    return row


async def catalogue(call: Call) -> Response:
    """`GET fal.ai/api/models`, the list behind fal's own pages, which scripts read and check their key with.

    Filters: `keywords`, `categories` (repeated); `page` from 1. No key is needed, but one that is sent has to be valid.
    """
    if call.request.headers.get("authorization"):
        identify(call.request.headers, store=call.gateway.store, settings=call.gateway.settings, access=Access.REST)
    query = call.request.query_params
    words = q.words(query, "keywords") + q.words(query, "q")
    categories = frozenset(query.getlist("categories"))
    number = q.number(query, "page", default=1, most=1_000_000)
    size = max(q.number(query, "limit", default=CATALOGUE_PAGE, most=1000), 1)
    found = [
        endpoint
        for endpoint in call.gateway.endpoints.values()
        if q.has_words(endpoint, words) and (not categories or endpoint.category in categories)
    ]
    rows = found[(number - 1) * size : number * size] if number else []
    gateway, bases = call.gateway, bases_of(call.address)

    def build() -> bytes:
        body = {
            "items": [_item(endpoint, at=q.shown(gateway.started_at)) for endpoint in rows],
            "total": len(found),
            "page": number,
            "size": size,
            "pages": -(-len(found) // size),
        }
        return fill(msgspec.json.encode(body), bases)

    key = ("catalogue", tuple(endpoint.id for endpoint in rows), len(found), number, size, bases)
    return await gateway.documents.answer(call.request, key, build)


def _item(endpoint: Endpoint, *, at: str) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "title": endpoint.title,
        "category": endpoint.category,
        "tags": [],
        "shortDescription": endpoint.description,
        "thumbnailUrl": "",
        "modelUrl": f"{ROOM.run}/{endpoint.id}",
        "streamUrl": f"{ROOM.run}/{endpoint.id}/stream",
        "date": at,
        "status": "public",
        "deprecated": False,
        "unlisted": False,
    }


def _availability(served_by: str | None, lack: Lack | None) -> dict[str, Any]:
    """Whether a request can be drawn now; "unsupported": it is refused (422) until the operator runs `commands`."""
    if lack is not None:
        return {"status": "unsupported", "reason": lack.reason, "commands": list(lack.commands)}
    if served_by is None:
        return {"status": "waiting", "reason": WAITING, "commands": []}
    return {"status": "available", "reason": None, "commands": []}
