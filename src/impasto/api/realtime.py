"""`wss://fal.run/{endpoint}/realtime` and `wss://ws.fal.run/{endpoint}` (reference, protocol sections 6.2 and 6.3).

In: frames. Out: realtime: results as frames of the same kind, errors as `x-fal-error`, latest input wins; ws: for each
text frame a start message, the body, an end message. One input runs at a time, in order, each a durable request that is
cancelled when its socket closes. Revoking the key closes its sockets.
"""

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from impasto.api.admission import resolve
from impasto.api.auth import Caller
from impasto.api.bodies import MIB, whole_number
from impasto.api.frames import as_content, pack, parse
from impasto.api.gateway import Gateway, hold
from impasto.api.roles import Role
from impasto.api.sockets import POLICY_VIOLATION, Answer, OpenTokens, call_run, caller_of, until_revoked
from impasto.api.token_claims import PARAMETER
from impasto.api.warden import SOCKET
from impasto.errors import BadRequest, NotFound, Unauthorized, WireError

BUFFERING = (1, 60)  # inputs that may wait
DEFAULT_BUFFERING = 10
UNAUTHORIZED = {"status": "error", "error": "Unauthorized"}
SUFFIX = "/realtime"


class Sockets:
    """ASGI end point of every WebSocket path; what is wrong before the handshake ends is an HTTP answer."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.tokens = OpenTokens()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        realtime = scope["impasto.address"].role is not Role.WS
        try:
            caller = caller_of(socket, self.gateway)
            hold(scope, caller, socket.headers)
            path = _endpoint_path(scope["path"]) if realtime else scope["path"]
            resolve(path, self.gateway.endpoints)
            kind = _Realtime if realtime else _Calls
            session = kind(self.gateway, socket, caller=caller, path=path)
            async with self.tokens.held(caller):
                await session.serve()
        except Unauthorized as error:
            if not realtime or PARAMETER not in socket.query_params or "authorization" in socket.headers:
                raise
            # JavaScript's client drops its token at this message only; it sees nothing of a refused handshake
            await socket.accept()
            await socket.send_text(_text({**UNAUTHORIZED, "reason": error.message}))
            await socket.close(POLICY_VIOLATION, "Unauthorized")


def _endpoint_path(path: str) -> str:
    if not path.endswith(SUFFIX):
        raise NotFound(f"WebSockets open at {path.rstrip('/')}{SUFFIX}, or at ws.fal.run{path}.")
    return path.removesuffix(SUFFIX)


class _Session:
    """One open socket: a reader that keeps what waits, a worker that answers it, a guard over the key."""

    def __init__(self, gateway: Gateway, socket: WebSocket, *, caller: Caller, path: str) -> None:
        self.gateway, self.socket, self.caller, self.path = gateway, socket, caller, path
        self.waiting: deque[bytes | str] = deque()
        self.working = 0
        self.arrived = asyncio.Event()
        self.gone = asyncio.Event()
        self.farewell: tuple[dict[str, Any] | None, int, str] = (None, 1000, "")

    async def serve(self) -> None:
        await self.socket.accept()
        worker = asyncio.create_task(self._work())
        guard = asyncio.create_task(until_revoked(self.gateway, self.caller))
        reader = asyncio.create_task(self._read())
        try:
            await asyncio.wait({worker, guard, reader}, return_when=asyncio.FIRST_COMPLETED)
            if guard.done() and not guard.exception():
                self.farewell = (UNAUTHORIZED, POLICY_VIOLATION, "Unauthorized")
            open_ = not reader.done()
            reader.cancel()
            guard.cancel()
            self.gone.set()  # the running input is cancelled in the store; the worker sees that through
            self.arrived.set()
            await worker
        finally:
            for task in (worker, guard, reader):
                task.cancel()
            await asyncio.gather(worker, guard, reader, return_exceptions=True)
        if open_:
            message, code, reason = self.farewell
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                if message is not None:
                    await self.socket.send_text(_text(message))
                await self.socket.close(code, reason)

    async def _read(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] != "websocket.receive":
                return
            frame = message.get("bytes")
            await self.keep(message["text"] if frame is None else frame)
            self._count()
            self.arrived.set()

    async def _work(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while await self._next():
                frame = self.waiting.popleft()
                self._count(3 * len(frame))  # as it came, decoded, and as the request's body
                await self.answer(frame)
                del frame
                self._count(0)

    async def _next(self) -> bool:
        """Wait for an input; False: there will be none, or none came for too long."""
        while not self.waiting:
            if self.gone.is_set():
                return False
            self.arrived.clear()
            try:
                async with asyncio.timeout(self.gateway.settings.server.realtime_idle_seconds):
                    await self.arrived.wait()
            except TimeoutError:
                self.idle()
                return False
        return not self.gone.is_set()

    def _count(self, working: int | None = None) -> None:
        """Count the bytes of inputs that wait or are worked on."""
        self.working = self.working if working is None else working
        protocol = self.socket.scope.get("state", {}).get(SOCKET)
        if protocol is not None:
            protocol.count(self.working + sum(map(len, self.waiting)))

    async def call(self, body: bytes) -> Answer:
        return await call_run(
            self.gateway, self.socket.scope, caller=self.caller, path=self.path, body=body, gone=self.gone
        )

    @property
    def heavy(self) -> bool:
        """Whether several inputs wait that together are larger than a single one may be."""
        limit = self.gateway.settings.server.max_body_mb * MIB
        return len(self.waiting) > 1 and sum(map(len, self.waiting)) > limit

    async def keep(self, frame: bytes | str) -> None:
        raise NotImplementedError

    async def answer(self, frame: bytes | str) -> None:
        raise NotImplementedError

    def idle(self) -> None:
        """No input came for `server.realtime_idle_seconds`."""


class _Realtime(_Session):
    def __init__(self, gateway: Gateway, socket: WebSocket, *, caller: Caller, path: str) -> None:
        super().__init__(gateway, socket, caller=caller, path=path)
        self.buffering = _buffering(socket)
        self.takes_data_uris = "sync_mode" in resolve(path, gateway.endpoints).Input.model_fields

    async def keep(self, frame: bytes | str) -> None:
        self.waiting.append(frame)
        while len(self.waiting) > self.buffering or self.heavy:
            self.waiting.popleft()

    async def answer(self, frame: bytes | str) -> None:
        began = time.perf_counter()
        echo: dict[str, Any] = {}
        try:
            input_ = parse(frame)
        except WireError as error:
            await self._refuse(error.status, error.body(), error.error_type, echo)
            return
        if isinstance(given := input_.pop("request_id", None), str | int):
            echo = {"request_id": given}
        asked_for_uris = input_.get("sync_mode") is True
        if self.takes_data_uris and input_.get("sync_mode") in (None, False):
            input_["sync_mode"] = True
        answer = await self.call(msgspec.json.encode(input_))
        if self.gone.is_set():
            return
        payload = msgspec.json.decode(answer.body)
        if answer.status != 200:
            kind = answer.headers.get(
                "x-fal-error-type", "validation_error" if answer.status == 422 else "internal_error"
            )
            await self._refuse(answer.status, payload, kind, echo)
            return
        if isinstance(frame, str):
            await self.socket.send_text(_text({**payload, **echo}))
        else:
            output = await asyncio.to_thread(as_content, payload, keep_urls=asked_for_uris)
            await self.socket.send_bytes(pack({**output, **echo}))
        seconds = round(time.perf_counter() - began, 4)
        timings = {"type": "x-fal-message", "action": "timings", "timing": seconds}
        await self.socket.send_text(_text({**timings, "request_id": answer.request_id}))

    async def _refuse(self, status: int, body: dict[str, Any], kind: str, echo: dict[str, Any]) -> None:
        """Python raises error and reason with the whole message as payload; JavaScript hands it over as the body."""
        detail = body.get("detail", "")
        reason = detail if isinstance(detail, str) else "; ".join(_line(item) for item in detail)
        error = {"type": "x-fal-error", "error": kind.upper(), "reason": reason, "status": status, "detail": detail}
        await self.socket.send_text(_text({**error, **echo}))

    def idle(self) -> None:
        message = {"type": "x-fal-error", "error": "TIMEOUT", "reason": "no inputs, reconnect when needed!"}
        self.farewell = (message, 1000, "")


class _Calls(_Session):
    """HTTP over WebSocket: nothing is dropped, so a full buffer makes the sender wait."""

    async def keep(self, frame: bytes | str) -> None:
        self.waiting.append(frame)
        if len(self.waiting) > BUFFERING[1] or self.heavy:
            reason = "more than server.max_body_mb" if self.heavy else f"more than {BUFFERING[1]} inputs"
            self.farewell = (None, POLICY_VIOLATION, f"{reason} are waiting")
            self.gone.set()

    async def answer(self, frame: bytes | str) -> None:
        began = time.perf_counter()
        answer = await self.call(frame.encode("utf-8") if isinstance(frame, str) else frame)
        if self.gone.is_set():
            return
        head = {"request_id": answer.request_id, "status": answer.status}
        first = round(time.perf_counter() - began, 4)
        await self.socket.send_text(_text({"type": "start", **head, "headers": answer.headers}))
        await self.socket.send_bytes(answer.body)
        await self.socket.send_text(_text({"type": "end", **head, "time_to_first_byte_seconds": first}))


def _buffering(socket: WebSocket) -> int:
    text = socket.query_params.get("max_buffering")
    if text is None:
        return DEFAULT_BUFFERING
    number = whole_number(text)
    if number is None or not BUFFERING[0] <= number <= BUFFERING[1]:
        raise BadRequest(f"max_buffering is {BUFFERING[0]} to {BUFFERING[1]}, not {text[:80]!r}.")
    return number


def _line(item: dict[str, Any]) -> str:
    return f"{'.'.join(item['loc'])}: {item['msg']}"


def _text(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode("utf-8")
