"""A client's connection: uvicorn's protocols, strict about what a request is and watched by the `warden`.

Connection   HTTP/1.1; `framing` judges every head before the parser reads it
_Socket      WebSocket, once a handshake has made one of a Connection
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from impasto.api.framing import END, MAX_HEAD, check_headers, check_start, read_head
from impasto.api.problems import refuse
from impasto.api.warden import SOCKET, STATE, Line, Phase, Warden
from impasto.errors import BadRequest, HeadersTooLarge, TooMuchBuffered, WireError

TRY_AGAIN_LATER = 1013
FRAGMENT = 128  # bytes that an object of Python takes besides its content


def protocols(warden: Warden) -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    """(http, ws) for `uvicorn.Config`, watched by `warden`."""
    watched = {"warden": warden}
    return type("WatchedConnection", (Connection,), watched), type("WatchedSocket", (_Socket,), watched)


class Connection(HttpToolsProtocol):
    """Made by `protocols`; stricter than its parser where a proxy in front could read the bytes otherwise."""

    warden: Warden
    line: Line
    flow: FlowControl
    cycle: Any

    _running: Any = None  # the request that is being answered; `cycle` is the last one that was read
    _problem: WireError | None = None
    _last_word: WireError | None = None  # what ends the connection when those are answered that came before
    _head: bytes = b""  # of a request, as far as it has come
    _left: int | None = 0  # bytes of the body that the parser still expects; None: it comes in chunks
    _inside = False  # a request has begun and is not complete
    _beside = 0  # bytes since the last ones of the body: chunk extensions, trailers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]
        self.line = self.warden.open(self.transport, self)
        self.app_state = {**self.app_state, STATE: self.line}

    def connection_lost(self, exc: Exception | None) -> None:
        self.warden.close(self.transport)
        if self._running is not None and not self._running.response_complete:  # not the last one, if more were read
            _disconnect(self._running)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self.line.arrived(len(data), self.loop.time())
        self._beside += len(data)
        while data and not self._over:
            data = self._feed(data)
        if self._over:
            return
        if (self.line.phase is Phase.HEAD and self.line.got > MAX_HEAD) or (
            self.line.phase is Phase.BODY and self._beside > MAX_HEAD
        ):
            self.give_up(_too_large())

    @property
    def _over(self) -> bool:
        """Nothing more is read."""
        return self._last_word is not None or self.transport.is_closing()

    def _feed(self, data: bytes) -> bytes:
        """Give the parser its next piece: a whole judged head, or bytes of a body; what remains comes back."""
        if self._inside:
            piece = data if self._left is None else data[: self._left]
            if self._left is not None:
                self._left -= len(piece)
            super().data_received(piece)
            return data[len(piece) :]
        known = len(self._head)
        self._head = self._head + data if known else data.lstrip(b"\r\n")
        end = self._head.find(END, max(known - len(END), 0))
        try:
            if end < 0:
                if len(self._head) <= MAX_HEAD:  # else `data_received` refuses it
                    check_start(self._head, known=known)
                return b""
            if end > MAX_HEAD:
                self.give_up(_too_large())
                return b""
            head = read_head(self._head[: end + len(END)])
        except BadRequest as problem:
            self.give_up(problem)
            return b""
        rest, self._head, self._left = self._head[end + len(END) :], b"", head.body
        super().data_received(head.data)
        return rest

    def resume_writing(self) -> None:
        self.line.reads(self.loop.time())
        super().resume_writing()

    @property
    def answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def holding_back(self) -> bool:
        return self.flow.read_paused

    def close_after_answer(self) -> None:
        if self.answering:
            self.cycle.keep_alive = False

    def give_up(self, error: WireError | None) -> None:
        """Refuse the request that is being read and end the connection, once those before it are answered."""
        own = self.line.phase is Phase.BODY  # else `cycle` is the request before
        waits = [entry for entry in self.pipeline if entry[0] is self.cycle]
        if own and waits:
            self.pipeline.remove(waits[0])
            _disconnect(self.cycle)
            own = False
        if not own and self._running is not None and not self._running.response_complete:
            self._last_word = error or BadRequest()
            return
        started = own and self.answering and self.cycle.response_started
        if own and self.answering:  # the app hears that its client is gone, and says nothing more
            _disconnect(self.cycle)
        if error is None or started:
            self.transport.close()
        else:
            refuse(self.transport, error)

    def on_response_complete(self) -> None:
        self.line.holds(0)
        super().on_response_complete()
        over = not self.pipeline and (self._running is None or self._running.response_complete)
        if self._last_word is not None and over and not self.transport.is_closing():
            refuse(self.transport, self._last_word)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's word for bytes that are no HTTP. Never in the middle of another answer."""
        self.give_up(self._problem or BadRequest(msg))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.line.phase is not Phase.BODY:  # trailers are nobody's business
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._beside = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._inside = True
        if self.line.phase is Phase.IDLE:  # it came in one piece with the request before
            self.line.enter(Phase.HEAD, self.loop.time())

    def on_headers_complete(self) -> None:
        """An error raised here reaches `send_400_response`: the parser calls it one of the bytes."""
        self._problem = self._judge(self.parser.get_http_version() if self.parser else "1.1")
        if self._problem is not None:
            raise self._problem
        self.line.enter(Phase.BODY, self.loop.time())
        self._beside = 0
        super().on_headers_complete()
        if self.line.crowded:
            self.close_after_answer()

    def on_message_complete(self) -> None:
        self._inside = False
        self.line.enter(Phase.IDLE, self.loop.time())
        super().on_message_complete()

    def _judge(self, version: str) -> WireError | None:
        """What is wrong with the request whose head is complete: its framing (one that came in the same bytes as the
        end of a chunked body was read by the parser alone), its size, or that its client has too many connections.
        """
        try:
            check_headers(self.headers, version=version)
        except BadRequest as problem:
            return problem
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD:
            return _too_large()
        return self.warden.admit(self.line, self.url, self.headers)

    def _unsupported_upgrade_warning(self) -> None:
        """Not worth a line in the log at every request: the answer is HTTP/1.1, which the client takes as no."""


