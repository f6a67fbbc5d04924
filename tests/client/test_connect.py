"""The listener: fal's hosts end at the server with their names kept, other hosts are reached untouched or refused."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from impasto.client import ca
from impasto.client.connect import Listener, Route, forward
from impasto.errors import ConfigError

EchoServers = Callable[..., Any]


@asynccontextmanager
async def listening(authority: ca.Authority, server: str, **route: Any) -> AsyncIterator[Listener]:
    listener = Listener(Route(server=server, **route), authority)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


def client(listener: Listener, *trusted: Path) -> httpx.AsyncClient:
    context = ssl.create_default_context()
    for certificate in (listener.authority.certificate, *trusted):
        context.load_verify_locations(certificate)
    return httpx.AsyncClient(
        proxy=f"http://127.0.0.1:{listener.connect_port}", verify=context, trust_env=False, timeout=30
    )


async def raw(listener: Listener, head: str) -> tuple[str, dict[str, Any]]:
    """The status line and the JSON body that the proxy port answers to `head`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.connect_port)
    writer.write(head.encode())
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    status, _, rest = answer.decode().partition("\r\n")
    body = rest.partition("\r\n\r\n")[2]
    return status, json.loads(body) if body else {}


async def test_fals_hosts_reach_the_server_under_their_own_names(authority: ca.Authority, server: str) -> None:
    async with listening(authority, server) as listener, client(listener) as http:
        for url in (
            "https://queue.fal.run/fal-ai/flux-pro?a=b%20c",
            "https://v3.fal.media/files/upload",
            "https://fal.run/x",
        ):
            said = (await http.post(url, content=b"{}")).json()
            assert said["headers"]["host"] == httpx.URL(url).host
            assert said["path"] == httpx.URL(url).raw_path.decode()
            assert said["body"] == "{}"
            assert said["headers"]["x-forwarded-proto"] == "https"


async def test_answers_stream_through(authority: ca.Authority, echo_server: EchoServers) -> None:
    """The first piece arrives while the server still holds the second: an event stream is not collected on the way."""
    running = echo_server()
    url = f"http://127.0.0.1:{running.port}"
    async with (
        listening(authority, url) as listener,
        client(listener) as http,
        http.stream("GET", "https://fal.run/slow") as answer,
    ):
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"one"
        running.go_on.set()
        assert await anext(pieces) == b"two"


async def test_a_big_body_passes_both_ways(authority: ca.Authority, server: str) -> None:
    body = "x" * 5_000_000
    async with listening(authority, server) as listener, client(listener) as http:
        assert (await http.put("https://v3.fal.media/files/upload", content=body)).json()["body"] == body


