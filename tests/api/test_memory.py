"""What one key's clients make the server hold in memory is bounded, and comes back."""

import contextlib
import json
import socket
import struct
import time
from typing import Any

import httpx
import pytest

from impasto.api.connection import protocols
from impasto.api.memory import Buffers
from impasto.api.warden import Warden
from impasto.errors import TooMuchBuffered
from impasto.settings import ServerSettings

MIB = 2**20


def dial(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=20)


def unfinished(url: str, key: str, size: int) -> socket.socket:
    """A submit whose body lacks its last byte."""
    connection = dial(url)
    head = (
        f"POST /queue/fal-ai/flux-pro HTTP/1.1\r\nHost: h\r\nAuthorization: Key {key}\r\nContent-Length: {size}\r\n\r\n"
    )
    connection.sendall(head.encode())
    with contextlib.suppress(ConnectionError):  # refused before its end
        connection.sendall(b'{"prompt": "' + b"a" * (size - 13))
    return connection


def status(connection: socket.socket) -> int:
    data = b""
    try:
        while b"\r\n" not in data and (block := connection.recv(65536)):
            data += block
    except ConnectionResetError:
        pass
    return int(data.split(b" ")[1]) if data else 0


def eventually(truth: Any) -> None:
    end = time.monotonic() + 20
    while not truth():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def warden() -> Warden:
    return Warden(ServerSettings(max_buffered_key_mb=4, max_buffered_mb=6))


async def test_unfinished_bodies_of_one_key_are_bounded_and_the_others_served(
    keyed: Any, listen: Any, warden: Warden
) -> None:
    server, alice, bob = keyed
    http, _ = protocols(warden)
    holder = alice.partition(":")[0]
    with listen(server.app, http=http, log_config=None) as url:
        first = unfinished(url, alice, 3 * MIB)
        eventually(lambda: warden.buffers[holder] >= 3 * MIB - 64 * 1024)
        second = unfinished(url, alice, 3 * MIB)
        assert status(second) in (429, 0), "0: the refusal was lost, since the client went on writing"
        other = unfinished(url, bob, MIB)
        eventually(lambda: warden.buffers[bob.partition(":")[0]] >= MIB - 64 * 1024)
        eventually(lambda: warden.buffers[holder] <= 3 * MIB)
        first.close()
        second.close()
        eventually(lambda: warden.buffers[holder] == 0)
        third = unfinished(url, alice, 3 * MIB)
        eventually(lambda: warden.buffers[holder] >= 3 * MIB - 64 * 1024)
        third.close()
        other.close()


async def test_a_body_that_was_read_counts_no_more_once_it_is_answered(
    server: Any, listen: Any, warden: Warden
) -> None:
    http, _ = protocols(warden)
    with listen(server.app, http=http, log_config=None) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            for _ in range(3):
                answer = await client.post("/queue/fal-ai/flux-pro", json={"prompt": "a", "image_url": "x" * 3 * MIB})
                assert answer.status_code == 200
            assert warden.buffers["127.0.0.1"] == 0


def frame(size: int, *, sent: int) -> bytes:
    """The head of a text frame of `size` bytes, masked with zeros, and the first `sent` of them."""
    return bytes([0x81, 0xFF]) + struct.pack("!Q", size) + bytes(4) + b" " * sent


async def test_unfinished_frames_of_realtime_sockets_are_bounded(server: Any, listen: Any, warden: Warden) -> None:
    http, ws = protocols(warden)
    ask = (
        "GET /fal-ai/flux-pro/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with listen(server.app, http=http, ws=ws, log_config=None) as url:
        held = []
        for _ in range(2):
            connection = dial(url)
            connection.sendall(ask.encode())
            assert status(connection) == 101
            held.append(connection)
        held[0].sendall(frame(8 * MIB, sent=3 * MIB))
        eventually(lambda: warden.buffers["127.0.0.1"] >= 3 * MIB)
        try:
            held[1].sendall(frame(8 * MIB, sent=3 * MIB))
            while held[1].recv(65536):
                pass
        except ConnectionError:
            pass
        assert warden.buffers["127.0.0.1"] <= 4 * MIB
        for connection in held:
            connection.close()
        eventually(lambda: warden.buffers["127.0.0.1"] == 0)


async def test_answers_that_are_not_read_are_cut_past_the_share(listen: Any, warden: Warden) -> None:
    body = json.dumps("x" * 3 * MIB).encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body * 4})

    http, _ = protocols(warden)
    with listen(app, http=http, log_config=None) as url:
        deaf = [dial(url) for _ in range(3)]
        for connection in deaf:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        eventually(lambda: len(warden) == 0)
        for connection in deaf:
            connection.close()


def test_sums_are_judged_before_they_grow() -> None:
    buffers = Buffers(of_one=10, of_all=15)
    buffers.take("a", 10)
    with pytest.raises(TooMuchBuffered, match="max_buffered_key_mb"):
        buffers.take("a", 1)
    with pytest.raises(TooMuchBuffered, match="max_buffered_mb"):
        buffers.take("b", 6)
    buffers.take("b", 5)
    buffers.give("a", 10)
    assert (buffers["a"], buffers["b"], buffers.freed) == (0, 5, 10)
    Buffers(of_one=0, of_all=0).take("a", 10**12)
