"""Browsers of any origin may call, as on fal: a preflight is answered here, every other answer gets the two headers."""

from uuid import uuid4

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = "GET, HEAD, POST, PUT, DELETE, OPTIONS"
EXPOSED = (
    "x-fal-request-id, x-fal-error-type, x-fal-retryable, x-fal-request-timeout-type, x-fal-billable-units, "
    "x-fal-needs-retry, x-request-id, x-impasto-warnings, etag, content-range, accept-ranges"
)
_ANSWER = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", EXPOSED.encode("ascii")),
]


class Cors:
    """ASGI. No credentials are allowed: a key travels in a header that the page itself has to know."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_ANSWER]
            await send(message)

        if scope["method"] == "OPTIONS":
            await _preflight(Headers(scope=scope))(scope, receive, send_allowed)
        else:
            await self.app(scope, receive, send_allowed)


def _preflight(headers: Headers) -> Response:
    """Everything that is asked for is allowed: the list of fal's headers is open-ended (x-fal-*, x-app-fal-*)."""
    asked = headers.get("access-control-request-headers", "authorization, content-type, accept")
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": asked,
            "Access-Control-Max-Age": "86400",
            "Allow": METHODS,
            "Vary": "Access-Control-Request-Headers",
            "x-fal-request-id": str(uuid4()),
        },
    )