async def test_tls_port_serves_by_itself(authority: ca.Authority, server: str) -> None:
    """As the hosts file, FAL_RUN_HOST and the Node.js preload use it."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    async with listening(authority, server) as listener, httpx.AsyncClient(verify=context, trust_env=False) as http:
        said = (await http.get(f"https://127.0.0.1:{listener.tls_port}/x")).json()
        assert said["headers"]["host"] == f"127.0.0.1:{listener.tls_port}"


async def test_a_missing_server_is_said_in_the_answer(authority: ca.Authority) -> None:
    async with listening(authority, "http://127.0.0.1:9") as listener, client(listener) as http:
        answer = await http.get("https://queue.fal.run/x")
        assert answer.status_code == 502
        assert "No impasto server at http://127.0.0.1:9" in answer.json()["detail"]
        assert "impasto serve" in answer.json()["detail"]


async def test_other_hosts_are_refused_unless_allowed(authority: ca.Authority, server: str) -> None:
    async with listening(authority, server) as listener:
        status, body = await raw(listener, "CONNECT example.com:443 HTTP/1.1\r\n\r\n")
        assert status == "HTTP/1.1 403 Forbidden"
        assert "example.com" in body["detail"]
        assert "--pass-through" in body["detail"]


async def test_other_hosts_pass_untouched_when_allowed(
    authority: ca.Authority, server: str, echo_server: EchoServers, tmp_path: Path
) -> None:
    foreign = ca.ensure(tmp_path / "foreign")
    running = echo_server("elsewhere", foreign.server_context())
    url = f"https://localhost:{running.port}/x"
    async with listening(authority, server, pass_through=True) as listener:
        async with client(listener, foreign.certificate) as http:
            assert (await http.get(url)).json()["name"] == "elsewhere"
        async with client(listener) as http:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.get(url)


async def test_other_hosts_go_by_way_of_the_programs_own_proxy(
    authority: ca.Authority, server: str, echo_server: EchoServers, tmp_path: Path
) -> None:
    foreign = ca.ensure(tmp_path / "foreign")
    running = echo_server("elsewhere", foreign.server_context())
    heads: list[str] = []

    async def corporate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"HTTP/1.1 200 OK\r\nVia: corporate\r\n\r\n")

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while chunk := await source.read(65536):
                sink.write(chunk)
            sink.close()

        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    proxy = await asyncio.start_server(corporate, "127.0.0.1", 0)
    upstream = f"http://us%40er:pass@127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    async with (
        proxy,
        listening(authority, server, pass_through=True, upstream=upstream) as listener,
        client(listener, foreign.certificate) as http,
    ):
        assert (await http.get(f"https://localhost:{running.port}/x")).json()["name"] == "elsewhere"
        assert (await http.get("https://fal.run/x")).json()["name"] == "impasto"
    credentials = base64.b64encode(b"us@er:pass").decode()
    assert len(heads) == 1
    assert heads[0].startswith(f"CONNECT localhost:{running.port} HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {credentials}\r\n" in heads[0]


async def test_a_host_that_cannot_be_reached_is_502(authority: ca.Authority, server: str) -> None:
    async with listening(authority, server, pass_through=True) as listener:
        status, body = await raw(listener, "CONNECT 127.0.0.1:9 HTTP/1.1\r\n\r\n")
        assert status == "HTTP/1.1 502 Bad Gateway"
        assert "127.0.0.1:9" in body["detail"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET http://fal.run/ HTTP/1.1\r\nHost: fal.run\r\n\r\n", "405 Method Not Allowed"),
        ("CONNECT fal.run HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("CONNECT fal.run:99999 HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("CONNECT :443 HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("CONNECT fal.run:80 HTTP/1.1\r\n\r\n", "403 Forbidden"),
        (f"CONNECT fal.run:443 HTTP/1.1\r\nX: {'x' * 20_000}\r\n\r\n", "431 Request Header Fields Too Large"),
    ],
)
async def test_what_is_no_tunnel_is_told_so(authority: ca.Authority, server: str, head: str, status: str) -> None:
    async with listening(authority, server) as listener:
        line, body = await raw(listener, head)
        assert line == f"HTTP/1.1 {status}"
        assert body["detail"].startswith("impasto: ")


async def test_stop_ends_open_tunnels(authority: ca.Authority, server: str) -> None:
    async with listening(authority, server) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.connect_port)
        writer.write(b"CONNECT fal.run:443 HTTP/1.1\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "route", [{"server": "http://x/prefix"}, {"server": "x"}, {"server": "http://x", "upstream": "socks5://y"}]
)
def test_a_route_that_cannot_work_is_refused(route: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Route(**route)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /1 HTTP/1.1\r\nHost: fal.run\r\n\r\n",
        b"POST /2 HTTP/1.1\r\nHost: fal.run\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /3 HTTP/1.1\r\nHost: fal.run\r\ntransfer-encoding: Chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
        b"PUT /4 HTTP/1.1\r\nHost: fal.run\r\nContent-Length: 0\r\n\r\n",
        b"POST /5 HTTP/1.1\r\nHost: fal.run\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000,
        b"GET /6 HTTP/1.1\r\nHost: fal.run\r\nUpgrade: websocket\r\n\r\n\x00\x01 anything \r\n\r\n at all",
    ],
    ids=["get", "length", "chunked", "empty", "large", "upgrade"],
)
async def test_each_request_says_that_it_came_by_tls_and_is_the_same_else(request_: bytes) -> None:
    """Three requests on one connection: the ends of the bodies are found."""
    mark = b"X-Forwarded-Proto: https\r\n"
    times = 1 if b"Upgrade" in request_ else 3
    reader = asyncio.StreamReader(limit=64 * 1024)
    reader.feed_data(request_ * times)
    reader.feed_eof()
    received: list[bytes] = []

    async def collect(far: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await far.read())
        writer.close()

    async with await asyncio.start_server(collect, "127.0.0.1", 0) as server:
        far, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await forward(reader, writer)
        await far.read()
        writer.close()
        await writer.wait_closed()
    assert received[0].count(mark) == times
    assert received[0].replace(mark, b"") == request_ * times


async def test_what_is_no_http_is_answered_400(authority: ca.Authority, server: str) -> None:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    async with listening(authority, server) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.tls_port, ssl=context)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 400 Bad Request\r\n")
        writer.close()
        await writer.wait_closed()
