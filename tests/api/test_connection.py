"""Clients that offer HTTP/2 on a plain connection are answered in HTTP/1.1, and nothing of what they send is lost."""

import asyncio
import json
import socket

import httpx
import pytest

from impasto.api.connection import protocols
from impasto.api.warden import Warden
from impasto.settings import ServerSettings

SUBMIT = "/queue/fal-ai/flux-pro"
JAVA = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\nUpgrade: h2c\r\n"


def post(prompt: str, headers: str) -> bytes:
    body = json.dumps({"prompt": prompt}).encode()
    head = f"POST {SUBMIT} HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def exchange(url: str, *requests: bytes) -> list[httpx.Response]:
    """The answers to `requests`, each sent over one connection after the answer to the one before."""
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=10) as connection:
        return [ask(connection, request) for request in requests]


def ask(connection: socket.socket, request: bytes) -> httpx.Response:
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return httpx.Response(int(status.split(" ")[1]), headers=headers, content=body)


@pytest.mark.parametrize("offer", [JAVA, JAVA.replace("Upgrade: h2c", "upgrade:H2C"), "", "Connection: keep-alive\r\n"])
async def test_a_body_arrives_whatever_upgrade_is_offered(server, listen, offer: str, caplog) -> None:
    requests = [post("first", offer), post("second", offer), post("third", "")]
    with listen(server.app, http=protocols(Warden(ServerSettings()))[0], log_config=None) as url:
        answers = await asyncio.to_thread(exchange, url, *requests)
    stored = [server.store.input(answer.json()["request_id"])["prompt"] for answer in answers]
    assert stored == ["first", "second", "third"]
    assert all(answer.headers["x-fal-request-id"] == answer.json()["request_id"] for answer in answers)
    assert "upgrade" not in caplog.text.lower()


async def test_a_body_that_looks_like_an_offer_is_a_body(server, listen) -> None:
    body = b"a\r\nUpgrade: h2c\r\n\r\nb"
    sent = b"POST /files/upload HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with listen(server.app, http=protocols(Warden(ServerSettings()))[0], log_config=None) as url:
        (answer,) = await asyncio.to_thread(exchange, url, sent)
        path = httpx.URL(answer.json()["access_url"]).path
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get(path)).content == body
