"""Requests that a proxy in front could read differently are refused: 400 whichever parser reads them (S11)."""

import contextlib
import json
import socket
from typing import Any

import httpx
import pytest

from impasto.api.connection import MAX_HEAD, protocols
from impasto.api.warden import Warden
from impasto.settings import ServerSettings

OFFERS = ["", "Connection: Upgrade\r\nUpgrade: h2c\r\n"]
GET = "GET /healthz HTTP/1.1\r\nHost: h\r\n"
POST = "POST /queue/fal-ai/flux-pro HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + "{offer}Transfer-Encoding: chunked\r\n\r\n"
BESIDE = ["0\r\n" + "a: b\r\n" * 100_000, "0\r\nA: " + "b" * 500_000, "1;" + "a" * 500_000]
PROBES = {
    "both lengths": POST + "{offer}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, the other order": POST + "{offer}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + "{offer}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}",
    "a signed length": POST + "{offer}Content-Length: +2\r\n\r\n{{}}",
    "a negative length": POST + "{offer}Content-Length: -2\r\n\r\n{{}}",
    "an unknown coding": POST + "{offer}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked not last": POST + "{offer}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "no host": "GET /healthz HTTP/1.1\r\n{offer}Accept: */*\r\n\r\n",
    "two hosts": GET + "{offer}Host: evil\r\n\r\n",
    "a space before the colon": GET + "{offer}X-A : b\r\n\r\n",
    "NUL in a value": GET + "{offer}X-A: b\0c\r\n\r\n",
    "a folded header": GET + "{offer}X-A: b\r\n c\r\n\r\n",
    "a folded tab": GET + "{offer}X-A: b\r\n\tc\r\n\r\n",
    "bare line feeds": "GET /healthz HTTP/1.1\nHost: h\n{offer}X-A: b\n\n",
    "a bare line feed in between": GET + "{offer}X-A: b\nX-B: c\r\n\r\n",
    "a bare carriage return": GET + "{offer}X-A: b\rX-B: c\r\n\r\n",
    "a chunk size that is no number": CHUNKED + "xyz\r\n{{}}\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + "-2\r\n{{}}\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + "2\r\n{{}}garbage\r\n0\r\n\r\n",
    "a line feed in a chunk's extension": CHUNKED + "2;a\nb\r\n{{}}\r\n0\r\n\r\n",
    "a header without a name": GET + "{offer}: b\r\n\r\n",
    "no HTTP at all": "hello\r\n\r\n",
}


def rest(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (block := connection.recv(65536)):
        data += block
    return data


@pytest.fixture
def ask(server: Any, listen: Any) -> Any:
    http, _ = protocols(Warden(ServerSettings()))
    with listen(server.app, http=http, log_config=None) as url:

        def send(request: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=10) as connection:
                connection.sendall(request)
                return rest(connection)

        yield send


@pytest.mark.parametrize("offer", OFFERS, ids=["fast", "patient"])
@pytest.mark.parametrize("probe", PROBES)
async def test_ambiguous_framing_is_400(ask: Any, server: Any, probe: str, offer: str) -> None:
    answer = ask(PROBES[probe].format(offer=offer).encode("latin-1"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request"), answer
    assert b"connection: close" in head
    assert b"x-fal-request-id: " in head
    assert json.loads(body)["error_type"] == "bad_request"
    assert server.store.queued() == 0, "no part of it became a request"


@pytest.mark.parametrize("offer", OFFERS, ids=["fast", "patient"])
async def test_a_head_has_its_size(ask: Any, offer: str) -> None:
    def head(size: int) -> bytes:
        return (GET + offer + "X-Long: " + "a" * size + "\r\n\r\n").encode()

    assert ask(head(MAX_HEAD - 1000)).startswith(b"HTTP/1.1 200 OK")
    assert ask(head(MAX_HEAD + 1000)).split(b" ")[1] in (b"431", b"400")
    assert ask(head(300_000)[:-4]).split(b" ")[1] in (b"431", b"400"), "its end is not waited for"
    many = (GET + offer + "".join(f"X-{n}: {n}\r\n" for n in range(9000)) + "\r\n").encode()
    assert ask(many).split(b" ")[1] in (b"431", b"400")


@pytest.mark.parametrize("offer", OFFERS, ids=["fast", "patient"])
@pytest.mark.parametrize("form", BESIDE, ids=["many trailers", "a long trailer", "a long extension"])
async def test_what_stands_beside_a_body_has_its_size(ask: Any, server: Any, form: str, offer: str) -> None:
    """Its end is not waited for, and it is not kept."""
    answer = b""
    with contextlib.suppress(ConnectionError):  # closed while the rest was on its way
        answer = ask((CHUNKED.format(offer=offer) + form).encode())
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"431")
    assert server.store.queued() == 0


@pytest.mark.parametrize("offer", OFFERS, ids=["fast", "patient"])
async def test_trailers_are_no_headers(ask: Any, server: Any, offer: str) -> None:
    body = '11\r\n{"prompt": "a"}  \r\n0\r\nX-Fal-Queue-Priority: low\r\n\r\n'
    answer = ask((CHUNKED.format(offer=offer) + body).encode())
    assert answer.startswith(b"HTTP/1.1 200 OK")
    (request,) = server.store.requests(limit=9)
    assert request.priority == 0


async def test_http_1_0_needs_no_host(ask: Any) -> None:
    assert ask(b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
