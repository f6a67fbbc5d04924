"""`/v1/account/billing` and `/v1/meta`: what fal says of an account, as far as there is one here."""

from starlette.responses import Response

from impasto import __version__
from impasto.api.bodies import Json
from impasto.api.gateway import Call
from impasto.api.platform import query as q
from impasto.api.platform.door import admin


async def billing(call: Call) -> Response:
    """Nobody prepays here: the balance is 0, and no request is ever refused for it."""
    found = admin(call)
    expand = q.expands(call.request.query_params, ("credits",))
    names = {key.key_id: key.alias for key in call.gateway.store.keys()}  # noqa: SIM118 - a store is no mapping
    body: dict[str, object] = {"username": names.get(found.key_id, "local")}
    if "credits" in expand:
        body["credits"] = {"current_balance": 0.0, "currency": call.gateway.settings.platform.currency}
    return Json(body)


async def meta(call: Call) -> Response:
    """The addresses that webhooks come from are the operator's network's business: none are known here."""
    return Json({"webhook_ip_ranges": [], "impasto": {"version": __version__}})
