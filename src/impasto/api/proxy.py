"""`/api/fal/proxy`: fal's proxy protocol, answered by ourselves (reference, protocol section 9).

In: a request with `x-fal-target-url: https://queue.fal.run/…`. Out: what the named host would answer, status, headers
and body unchanged, because the same route table answers it inside this process. The URL only chooses role, path and
query: nothing is ever fetched, so nothing can be made to fetch. URLs in the answer lead to the host the caller used.
"""

from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from impasto.api.roles import Address, Role, locate
from impasto.errors import BadRequest, MethodNotAllowed, PreconditionFailed, UnsupportedMediaType

PATH = "/api/fal/proxy"
METHODS = ("GET", "POST", "PUT")
TARGETS = ("fal.run", "queue.fal.run", "rest.fal.ai", "rest.alpha.fal.ai")
HEADER = "x-fal-target-url"


class Proxy:
    """ASGI: rewrites the scope after the target URL and hands it to `router`."""

    def __init__(self, router: ASGIApp) -> None:
        self.router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] not in METHODS:
            raise MethodNotAllowed(allowed=METHODS)
        target = headers.get(HEADER)
        if not target:
            raise BadRequest(f"The header {HEADER} is missing; fal's clients set it when they are given a proxyUrl.")
        role, path, query = parse_target(target)
        kind = headers.get("content-type")
        if scope["method"] == "POST" and kind is not None and "json" not in kind.lower():
            raise UnsupportedMediaType
        outer: Address = scope["impasto.address"]
        inner_scope: Scope = {
            **scope,
            "impasto.address": outer.proxied(role, path),
            "path": path,
            "raw_path": path.encode("utf-8"),
            "query_string": query.encode("ascii", "replace"),
            # without the header a target that names the proxy again ends as 400 instead of in a circle
            "headers": [(name, value) for name, value in scope["headers"] if name != HEADER.encode("ascii")],
        }
        await self.router(inner_scope, receive, send)


def parse_target(target: str) -> tuple[Role, str, str]:
    """(role, path, query) of a target URL. Raises `PreconditionFailed` for all but https on fal's own API hosts."""
    refused = PreconditionFailed(f"The proxy serves https://{{{','.join(TARGETS)}}} only.")
    try:
        parts = urlsplit(target)
        port = parts.port
    except ValueError:
        raise refused from None
    # netloc is compared whole: no user info, no other port, no look-alike ending
    host = parts.netloc.lower().removesuffix(":443")
    if parts.scheme.lower() != "https" or host not in TARGETS or port not in (None, 443):
        raise refused
    address = locate(scheme="https", host=host, path=unquote(parts.path))
    return address.role, address.path, parts.query
