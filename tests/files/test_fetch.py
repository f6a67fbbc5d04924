"""The guarded fetcher: nothing that is not public is ever connected to, whatever URL, name or redirect say."""

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from impasto.files.fetch import (
    PIECE,
    FetchError,
    FetchFailed,
    FetchPolicy,
    FetchRefused,
    FetchTooLarge,
    Stream,
    fetch,
    send,
)
from impasto.settings import FetchSettings, Settings

PUBLIC = "93.184.215.14"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png; x=1\r\nContent-Length: 5\r\n\r\nhello"


class Net:
    """Names and a web server of the test; every connection is written down and led to the server on loopback."""

    def __init__(self) -> None:
        self.names: dict[str, list[list[str]]] = {}  # the answers to one look-up after another
        self.looked_up: list[str] = []
        self.connected: list[tuple[str, int, str]] = []
        self.answers: list[bytes] = []
        self.asked: list[bytes] = []
        self.port = 0
        self.serving: set[Any] = set()

    async def resolve(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        answers = self.names.get(host)
        if answers is None:
            raise OSError("unknown")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def connect(self, address: str, port: int, *, tls: ssl.SSLContext | None, name: str) -> Stream:
        self.connected.append((address, port, name))
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(task := asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            first, *rest = self.answers.pop(0).split(b"<wait>")
            writer.write(first)
            await writer.drain()
            for part in rest:
                await asyncio.sleep(0.05)
                writer.write(part)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.serving.discard(task)

    def policy(self, *allow: str) -> FetchPolicy:
        base = FetchPolicy.of(Settings(fetch=FetchSettings(allow=allow)))
        return FetchPolicy(
            ports=base.ports, networks=base.networks, hosts=base.hosts, resolve=self.resolve, connect=self.connect
        )

    async def get(self, url: str, *allow: str, max_bytes: int = 1000, seconds: float = 5.0) -> Any:
        return await fetch(url, policy=self.policy(*allow), max_bytes=max_bytes, seconds=seconds)


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    made = Net()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    await asyncio.gather(*made.serving, return_exceptions=True)
    await server.wait_closed()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://168.63.129.16/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://198.18.0.1/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fc00::1]/",
        "http://[ff02::1]/",
        "http://user@93.184.215.14/",
        "http://93.184.215.14:22/",
        "http://93.184.215.14:6379/",
        "http://127。0。0。1/",
        "file:///etc/passwd",
        "gopher://93.184.215.14/",
        "//93.184.215.14/",
        "http://93.184.215.14\\@127.0.0.1/",
        "http://93.184.215.14/\r\nHost: x",
        "http://",
        "",
        "http://" + "a" * 9000,
    ],
)
async def test_nothing_is_connected_to(net: Net, url: str) -> None:
    with pytest.raises(FetchRefused):
        await net.get(url)
    assert net.connected == []


