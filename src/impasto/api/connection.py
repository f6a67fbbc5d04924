"""A client's connection: uvicorn's protocols, strict about what a request is and watched by the `warden`.

    Connection   HTTP/1.1, the fast parser
    _Patient     the slower one, for clients that offer HTTP/2 on a plain connection
    _Socket      WebSocket, once a handshake has made one of a Connection

`Upgrade: h2c` is what Java's HttpClient and `curl --http2` add to requests without TLS. A server that speaks no HTTP/2
ignores the offer; httptools stops reading at it and loses the body, so that a submit became an empty one.
"""

import asyncio
import re
from typing import Any, cast

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from impasto.api.problems import refuse
from impasto.api.warden import Line, Phase, Warden
from impasto.errors import BadRequest, HeadersTooLarge, WireError

MAX_HEAD = 64 * 1024  # bytes of request line and headers

_OFFER = re.compile(rb"\r\nupgrade:[ \t]*(?!websocket)", re.IGNORECASE)
_LOOSE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]")  # line ends that others may read otherwise; folded headers


def protocols(warden: Warden) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """(http, ws) for `uvicorn.Config`, watched by `warden`."""
    watched = {"warden": warden}
    return type("WatchedConnection", (Connection,), watched), type("WatchedSocket", (_Socket,), watched)


class _Watched(asyncio.Protocol):
    """What both HTTP protocols tell the warden, and how they give up."""

    warden: Warden
    line: Line
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    cycle: Any  # the request that is being answered; each parser has a class of its own

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.line = self.warden.open(self.transport, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.warden.close(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.line.crowded:
            refuse(self.transport, self.warden.refusal())
            return
        self.line.arrived(len(data), self.loop.time())
        super().data_received(data)
        if self.line.phase is Phase.HEAD and self.line.got > MAX_HEAD and not self.transport.is_closing():
            self.give_up(_too_large())

    def resume_writing(self) -> None:
        self.line.reads(self.loop.time())
        super().resume_writing()

    @property
    def answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def holding_back(self) -> bool:
        return self.flow.read_paused

    def give_up(self, error: WireError | None) -> None:
        started = self.answering and self.cycle.response_started
        if self.answering:  # the app hears that its client is gone, and says nothing more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if error is None or started:
            self.transport.close()
        else:
            refuse(self.transport, error)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's word for bytes that are no HTTP. Never in the middle of another answer."""
        self.give_up(BadRequest(msg))


class Connection(_Watched, HttpToolsProtocol):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Made by `protocols`; stricter than its parser where a proxy in front could read the bytes otherwise."""

    _problem: WireError | None = None
    _beside = 0  # bytes since the last ones of the body: chunk extensions, trailers

    def data_received(self, data: bytes) -> None:
        """A connection is judged by its first bytes: clients that offer an upgrade do so from the first request on."""
        self._beside += len(data)
        first = self.scope is None  # pyright: ignore[reportUnnecessaryComparison] - None until a request has begun
        if first and _OFFER.search(data.partition(b"\r\n\r\n")[0]):
            self._hand_over(data)
        else:
            super().data_received(data)
            if self.line.phase is Phase.BODY and self._beside > MAX_HEAD and not self.transport.is_closing():
                self.give_up(_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.line.phase is not Phase.BODY:  # trailers are nobody's business
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._beside = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.line.phase is Phase.IDLE:  # it came in one piece with the request before
            self.line.enter(Phase.HEAD, self.loop.time())

    def on_headers_complete(self) -> None:
        """An error raised here reaches `send_400_response`: the parser calls it one of the bytes."""
        self._problem = self._wrong_head(self.parser.get_http_version() if self.parser else "1.1")
        if self._problem is not None:
            raise self._problem
        self.line.enter(Phase.BODY, self.loop.time())
        self._beside = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.line.enter(Phase.IDLE, self.loop.time())
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self.give_up(self._problem or BadRequest(msg))

    def _wrong_head(self, version: str) -> WireError | None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return BadRequest("A request has exactly one Host header.")
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD:
            return _too_large()
        return None

    def _hand_over(self, data: bytes) -> None:
        patient = _Patient(config=self.config, server_state=self.server_state, app_state=self.app_state)
        patient.warden = self.warden
        self.connections.discard(self)
        patient.take_over(self.transport, self.line)
        self.transport.set_protocol(patient)
        patient.data_received(data)


class _Patient(_Watched, H11Protocol):  # pyright: ignore[reportIncompatibleVariableOverride]
    def take_over(self, transport: asyncio.Transport, line: Line) -> None:
        self.conn = _Strict(h11.SERVER, MAX_HEAD)
        H11Protocol.connection_made(self, transport)
        self.line = self.warden.hand_over(transport, self)

    def handle_events(self) -> None:
        super().handle_events()
        state, line = self.conn.their_state, self.line
        if state is h11.SEND_BODY:
            phase = Phase.BODY
        else:
            phase = Phase.HEAD if state is h11.IDLE and self.conn.trailing_data[0] else Phase.IDLE
        if phase is not line.phase:
            line.enter(phase, self.loop.time())

    def _unsupported_upgrade_warning(self) -> None:
        """Not worth a line in the log at every request: the answer is HTTP/1.1, which the client takes as no."""


class _Strict(h11.Connection):
    """Refuses what the fast parser refuses, so that an offer of HTTP/2 opens no second, laxer door."""

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            head = self.trailing_data[0].partition(b"\r\n\r\n")[0]
            if _LOOSE.search(head[:-1] if head.endswith(b"\r") else head):
                raise h11.RemoteProtocolError("bare line end or folded header")
            if len(head) > MAX_HEAD:
                raise h11.RemoteProtocolError("head too large")
        event = cast("Any", super().next_event())
        if isinstance(event, h11.Request) and {b"content-length", b"transfer-encoding"} <= {
            n for n, _ in event.headers
        }:
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        return event


class _Socket(WebSocketsSansIOProtocol):
    """Counted and cut when nobody reads it, as every connection; else left to its own pings."""

    warden: Warden
    line: Line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.line = self.warden.hand_over(self.transport, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.warden.close(self.transport)
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self.line.reads(self.loop.time())
        super().resume_writing()


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"The request's head is larger than {MAX_HEAD // 1024} KiB.")
