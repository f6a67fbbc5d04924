"""WebSocket doors: who may open one, and how one message becomes one call of the sync run.

In: a handshake, then payloads. Out: a judged handshake (fal's HTTP errors before it is accepted) and, for a payload,
the very answer that `POST /{endpoint}` gives: validated, durable, cancelled when the socket closes.
"""

import asyncio
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from impasto.api.auth import EVERYBODY, Access, Caller, identify, key_is_live
from impasto.api.gateway import Call, Gateway
from impasto.api.problems import Problems
from impasto.api.roles import Role
from impasto.api.run import run
from impasto.api.token_claims import PARAMETER

KEY_CHECK_SECONDS = 10.0
POLICY_VIOLATION = 1008

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
