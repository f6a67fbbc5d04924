"""Which of fal's hosts a request is meant for, what it names there, and on what base its answer builds URLs.

`POST /fal-ai/flux-pro` is the sync run on fal.run and the submit on queue.fal.run: the same bytes. The role
decides: the proxied target (see `proxy`), then the host that the shim names in the path (`/@queue.fal.run/…`), then the
Host, then a `/queue` prefix of the path (stripped as often as it stands there: HF's JavaScript client joins the path of
our `response_url` to a base that has the prefix already).
In: scheme, Host and path as received. Out: an `Address`, and endpoint ids in their normal form.
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from impasto.endpoints.base import split_id
from impasto.errors import BadRequest
from impasto.fleet.inputs import FAL_FILES


class Role(StrEnum):
    RUN = "run"
    QUEUE = "queue"
    REST = "rest"
    CDN = "cdn"
    WS = "ws"  # one HTTP call a message over a WebSocket


FAL_HOSTS: dict[str, Role] = {
    "fal.run": Role.RUN,
    "falrun.com": Role.RUN,
    "queue.fal.run": Role.QUEUE,
    "queue.falrun.com": Role.QUEUE,
    "ws.fal.run": Role.WS,
    "rest.fal.ai": Role.REST,
    "rest.alpha.fal.ai": Role.REST,
    "api.fal.ai": Role.REST,
    "fal.ai": Role.REST,
    "v3.fal.media": Role.CDN,
    "v3b.fal.media": Role.CDN,
    "fal.media": Role.CDN,
}
FAL_QUEUE = "https://queue.fal.run"
FAL_RUN = "https://fal.run"
FAL_SITE = "https://fal.ai"
FAL_PLATFORM = "https://api.fal.ai"

GUARDED = ("ai-sdk/",)  # User-Agents of clients that download a result themselves, never from a private address

_MEANT = re.compile(r"/@(?P<host>[A-Za-z0-9.-]+)(?P<files>\+files)?(?P<path>/.*)?", re.DOTALL)
MAX_PATH = 8192  # bytes; splitting 60 kB into thousands of parts held the event loop for 20 ms
MAX_QUERY = 32 * 1024  # bytes: a webhook URL of 8,192 characters, each of them encoded as three
MAX_PARAMETERS = 512

_PREFIXED = {"queue": Role.QUEUE, "ws": Role.WS}  # first label of any other host name
_WEB = {"ws": "http", "wss": "https"}  # schemes of URLs that we hand out over a WebSocket
_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_LEGACY = re.compile(r"(\d+)-(.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a request went. Bases are scheme://host[/prefix] without a slash at the end."""

    role: Role
    path: str  # prefix and trailing slashes gone
    queue_base: str  # status, result and cancel URLs
    file_base: str  # {file_base}/files/… can be fetched by the same client
    named: bool = False  # whether the client knows us under fal's names, each of which has its own duties

    def proxied(self, role: Role, path: str) -> "Address":
        """The inner address of a call through our proxy route: the target's role and path, URLs on the outer host."""
        return Address(role=role, path=path, queue_base=self.queue_door, file_base=self.file_base, named=self.named)

    @property
    def site(self) -> str:
        """Where the pages, the documents and the proxy are: fal's site for a client that knows us under its names only.

        Under the shim it is ours, as for files: a browser opens them.
        """
        return FAL_SITE if self.named and self.file_base == FAL_FILES else self.file_base

    @property
    def run_base(self) -> str:
        """Where a model is run: {run_base}/{endpoint_id}."""
        return FAL_RUN if self.named else self.file_base

    @property
    def platform_base(self) -> str:
        """Where the platform API is: {platform_base}/v1/…"""
        return FAL_PLATFORM if self.named else self.file_base

    @property
    def queue_door(self) -> str:
        """Where a submit goes: under a name that has one door for all, a POST without the prefix is a sync run."""
        base = self.queue_base
        alone = base.endswith("/queue") or (urlsplit(base).hostname or "").startswith("queue.")
        return base if alone else base + "/queue"