@pytest.mark.parametrize("answer", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::1"], ["169.254.169.254"]])
async def test_a_name_is_judged_by_all_its_addresses(net: Net, answer: list[str]) -> None:
    net.names["evil.example"] = [answer]
    with pytest.raises(FetchRefused):
        await net.get("http://evil.example/")
    assert net.connected == []


async def test_a_name_is_looked_up_once_and_connected_to_as_checked(net: Net) -> None:
    net.names["rebinding.example"] = [[PUBLIC], ["127.0.0.1"]]
    net.answers = [OK]
    got = await net.get("http://rebinding.example/a%20b.png?q=1")
    assert (got.data, got.media_type) == (b"hello", "image/png")
    assert net.looked_up == ["rebinding.example"]
    assert net.connected == [(PUBLIC, 80, "rebinding.example")]
    head = net.asked[0].decode()
    assert head.startswith("GET /a%20b.png?q=1 HTTP/1.1\r\n")
    assert "\r\nHost: rebinding.example\r\n" in head
    assert "authorization" not in head.lower()


def moved(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    "to", ["http://169.254.169.254/", "http://inner.example/", "file:///etc/passwd", "//127.0.0.1/"]
)
async def test_every_redirect_is_judged_anew(net: Net, to: str) -> None:
    net.names = {"inner.example": [["192.168.0.1"]], "outer.example": [[PUBLIC]]}
    net.answers = [moved(to)]
    with pytest.raises(FetchRefused):
        await net.get("http://outer.example/")
    assert [address for address, *_ in net.connected] == [PUBLIC]


async def test_redirects_are_followed_three_times(net: Net) -> None:
    net.names["outer.example"] = [[PUBLIC]]
    net.answers = [moved("/1"), moved("2"), moved("http://outer.example/3"), OK]
    assert (await net.get("http://outer.example/")).url == "http://outer.example/3"
    net.answers = [moved("/")] * 4
    with pytest.raises(FetchFailed, match="redirects more than 3"):
        await net.get("http://outer.example/")


async def test_the_operator_can_allow_networks_and_names_but_never_metadata(net: Net) -> None:
    net.names["studio.lan"] = [["10.1.2.3"]]
    net.answers = [OK, OK]
    assert (await net.get("http://studio.lan:9000/", "studio.lan")).data == b"hello"
    assert (await net.get("http://10.1.2.3:9000/", "10.0.0.0/8")).data == b"hello"
    for url in ("http://169.254.169.254/", "http://[::ffff:169.254.169.254]/"):
        with pytest.raises(FetchRefused):
            await net.get(url, "0.0.0.0/0", "::/0", "169.254.169.254")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", FetchTooLarge),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000, FetchTooLarge),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000, FetchTooLarge),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", FetchFailed),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", FetchFailed),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx", FetchFailed),
        (b"SSH-2.0-x\r\n\r\n", FetchFailed),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000, FetchFailed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: " + b"a" * 200_000, FetchFailed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: a\r\n" * 40_000 + b"\r\n", FetchFailed),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 200_000 + b"\r\nx\r\n", FetchFailed),
        (b"", FetchFailed),
    ],
    ids=[
        *("declared", "endless", "chunked", "short", "gzip", "404", "no http", "long head"),
        *("long trailer", "many trailers", "long extension", "nothing"),
    ],
)
async def test_bad_answers_end_early_with_a_reason(net: Net, answer: bytes, error: type[FetchError]) -> None:
    net.names["outer.example"] = [[PUBLIC]]
    net.answers = [answer]
    with pytest.raises(error) as caught:
        await net.get("http://outer.example/")
    assert caught.value.message


async def test_a_slow_answer_is_given_up(net: Net) -> None:
    net.names["outer.example"] = [[PUBLIC]]
    net.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" + b"x<wait>" * 12]
    with pytest.raises(FetchFailed, match="within"):
        await net.get("http://outer.example/", seconds=0.3)


async def test_what_is_not_kept_is_passed_on_whole_and_never_in_the_loops_own_thread(net: Net) -> None:
    net.names["a.example"] = [[PUBLIC]]
    body = os.urandom(2 * PIECE + 100)
    pieces: list[bytes] = []
    threads: set[threading.Thread] = set()

    def take(piece: bytes) -> None:
        pieces.append(piece)
        threads.add(threading.current_thread())

    for head in (f"Content-Length: {len(body)}\r\n\r\n", "\r\n"):  # the end is said, or is the connection's
        pieces.clear()
        net.answers.append(f"HTTP/1.1 200 OK\r\n{head}".encode() + body)
        url = "http://a.example/"
        got = await fetch(url, policy=net.policy(), max_bytes=len(body), seconds=30.0, into=take)
        assert (got.data, b"".join(pieces) == body) == (b"", True)
        assert 2 <= len(pieces) <= 3
    assert threading.main_thread() not in threads
    net.answers.append(b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!")
    pieces.clear()
    with pytest.raises(FetchFailed):
        await fetch("http://a.example/", policy=net.policy(), max_bytes=9, seconds=30.0, into=take)
    assert pieces == []


async def test_send_posts_and_follows_no_redirect(net: Net) -> None:
    net.names["hook.example"] = [[PUBLIC]]
    net.answers = [moved("http://127.0.0.1/")]
    sent = await send("http://hook.example/x", b"{}", headers={"X-A": "b"}, policy=net.policy(), seconds=5.0)
    assert sent.http_status == 302
    assert net.asked[0].startswith(b"POST /x HTTP/1.1\r\n")
    assert len(net.connected) == 1
