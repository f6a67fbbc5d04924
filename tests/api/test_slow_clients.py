"""Slow and crowding clients lose their connection and nobody else's; whoever waits for us is left alone."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from impasto.api.connection import protocols
from impasto.api.problems import Problems
from impasto.api.warden import Warden
from impasto.settings import ServerSettings

SHORT: dict[str, Any] = {
    "head_seconds": 0.4,
    "body_seconds": 0.4,
    "body_kib_per_second": 8,
    "write_seconds": 0.4,
    "idle_seconds": 0.4,
}
LONG = 2.0  # seconds that a patient client waits, many times the limits above
BOTH = pytest.mark.parametrize("offer", ["", "Connection: Upgrade\r\nUpgrade: h2c\r\n"], ids=["fast", "offer"])


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def early(request: Request) -> PlainTextResponse:
    return PlainTextResponse("no", status_code=413)


async def lasting(request: Request) -> StreamingResponse:
    async def events() -> Any:
        yield b"data: 1\n\n"
        await asyncio.sleep(LONG)
        yield b"data: 2\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def endless(request: Request) -> StreamingResponse:
    gone: asyncio.Event = request.app.state.gone

    async def blocks() -> Any:
        try:
            while True:
                yield bytes(65536)
                await asyncio.sleep(0)
        finally:
            gone.set()

    return StreamingResponse(blocks())


async def patience(request: Request) -> PlainTextResponse:
    await asyncio.sleep(LONG)
    return PlainTextResponse("at last")


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


def make_app() -> Starlette:
    app = Starlette(
        routes=[
            Route("/", echo, methods=["GET", "POST"]),
            Route("/early", early, methods=["POST"]),
            Route("/lasting", lasting),
            Route("/endless", endless),
            Route("/patience", patience),
            WebSocketRoute("/ws", talk),
        ]
    )
    app.state.gone = asyncio.Event()
    return app


@contextmanager
def serving(listen: Callable[..., Any], app: Any = None, **limits: Any) -> Iterator[tuple[str, Warden]]:
    settings = ServerSettings(**(SHORT | limits))
    warden = Warden(settings)
    http, ws = protocols(warden)
    with listen(
        Problems(app or make_app()), http=http, log_config=None, timeout_keep_alive=settings.idle_seconds, **{"ws": ws}
    ) as url:
        yield url, warden


def dial(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=30)


def rest(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    data = b""
    try:
        while block := connection.recv(65536):
            data += block
    except ConnectionResetError:
        pass
    return data


async def until(truth: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not truth():  # noqa: ASYNC110 - the server's thread rings no bell here
            await asyncio.sleep(0.01)


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1]) if answer else 0


def body(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@BOTH
def test_a_slow_head_is_408_in_fals_shape(listen, offer: str) -> None:
    with serving(listen) as (url, _), dial(url) as slow:
        slow.sendall(f"POST / HTTP/1.1\r\nHost: h\r\n{offer}X-Slow: ".encode())
        answer = rest(slow)
    assert status(answer) == 408
    assert "head" in body(answer)["detail"]
    assert b"x-fal-request-id: " in answer
    assert b"connection: close" in answer


def test_a_connection_that_says_nothing_is_closed_without_a_word(listen) -> None:
    with serving(listen) as (url, _), dial(url) as silent:
        assert rest(silent) == b""


def test_line_breaks_do_not_keep_a_connection_alive(listen) -> None:
    with serving(listen) as (url, _), dial(url) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = idle.recv(65536)
        idle.sendall(b"\r\n")
        assert status(answer) == 200
        assert status(rest(idle)) in (0, 408)


def test_an_idle_connection_is_closed(listen) -> None:
    with serving(listen) as (url, _), dial(url) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert status(rest(idle)) == 200


@BOTH
def test_a_slow_body_is_408_and_the_app_hears_that_its_client_is_gone(listen, offer: str) -> None:
    heard = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        while message["type"] == "http.request":
            message = await receive()
        heard.set()

    with serving(listen, app) as (url, _), dial(url) as slow:
        slow.sendall(f"POST / HTTP/1.1\r\nHost: h\r\n{offer}Content-Length: 1000\r\n\r\nfew".encode())
        answer = rest(slow)
    assert status(answer) == 408
    assert "8 KiB/s" in body(answer)["detail"]
    assert heard.is_set()


def test_a_fast_beginning_buys_no_slow_end(listen) -> None:
    with serving(listen) as (url, _), dial(url) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n" + bytes(200_000))
        assert status(rest(slow)) == 408


async def test_a_body_of_modest_pace_arrives_whole(listen) -> None:
    async def blocks() -> Any:
        for _ in range(20):
            yield bytes(4096)
            await asyncio.sleep(0.1)

    with serving(listen) as (url, _):
        async with httpx.AsyncClient(base_url=url) as client:
            answer = await client.post("/", content=blocks())
    assert (answer.status_code, answer.text) == (200, str(20 * 4096))


def test_a_body_that_was_refused_and_comes_on_is_cut(listen) -> None:
    with serving(listen) as (url, _), dial(url) as rude:
        rude.sendall(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n")
        assert status(rude.recv(65536)) == 413

        def go_on() -> None:
            for _ in range(90_000):  # MiB, as was announced: loopback carries a gigabyte before the clock ticks
                rude.sendall(bytes(2**20))

        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            go_on()


async def test_a_client_that_reads_nothing_is_cut(listen) -> None:
    app = make_app()
    with serving(listen, app) as (url, _), dial(url) as deaf:
        deaf.sendall(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(app.state.gone.is_set)


async def test_a_client_that_reads_slowly_gets_everything(listen) -> None:
    size = 40 * 1024 * 1024

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    def read_slowly(url: str) -> int:
        with dial(url) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            count = 0
            while block := slow.recv(1024 * 1024):
                count += len(block)
                slow.settimeout(30)
                asyncio.run(asyncio.sleep(0.05))
            return count

    with serving(listen, app) as (url, _):
        assert await asyncio.to_thread(read_slowly, url) > size


async def test_who_waits_for_us_is_left_alone(listen) -> None:
    """A long run, a long event stream and a silent WebSocket, while slow connections come and go."""
    with serving(listen) as (url, warden):
        slow = [dial(url) for _ in range(20)]
        async with (
            httpx.AsyncClient(base_url=url, timeout=30) as client,
            connect(url.replace("http", "ws") + "/ws") as ws,
        ):
            waiting = asyncio.create_task(client.get("/patience"))
            stream = asyncio.create_task(client.get("/lasting"))
            for connection in slow:
                connection.sendall(b"GET / HT")
            assert (await waiting).text == "at last"
            assert (await stream).text == "data: 1\n\ndata: 2\n\n"
            await ws.send("still there")
            assert await ws.recv() == "still there"
        assert all(status(rest(connection)) == 408 for connection in slow)
        for connection in slow:
            connection.close()
        await until(lambda: not len(warden))


async def test_one_connection_too_many_is_429_and_the_next_one_after_a_close_is_not(listen) -> None:
    with serving(listen, max_connections=3, head_seconds=30, idle_seconds=30) as (url, warden):
        held = [dial(url) for _ in range(3)]
        await until(lambda: len(warden) == 3)
        with dial(url) as crowded:
            crowded.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = rest(crowded)
        assert status(answer) == 429
        assert body(answer)["error_type"] == "concurrent_requests_limit"
        assert b"x-fal-needs-retry: 1" in answer.lower()
        held[0].sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert status(held[0].recv(65536)) == 200, "those who were there are served"
        for connection in held:
            connection.close()
        await until(lambda: not len(warden))
        with dial(url) as welcome:
            welcome.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert status(rest(welcome)) == 200


class Far:
    """A transport of somebody who is not on this machine."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get_extra_info(self, name: str) -> Any:
        return (self.address, 50000)

    def get_write_buffer_size(self) -> int:
        return 0


async def test_an_address_has_its_own_limit_and_loopback_has_none() -> None:
    warden = Warden(ServerSettings(max_connections_per_address=2))
    there = [Far("203.0.113.7") for _ in range(3)]
    assert [warden.open(far, None).crowded for far in there] == [False, False, True]  # type: ignore[arg-type]
    assert not warden.open(Far("203.0.113.8"), None).crowded  # type: ignore[arg-type]
    warden.close(there[0])  # type: ignore[arg-type]
    warden.close(there[1])  # type: ignore[arg-type]
    assert not warden.open(Far("203.0.113.7"), None).crowded  # type: ignore[arg-type]
    near = [Far("127.0.0.1") for _ in range(5)]
    assert not any(warden.open(one, None).crowded for one in near)  # type: ignore[arg-type]
    assert not any(warden.open(Far("::1"), None).crowded for _ in range(5))  # type: ignore[arg-type]