def locate(*, scheme: str, host: str, path: str, public_url: str | None = None, agent: str = "") -> Address:
    """Read the address of one request. Raises `BadRequest` when the Host header is no host.

    A client that reaches us under one of fal's names keeps fal's names in every URL; everybody else gets the host they
    used, or `public_url`. Under the shim the queue's URLs keep fal's names, and those of files are ours, because a
    browser may have to open them; fal's for an `agent` (User-Agent) that downloads files itself and refuses private
    addresses, and where the shim asks for it.
    """
    if not _HOST.fullmatch(host):
        raise BadRequest("The Host header is missing or is not a host name.")
    if meant := _MEANT.fullmatch(path):
        return _shimmed(meant, scheme=scheme, host=host, public_url=public_url, agent=agent)
    path, prefixed = _clean(path)
    name = host.partition(":")[0].lower()
    role = FAL_HOSTS.get(name)
    known = role is not None
    if role is None:
        role = _PREFIXED.get(name.partition(".")[0], Role.RUN) if "." in name else Role.RUN
    if prefixed:
        role = Role.QUEUE
    if known:
        queue_base = f"https://{name}/queue" if prefixed and name != "queue.fal.run" else FAL_QUEUE
        return Address(role=role, path=path, queue_base=queue_base, file_base=FAL_FILES, named=True)
    if public_url is not None:
        base = public_url.rstrip("/")
        of_queue = (urlsplit(base).hostname or "").startswith("queue.")
        return Address(role=role, path=path, queue_base=base if of_queue else base + "/queue", file_base=base)
    base = f"{scheme}://{host}"
    return Address(role=role, path=path, queue_base=base + "/queue" if prefixed else base, file_base=base)


def _shimmed(meant: re.Match[str], *, scheme: str, host: str, public_url: str | None, agent: str) -> Address:
    """The address of a request that the shim led here; `meant`: fal's host, `+files`, and the path there."""
    name, path = meant["host"].lower(), meant["path"] or "/"
    ours = locate(scheme=scheme, host=host, path="/", public_url=public_url)
    if name not in FAL_HOSTS:  # a name of fal's that we give no role of its own: ours, with its prefix
        prefix = "/" + name.partition(".")[0] if name.partition(".")[0] in _PREFIXED else ""
        return locate(scheme=scheme, host=host, path=prefix + path, public_url=public_url)
    there = locate(scheme="https", host=name, path=path)
    fals = meant["files"] or any(each in agent for each in GUARDED)
    return there if fals else replace(there, file_base=ours.file_base)


def _clean(path: str) -> tuple[str, bool]:
    parts = path.strip("/")
    prefixed = False
    while parts == "queue" or parts.startswith("queue/"):
        parts = parts[len("queue") :].strip("/")
        prefixed = True
    return "/" + parts, prefixed


@lru_cache(maxsize=4096)
def endpoint_id(path: str) -> str:
    """The endpoint id that a path names: no outer slashes, the legacy `12345-alias` as `12345/alias`."""
    path = path.strip("/")
    first, _, rest = path.partition("/")
    if legacy := _LEGACY.fullmatch(first):
        first = f"{legacy[1]}/{legacy[2]}"
    return f"{first}/{rest}" if rest else first


def app_of(path: str) -> str:
    """owner/alias of the endpoint that a path names."""
    return split_id(endpoint_id(path))[0]


def _check_length(path: str, query: bytes) -> None:
    if len(path) > MAX_PATH or len(query) > MAX_QUERY:
        raise BadRequest(f"A URL may have at most {MAX_PATH} bytes of path and {MAX_QUERY} bytes of query.")
    if query.count(b"&") >= MAX_PARAMETERS:
        raise BadRequest(f"A URL may have at most {MAX_PARAMETERS} parameters.")


class Addressing:
    """ASGI: hands every request on with its `Address` (scope["impasto.address"]) and the cleaned path."""

    def __init__(self, app: ASGIApp, public_url: str | None) -> None:
        self.app = app
        self.public_url = public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            _check_length(scope["path"], scope.get("query_string", b""))
            scheme: str = _WEB.get(scope["scheme"]) or scope["scheme"]
            address = locate(
                scheme=scheme,
                host=_host(scope),
                path=scope["path"],
                public_url=self.public_url,
                agent=_header(scope, b"user-agent"),
            )
            if scope["type"] == "websocket" and address.path.startswith("/ws/"):
                address = replace(address, role=Role.WS, path="/" + address.path.removeprefix("/ws/").strip("/"))
            scope["impasto.address"] = address
            scope["path"] = address.path
        await self.app(scope, receive, send)


def _host(scope: Scope) -> str:
    if named := _header(scope, b"host"):
        return named
    server = scope.get("server")  # HTTP/1.0 needs no Host
    return f"{server[0]}:{server[1]}" if server else ""


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")
