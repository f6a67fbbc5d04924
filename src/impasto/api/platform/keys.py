"""`/v1/keys`: list, create, delete API keys. ADMIN only; the secret is shown once, in the answer that makes it."""

import math

from starlette.responses import Response

from impasto.api.auth import SCOPES
from impasto.api.bodies import Json, read_object
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.api.platform.door import admin
from impasto.errors import BadRequest, NotFound
from impasto.store.records import Key

MAX_ALIAS = 255  # characters


async def list_keys(call: Call) -> Response:
    """The live ones, oldest first. fal's `expand=creator_info` is taken; keys here have no creator."""
    admin(call)
    query = call.request.query_params
    q.expands(query, ("creator_info",))
    size, after = q.limit(query), _place(q.cursor(query))
    live = [key for key in call.gateway.store.keys() if key.revoked_at is None]  # noqa: SIM118 - no mapping
    rows = [key for key in live if (key.created_at, key.key_id) > after]  # the last page's keys may be gone
    next_ = f"{rows[size - 1].created_at!r} {rows[size - 1].key_id}" if len(rows) > size else None
    return Json(q.page("keys", [_key(key) for key in rows[:size]], next_=next_))


async def create_key(call: Call) -> Response:
    """`alias`, and beyond fal's `scope`: API (default) or ADMIN."""
    admin(call)
    body = await read_object(call.request, limit_mb=1)
    alias, scope = body.get("alias"), body.get("scope", "API")
    if not isinstance(alias, str) or not 1 <= len(alias) <= MAX_ALIAS:
        raise BadRequest(f"alias is text of 1 to {MAX_ALIAS} characters.")
    if scope not in SCOPES:
        raise BadRequest(f"scope is one of {', '.join(SCOPES)}.")
    record, key = await call.gateway.store.create_key(alias=alias, scopes=[scope])
    secret = key.partition(":")[2]
    return Json({"key_id": record.key_id, "key_secret": secret, "key": key}, status_code=201)


async def delete_key(call: Call) -> Response:
    """204; the key stops working at once, its requests stay."""
    admin(call)
    if not await call.gateway.store.revoke_key(call.request.path_params["key_id"]):
        raise NotFound("There is no live key of that id.")
    return Response(status_code=204)


def _place(cursor: str | None) -> tuple[float, str]:
    """Creation and id of the key that ended the last page."""
    if cursor is None:
        return -math.inf, ""
    created_at, _, key_id = cursor.partition(" ")
    try:
        return float(created_at), key_id
    except ValueError:
        raise q.foreign_cursor() from None


def _key(key: Key) -> dict[str, str]:
    return {
        "key_id": key.key_id,
        "alias": key.alias,
        "scope": "ADMIN" if "ADMIN" in key.scopes else "API",
        "created_at": q.shown(key.created_at),
    }
