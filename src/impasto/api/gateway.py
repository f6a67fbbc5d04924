"""What every handler works with: the gateway (one a process), the call (one a request), the door (auth, then method).

Gateway   settings and the rooms behind the wire, as small protocols
Caller    who asks
Call      one HTTP request on its way: request, address, caller, and the id that its answer carries
Door      ASGI end point of a route: judges the caller before it looks at method or resource, as fal does
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from impasto.api.auth import Access, Caller, identify, named_key
from impasto.api.reading import Reading
from impasto.api.roles import Address, Role
from impasto.api.token_claims import PARAMETER
from impasto.api.warden import STATE, Line
from impasto.documents import Documents
from impasto.endpoints.base import Endpoint
from impasto.endpoints.table import Endpoints
from impasto.engine.senses import Lack
from impasto.errors import MethodNotAllowed
from impasto.files.draft import Draft
from impasto.files.parts import Parts
from impasto.files.space import Space
from impasto.fleet.link import RunnerFacts
from impasto.fleet.messages import Preview, Progress
from impasto.settings import Settings
from impasto.store.base import Store


class Fleet(Protocol):
    """What the wire wants to know about who runs the work (`fleet.dispatcher.Dispatcher`)."""

    @property
    def ready(self) -> bool: ...

    @property
    def reason(self) -> str:
        """Why it is not ready; "" when it is."""
        ...

    @property
    def runners(self) -> list[RunnerFacts]:
        """The runners that are ready."""
        ...

    @property
    def serving(self) -> Hashable:
        """Changes when `served_by`, `lack` or the residency of what is loaded may have: documents tell them."""
        ...

    def served_by(self, endpoint: Endpoint) -> str | None:
        """Name of the loaded model that draws for the endpoint; None: none does now."""
        ...

    def lack(self, endpoint: Endpoint) -> Lack | None:
        """Why the loaded model refuses the endpoint's images, with the commands that mend it; None: it does not."""
        ...

    def want_previews(self, request_id: str, *, key_id: str = "") -> None:
        """Somebody will watch this request, which is about to be submitted."""
        ...

    def progress(self, request_id: str) -> Progress | None:
        """The last step that a running request has made."""
        ...

    def previews(self, request_id: str) -> list[Preview]:
        """What its pictures look like, the latest of each, in their order."""
        ...


class Blobs(Protocol):
    """Where the bytes of files lie, by token (`files.blobs.BlobStore`). All but `new_token` block: use a thread."""

    def new_token(self, media_type: str, name: str | None = None) -> str: ...

    def draft(self) -> Draft: ...

    def publish(self, draft: Draft, token: str) -> bool: ...

    def holds(self, token: str, draft: Draft) -> bool: ...

    def open(self, token: str) -> BinaryIO: ...

    def delete(self, token: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    settings: Settings
    store: Store
    blobs: Blobs
    dispatcher: Fleet
    parts: Parts
    space: Space
    endpoints: Endpoints
    secret: bytes  # signs upload tokens, upload URLs and links
    started_at: float = field(default_factory=time.time)
    documents: Documents = field(default_factory=Documents)
    reading: Reading = field(default_factory=Reading)
    naming: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary[str, asyncio.Lock])
    """Tokens that are being given their content: one upload at a time decides about one name."""

    @property
    def unwell(self) -> str:
        """Why nothing can be stored now; "" when it can."""
        if not self.store.healthy:
            return "the request store cannot be written any more: look at its disk, then restart the server"
        return self.space.reason or ("the disk has no room for the request store" if self.store.full else "")


@dataclass(slots=True, kw_only=True)
class Call:
    gateway: Gateway
    request: Request
    caller: Caller | None  # None: nobody, and the access of the door allows that

    @property
    def address(self) -> Address:
        return self.request.scope["impasto.address"]

    @property
    def request_id(self) -> str:
        """The x-fal-request-id of the answer."""
        return self.request.scope["impasto.request_id"][0]

    @request_id.setter
    def request_id(self, value: str) -> None:
        self.request.scope["impasto.request_id"][0] = value


Handler = Callable[[Call], Awaitable[Response]]


def hold(scope: Scope, caller: Caller | None, headers: Mapping[str, str]) -> None:
    """Count the connection for the key that uses it. Raises `TooManyConnections` when that has its share of them."""
    line: Line | None = scope.get("state", {}).get(STATE)
    if line is not None and caller is not None:
        line.warden.hold(line, caller.key_id or named_key(headers))


@dataclass(frozen=True, slots=True)
class Door:
    """One path of the route table. `handlers`: method → handler; a HEAD is answered by GET."""

    gateway: Gateway
    access: Access
    handlers: Mapping[str, Handler]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        caller = identify(
            request.headers,
            store=self.gateway.store,
            settings=self.gateway.settings,
            access=self.access,
            path=scope["path"],
            token=request.query_params.get(PARAMETER) if scope["impasto.address"].role is Role.RUN else None,
            secret=self.gateway.secret,
        )
        hold(scope, caller, request.headers)
        method = "GET" if request.method == "HEAD" and "HEAD" not in self.handlers else request.method
        handler = self.handlers.get(method)
        if handler is None:
            raise MethodNotAllowed(allowed=self.handlers)
        response = await handler(Call(gateway=self.gateway, request=request, caller=caller))
        await response(scope, receive, send)
