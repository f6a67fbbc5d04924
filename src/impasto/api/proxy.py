"""`/api/fal/proxy`: fal's proxy protocol, answered by ourselves (reference, protocol section 9).

In: a request with `x-fal-target-url: https://queue.fal.run/…`. Out: what the named host would answer, status, headers
and body unchanged, because rows of the same route table answer it inside this process. The URL only chooses role, path
and query: nothing is ever fetched, so nothing can be made to fetch. URLs in the answer lead to the caller's own host.

`PATHS` says what each host is good for; no other row can be reached. The proxy has no key of its own: whoever calls it
is judged by the door behind. A page without a key is served in the open mode only.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from impasto.api.media import bare
from impasto.api.roles import FAL_HOSTS, Address, Role, locate
from impasto.errors import BadRequest, MethodNotAllowed, PreconditionFailed, UnsupportedMediaType

PATH = "/api/fal/proxy"
METHODS = ("GET", "POST", "PUT")
TARGETS = ("fal.run", "queue.fal.run", "rest.fal.ai", "rest.alpha.fal.ai")
HEADER = "x-fal-target-url"
_REQUEST = "/{endpoint:path}/requests/{request_id}"
PATHS: dict[Role, tuple[str, ...]] = {
    Role.RUN: ("/{endpoint:path}/stream", "/{endpoint:path}"),
    Role.QUEUE: (
        _REQUEST,
        *(f"{_REQUEST}/{what}" for what in ("status", "status/stream", "response", "cancel")),
        "/{endpoint:path}",
    ),
    # what the clients ask of it: tokens for streams and sockets, places for uploads
    Role.REST: (
        "/tokens", "/tokens/realtime", "/storage/auth/token", "/storage/upload/initiate",
        "/storage/upload/initiate-multipart", "/storage/upload/complete-multipart",
    ),
}  # fmt: skip


class Proxy:
    """ASGI: rewrites the scope after the target URL and hands it to the rows of `routes` that its host has."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.routers: Mapping[Role, ASGIApp] = {
            role: Router(
                [route for route in routes if isinstance(route, Route) and route.path in paths],
                redirect_slashes=False,
                default=_refuse,
            )
            for role, paths in PATHS.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] not in METHODS:
            raise MethodNotAllowed(allowed=METHODS)
        target = headers.get(HEADER)
        if not target:
            raise BadRequest(f"The header {HEADER} is missing; fal's clients set it when they are given a proxyUrl.")
        role, path, query = parse_target(target)
        kind = headers.get("content-type")
        if scope["method"] != "GET" and kind is not None and bare(kind) != "application/json":
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
        await self.routers[role](inner_scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    raise PreconditionFailed(f"The proxy does not serve {scope['path']} of this host.")


def parse_target(target: str) -> tuple[Role, str, str]:
    """(role, path, query) of a target URL. Raises `PreconditionFailed` for all but https on fal's own API hosts."""
    refused = PreconditionFailed(f"The proxy serves https://{{{','.join(TARGETS)}}} only.")
    # urlsplit drops control characters and takes a backslash for a letter; no client sends these or a fragment
    if any(character in target for character in "\\ #") or not (target.isascii() and target.isprintable()):
        raise refused
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
    if address.role is not FAL_HOSTS[host.removesuffix(":443")]:  # a /queue prefix is ours, no host of fal's has it
        raise refused
    return address.role, address.path, parts.query
