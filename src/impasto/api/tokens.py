"""`POST /tokens/`, `POST /tokens/realtime`: a short-lived token for a page that must not hold the key.

In: `allowed_apps` with `token_expiration` (clients: aliases) or with `duration` (docs: whole ids), seconds.
Out: the token as a bare JSON string.
"""

from typing import Any

from starlette.responses import Response

from impasto.api.auth import EVERYBODY
from impasto.api.bodies import Json, read_object
from impasto.api.gateway import Call
from impasto.api.token_claims import issue
from impasto.errors import ModelError

SECONDS = 120  # what the clients ask for, and what a request that says nothing gets
MAX_APPS = 64
MAX_NAME = 255  # characters


async def create(call: Call) -> Response:
    """200 and the token; 422 naming the field. An app that does not exist makes a token that opens nothing."""
    body = await read_object(call.request, limit_mb=1)
    settings = call.gateway.settings.auth
    token = issue(
        key_id=(call.caller or EVERYBODY).key_id,
        apps=_apps(body),
        seconds=_seconds(body, settings.token_seconds),
        secret=call.gateway.secret,
    )
    return Json(token)


def _apps(body: dict[str, Any]) -> list[str]:
    given = body.get("allowed_apps")
    if given is None:
        raise ModelError.at("allowed_apps", "Field required: the apps that the token opens", "missing")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_APPS:
        raise ModelError.at("allowed_apps", f"A list of 1 to {MAX_APPS} app names", "list_type")
    for name in given:
        if not isinstance(name, str) or not 0 < len(name.strip("/")) <= MAX_NAME:
            raise ModelError.at("allowed_apps", f"An app name is text of 1 to {MAX_NAME} characters", "string_type")
    return given


def _seconds(body: dict[str, Any], longest: int) -> int:
    for field in ("token_expiration", "duration"):
        seconds = body.get(field)
        if seconds is None:
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != int(seconds):
            raise ModelError.at(field, "A whole number of seconds", "int_type")
        if seconds < 1:
            raise ModelError.at(field, "Input should be greater than or equal to 1", "greater_than_equal", ge=1)
        if seconds > longest:
            text = f"Input should be less than or equal to {longest} (setting auth.token_seconds)"
            raise ModelError.at(field, text, "less_than_equal", le=longest)
        return int(seconds)
    return min(SECONDS, longest)