class _Socket(WebSocketsSansIOProtocol):
    """Counted and cut when nobody reads it, as every connection; else left to its own pings."""

    warden: Warden
    line: Line
    _fragments = 0  # bytes of a message whose last fragment has not come
    kept = 0  # bytes that the app holds of messages before (`realtime`)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]
        self.line = self.warden.hand_over(self.transport, None)
        self.app_state = {**self.app_state, SOCKET: self}

    def connection_lost(self, exc: Exception | None) -> None:
        self.warden.close(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.count()

    def count(self, kept: int | None = None) -> None:
        """Count what the socket holds, and close it past its key's share."""
        self.kept = self.kept if kept is None else kept
        if self.transport.is_closing():
            return
        try:
            self.line.holds(len(self.conn.reader.buffer) + self._fragments + self.kept)
        except TooMuchBuffered:
            self.conn.send_close(TRY_AGAIN_LATER, "too much is on its way (server.max_buffered_key_mb)")
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def handle_text(self, event: Frame) -> None:
        self._fragments = 0 if event.fin else len(event.data) + FRAGMENT
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._fragments = 0 if event.fin else len(event.data) + FRAGMENT
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        self._fragments = 0 if event.fin else self._fragments + len(event.data) + FRAGMENT
        super().handle_cont(event)

    def resume_writing(self) -> None:
        self.line.reads(self.loop.time())
        super().resume_writing()


def _disconnect(cycle: Any) -> None:
    """Tell the app of a request that its client is gone; what it says from now on goes nowhere."""
    cycle.disconnected = True
    cycle.message_event.set()


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"The request's head is larger than {MAX_HEAD // 1024} KiB.")
