"""Connections are shared by key and by client address; whether the server lives is answered whoever crowds it."""

import socket
from typing import Any

import httpx
import pytest

from impasto.api.addresses import Proxies, group_of
from impasto.api.connection import protocols
from impasto.api.warden import Warden
from impasto.settings import ServerSettings

LOCAL = ServerSettings().trusted_proxies


def answer(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (block := connection.recv(65536)):
        data += block
    return data


def dial(url: str, path: str, *, key: str = "", **headers: str) -> tuple[socket.socket, bytes]:
    """A connection that has asked once, and the head of its answer."""
    connection = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=10)
    lines = [f"GET {path} HTTP/1.1", "Host: h", *([f"Authorization: Key {key}"] if key else [])]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return connection, answer(connection)


def status(head: bytes) -> int:
    return int(head.split(b" ")[1])


class Crowd:
    def __init__(self, url: str) -> None:
        self.url = url
        self.held: list[socket.socket] = []

    def ask(self, path: str, **options: str) -> int:
        connection, head = dial(self.url, path, **options)
        self.held.append(connection)
        return status(head)

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.held:
            connection.close()


async def test_the_streams_of_one_key_leave_the_others_and_the_health_alone(keyed: Any, listen: Any) -> None:
    server, alice, bob = keyed
    waiting = "/queue/fal-ai/flux-pro/requests/{}/status/stream"
    async with server.client(key=alice) as client:
        request_id = (await client.post("/queue/fal-ai/flux-pro", json={"prompt": "a"})).json()["request_id"]
    http, _ = protocols(Warden(ServerSettings(max_connections_per_key=3)))
    with listen(server.app, http=http, log_config=None) as url, Crowd(url) as crowd:
        stream = waiting.format(request_id)
        assert [crowd.ask(stream, key=alice) for _ in range(5)] == [200, 200, 200, 429, 429]
        assert crowd.ask("/queue/fal-ai/flux-pro/requests/none/status", key=bob) == 404
        assert [crowd.ask(path) for path in ("/healthz", "/readyz", "/health")] == [200] * 3
        while crowd.held[4].recv(65536):  # a refused connection is not kept: it would count for nobody
            pass
        crowd.held[0].close()
        while (again := crowd.ask(stream, key=alice)) == 429:  # until the server has seen the close
            pass
        assert again == 200


async def test_an_idle_connection_counts_for_the_key_that_used_it_last(keyed: Any, listen: Any) -> None:
    server, alice, bob = keyed
    http, _ = protocols(Warden(ServerSettings(max_connections_per_key=2)))
    path = "/queue/fal-ai/flux-pro/requests/none/status"
    with listen(server.app, http=http, log_config=None) as url, Crowd(url) as crowd:
        assert [crowd.ask(path, key=alice) for _ in range(3)] == [404, 404, 429]
        connection = crowd.held[0]
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Key {bob}\r\n\r\n".encode())
        assert status(answer(connection)) in (200, 404)
        assert crowd.ask(path, key=alice) == 404


async def test_the_health_is_told_when_all_connections_are_taken(server: Any, listen: Any) -> None:
    http, _ = protocols(Warden(ServerSettings(max_connections=3)))
    with listen(server.app, http=http, log_config=None) as url, Crowd(url) as crowd:
        assert [crowd.ask("/openapi.json") for _ in range(5)] == [200, 200, 200, 429, 429]
        assert [crowd.ask(path) for path in ("/healthz", "/readyz", "/health?a=b")] == [200] * 3
        assert crowd.ask("/healthz/none") == 429


async def test_newcomers_are_heard_however_many_wait_for_their_refusal(server: Any, listen: Any) -> None:
    """Connections that say nothing must not keep a probe of the health out: the oldest of them go."""
    warden = Warden(ServerSettings(max_connections=3))
    http, _ = protocols(warden)
    with listen(server.app, http=http, log_config=None) as url, Crowd(url) as crowd:
        port = httpx.URL(url).port or 0
        crowd.held += [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(12)]
        assert [crowd.ask("/healthz") for _ in range(4)] == [200] * 4
        assert len(warden) <= 3 + 3 + 4


async def test_behind_a_local_proxy_the_clients_address_has_the_limit(server: Any, listen: Any) -> None:
    http, _ = protocols(Warden(ServerSettings(max_connections_per_address=2)))
    path = "/openapi.json"
    with listen(server.app, http=http, log_config=None) as url, Crowd(url) as crowd:
        one = [crowd.ask(path, X_Forwarded_For="203.0.113.7") for _ in range(3)]
        network = [crowd.ask(path, X_Forwarded_For=f"2001:db8:1:2::{n}") for n in range(3)]
        other = crowd.ask(path, X_Forwarded_For="2001:db8:1:3::1")
        local = [crowd.ask(path) for _ in range(4)]
        health = crowd.ask("/healthz", X_Forwarded_For="203.0.113.7")
    assert (one, network) == ([200, 200, 429], [200, 200, 429])
    assert (other, local, health) == (200, [200] * 4, 200)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("::1", "203.0.113.7", "203.0.113.7"),
        ("::ffff:127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the client wrote the first one itself
        ("127.0.0.1", "203.0.113.7, 127.0.0.1", "203.0.113.7"),
        ("127.0.0.1", "unknown, 203.0.113.7:4711", "203.0.113.7"),
        ("127.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("127.0.0.1", "203.0.113.7, nonsense", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("203.0.113.1", "198.51.100.1", "203.0.113.1"),  # not trusted: anybody can write the header
    ],
)
def test_a_proxy_is_believed_where_it_is_trusted(peer: str, forwarded: str, client: str) -> None:
    assert Proxies(LOCAL).client(peer, [(b"x-forwarded-for", forwarded.encode())]) == client


def test_clients_are_told_apart_by_what_one_of_them_can_fill() -> None:
    assert group_of("2001:db8:1:2::1") == group_of("2001:db8:1:2:ffff::9") != group_of("2001:db8:1:3::1")
    assert group_of("::ffff:203.0.113.7") == group_of("203.0.113.7") != group_of("203.0.113.8")
    assert group_of("fe80::1%eth0") == group_of("fe80::2")
    assert group_of("::1") == "::1"
