"""The door of the platform API: `gateway.Door` with this API's error shape and its ADMIN scope."""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from impasto.api.auth import EVERYBODY, Caller
from impasto.api.bodies import Json
from impasto.api.gateway import Call, Door
from impasto.errors import Forbidden, NotFound, WireError

DOCS = "https://docs.fal.ai/platform-apis"
TYPES = {401: "authorization_error", 403: "authorization_error", 404: "not_found", 429: "rate_limited"}


@dataclass(frozen=True, slots=True)
class PlatformDoor:
    door: Door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["impasto.shape"][0] = problem
        await self.door(scope, receive, send)

    @property
    def handlers(self) -> Mapping[str, object]:
        return self.door.handlers


def problem(error: WireError, request_id: str) -> Response:
    """`error` as this API words it."""
    kind = TYPES.get(error.status, "validation_error" if error.status < 500 else "server_error")
    body = {"type": kind, "message": error.message, "docs_url": DOCS, "request_id": request_id}
    headers = {name: value for name, value in error.headers().items() if name == "Allow"}
    return Json({"error": body}, status_code=error.status, headers=headers)


def caller(call: Call) -> Caller:
    return call.caller or EVERYBODY


def admin(call: Call) -> Caller:
    """The caller, who may manage the server. Raises `Forbidden`."""
    found = caller(call)
    if not found.admin:
        raise Forbidden("This needs a key of the scope ADMIN: `impasto keys create NAME --scope ADMIN`.")
    return found


def whose(call: Call) -> str | None:
    """The key id whose requests the caller may see; None: of all."""
    found = caller(call)
    return None if found.admin else found.key_id


async def unknown(call: Call) -> Response:
    raise NotFound(f"The platform API has no {call.address.path}; docs/platform-api.md lists what is served.")
