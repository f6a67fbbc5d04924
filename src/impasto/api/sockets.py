"""WebSocket doors: who may open one, and how one message becomes one call of the sync run.

In: a handshake, then payloads. Out: a judged handshake (fal's HTTP errors before it is accepted) and, for a payload,
the very answer that `POST /{endpoint}` gives: validated, durable, cancelled when the socket closes.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from impasto.api.auth import EVERYBODY, KEY_CHECK_SECONDS, Access, Caller, identify, key_is_live
from impasto.api.gateway import Call, Gateway
from impasto.api.problems import Problems
from impasto.api.roles import Role
from impasto.api.run import run
from impasto.api.token_claims import PARAMETER
from impasto.errors import Unauthorized

POLICY_VIOLATION = 1008
HANDOVER_SECONDS = 2.0  # that a second socket of a token waits for the first one to close

# of the handshake, not of a call; an Idempotency-Key would make all messages the same request
_OWN_HEADERS = (b"idempotency-key", b"content-length", b"content-type", b"connection", b"upgrade", b"transfer-encoding")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def request_id(self) -> str:
        return self.headers.get("x-fal-request-id", "")


def caller_of(socket: WebSocket, gateway: Gateway) -> Caller:
    """Who opens the socket. Raises `Unauthorized` or `Forbidden`, foreign pages at an open server included."""
    caller = identify(
        socket.headers,
        store=gateway.store,
        settings=gateway.settings,
        access=Access.MODEL,
        path=socket.scope["path"],
        token=socket.query_params.get(PARAMETER),
        secret=gateway.secret,
    )
    return caller or EVERYBODY


class OpenTokens:
    """A short-lived token opens one socket at a time: one that leaked is no second line for somebody else.

    Not one in all: JavaScript's client opens its next socket with the token it has.
    """

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Event] = {}  # token id → set when its socket has closed

    @contextlib.asynccontextmanager
    async def held(self, caller: Caller) -> AsyncGenerator[None]:
        """For as long as a socket of `caller` is open. Raises `Unauthorized` while there is another one."""
        if not caller.token_id:
            yield
            return
        if other := self._open.get(caller.token_id):
            with contextlib.suppress(TimeoutError):  # a client that reconnects may be faster than its own goodbye
                await asyncio.wait_for(other.wait(), HANDOVER_SECONDS)
        if caller.token_id in self._open:
            raise Unauthorized(f"The token ({PARAMETER}) has a connection open; ask for another one at /tokens/.")
        closed = self._open[caller.token_id] = asyncio.Event()
        try:
            yield
        finally:
            del self._open[caller.token_id]
            closed.set()


async def until_revoked(gateway: Gateway, caller: Caller) -> None:
    """Returns within `KEY_CHECK_SECONDS` of the revocation of the caller's key."""
    # a key is revoked by another process, which rings no bell
    while key_is_live(gateway.store, caller.key_id):  # noqa: ASYNC110
        await asyncio.sleep(KEY_CHECK_SECONDS)


async def call_run(
    gateway: Gateway, scope: Scope, *, caller: Caller, path: str, body: bytes, gone: asyncio.Event
) -> Answer:
    """What `POST {path}` answers to `body`, errors included. When `gone` is set the request is cancelled."""
    inner: Scope = {
        **scope,
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [
            (name, value)
            for name, value in scope["headers"]
            if name not in _OWN_HEADERS and not name.startswith(b"sec-websocket-")
        ],
        "state": {},  # the socket itself counts what it holds
        "impasto.address": replace(scope["impasto.address"], role=Role.RUN, path=path),
    }
    unread = [body]
    status, headers, parts = 500, dict[str, str](), list[bytes]()

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            headers.update(
                (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in message["headers"]
            )
        else:
            parts.append(message.get("body", b""))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = await run(Call(gateway=gateway, request=Request(scope, receive), caller=caller))
        await response(scope, receive, send)

    await Problems(app)(inner, receive, send)
    return Answer(status, headers, b"".join(parts))
