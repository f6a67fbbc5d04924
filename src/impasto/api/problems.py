"""The one place where errors become bytes, and where every answer gets its x-fal-request-id.

In: whatever a handler raises. Out: a `WireError` as its status, body and headers; anything else logged with its
traceback and answered 500 in fal's shape. Never a bare 500, never a traceback on the wire.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto import telemetry
from impasto.api.bodies import Json
from impasto.errors import BadRequest, InternalError, ServiceUnavailable, StoreError, WireError

log = logging.getLogger("impasto.api")

PHRASES = {413: "Request Entity Too Large", 422: "Unprocessable Entity", 499: "Client Closed Request"}


STOPPING = "The server is stopping; a request that it has taken goes on after its restart."

_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


def teach_uvicorn() -> None:
    """What uvicorn says by itself, as fal says it.

    Reason phrases, which JavaScript's client shows as error messages: `http.HTTPStatus` has none for 499 and from
    Python 3.13 on other ones for 413 and 422 than fal sends. And the answer to bytes that are no HTTP: they never
    become a request, so no app could answer them.
    """
    from uvicorn.protocols.http import h11_impl, httptools_impl

    for status, phrase in PHRASES.items():
        httptools_impl.STATUS_LINE[status] = f"HTTP/1.1 {status} {phrase}\r\n".encode("ascii")
        h11_impl.STATUS_PHRASES[status] = phrase.encode("ascii")
    logging.getLogger("uvicorn.error").addFilter(_no_false_alarm)
    httptools_impl.HttpToolsProtocol.send_400_response = _refuse_bytes
    h11_impl.H11Protocol.send_400_response = _refuse_bytes


def _no_false_alarm(record: logging.LogRecord) -> bool:
    """uvicorn calls a WebSocket handshake that was answered with an HTTP error one that was not answered."""
    return record.msg != "ASGI callable returned without completing handshake."


class _Connection(Protocol):
    """The part of uvicorn's protocols that is needed to answer."""

    transport: asyncio.Transport


def _refuse_bytes(self: _Connection, msg: str) -> None:
    refuse(self.transport, BadRequest(msg))


def refuse(transport: asyncio.Transport, error: WireError) -> None:
    """Answer `error` to what never became a request, and close the connection."""
    response = answer(error)
    headers = [*response.raw_headers, (b"x-fal-request-id", str(uuid4()).encode("ascii")), (b"connection", b"close")]
    status = f"HTTP/1.1 {error.status} {PHRASES.get(error.status) or HTTPStatus(error.status).phrase}".encode("ascii")
    lines = [status, *(name + b": " + value for name, value in headers), b"", bytes(response.body)]
    transport.write(b"\r\n".join(lines))
    transport.close()


Shape = Callable[[WireError, str], Response]
"""(error, request id) → its answer."""


def _fals(error: WireError, request_id: str) -> Response:
    return answer(error)


def answer(error: WireError) -> Response:
    """The HTTP answer of `error`."""
    return Json(error.body(), status_code=error.status, headers=error.headers())


class Problems:
    """ASGI: answers what the app below raises, and puts the request id on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = scope["type"] == "websocket"
        if not socket and scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        holder = scope["impasto.request_id"] = [str(uuid4())]  # a list: a handler that knows better overwrites it
        shape: list[Shape] = [_fals]
        scope["impasto.shape"] = shape  # likewise: a door whose API words errors in another way
        last_words: list[bytes] = []
        scope["impasto.last_words"] = last_words  # what a stream that is cut by a stop says at its end
        started = endless = False
        method = "WebSocket" if socket else scope["method"]

        async def send_with_id(message: Message) -> None:
            nonlocal started, endless
            if message["type"] in _STARTS:
                started = True
                endless = not socket and all(name.lower() != b"content-length" for name, _ in message["headers"])
                message["headers"] = [*message.get("headers", ()), (b"x-fal-request-id", holder[0].encode("latin-1"))]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
            return
        except WireError as error:
            response = shape[0](error, holder[0])
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            # The server stops and its patience with waiting callers is over. The request itself is kept.
            if endless:  # a stream ends as its client expects it; a file that is cut cannot
                await send({"type": "http.response.body", "body": b"".join(last_words), "more_body": False})
            if started:
                return
            response = shape[0](ServiceUnavailable(STOPPING), holder[0])
        except StoreError:
            telemetry.request_id.set(holder[0])
            log.exception("%s %r: the store failed", method, scope["path"])
            broken = "The request store cannot be used now; the server's log says why."
            response = shape[0](ServiceUnavailable(broken), holder[0])
        except Exception:  # the edge: whatever it was, the client gets an answer and the operator the traceback
            telemetry.request_id.set(holder[0])
            log.exception("%s %r failed", method, scope["path"])
            if started:
                raise
            response = shape[0](InternalError(), holder[0])
        if not started:
            await response(scope, receive, send_with_id)
