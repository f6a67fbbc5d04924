"""Odd requests in great number: every one gets an answer in fal's shape, none a 500."""

import random
from typing import Any

import httpx
import msgspec
import pytest

SEGMENTS = [
    "fal-ai", "flux-pro", "v1.1", "new", "requests", "x", "status", "stream", "response", "cancel", "queue", "files",
    "upload", "multipart", "complete", "1", "-1", "b", "storage", "auth", "token", "initiate", "tokens", "api", "fal",
    "proxy", "openapi", "queue.json", "workflows", "comfy", "12345-some", "%00", "%2e%2e", "%ff", "é", "..", "~", "a b",
    "v1", "models", "usage", "keys", "pricing", "payloads", "llms.txt", "sign", "acl", "delete_io",
    "requests%2Fx", "healthz", "9" * 5000, "\u0661", "",
]  # fmt: skip
HEADERS: list[tuple[bytes, list[bytes]]] = [
    (b"authorization", [b"", b"Key", b"Key a:b", b"Bearer x.y", b"\xff\xfe", b"Key " + b"a" * 5000]),
    (b"x-fal-target-url", [b"https://queue.fal.run/fal-ai/flux-pro", b"https://fal.run/api/fal/proxy", b"https://["]),
    (b"x-fal-target-url", [b"\xff", b"https://fal.run:" + b"9" * 5000, b"https://fal.run/%ff%00"]),
    (b"x-fal-request-timeout", [b"0.1", b"-", b"1e999", b"\xd9\xa1"]),
    (b"x-fal-queue-priority", [b"low", b"?", b"\xff"]),
    (b"idempotency-key", [b"k", b"", b"\xff\x00"]),
    (b"x-fal-object-lifecycle", [b"{}", b"[", b"\xff", b'{"expiration_duration_seconds":1e400}']),
    (b"x-fal-object-lifecycle-preference", [b'{"initial_acl":{"default":"hide"}}', b'{"initial_acl":5}', b"\xff"]),
    (b"x-fal-file-name", [b"../x", b"\xff", b"a" * 3000]),
    (b"content-type", [b"application/json", b"", b"image/png; x=\xff", b"\xff"]),
    (b"content-length", [b"5", b"\xb2", b"9" * 5000]),
    (b"range", [b"bytes=0-", b"bytes=\xd9\xa1-", b"bytes=" + b"9" * 5000 + b"-"]),
    (b"if-none-match", [b"*", b'"\xff"']),
    (b"accept", [b"image/png"]),
    (b"origin", [b"null", b"http://[", b"\xff"]),
    (b"access-control-request-headers", [b"a,b", b"\xff"]),
    (b"host", [b"queue.fal.run", b"rest.fal.ai", b"v3.fal.media", b"h:99999999", b"", b"\xff"]),
]  # fmt: skip
QUERIES = [
    "", "logs=1", "logs=%ff", "fal_webhook=x", "fal_webhook=http://[", "fal_max_queue_length=%D9%A1", "upload=a.b",
    "identity=1.x", "identity=%ff", "url=http://h/files/b/x", "url=http://[", "url=%ed%a0%80",
    "start=%00", "start=9999-12-31&end=x", "timezone=../etc", "cursor=%ff", "limit=\u0663", "timeframe=minute",
    "endpoint_id=%00", "endpoint_id=fal-ai/flux-pro", "fal_max_queue_length=" + "9" * 5000,
]  # fmt: skip
BODIES = [b"", b"{}", b'{"prompt":5}', b"[", b"null", b"\xff", b'{"parts":[]}', b'{"file_name":"\\u0000"}', b"[" * 9999]


def odd_request(draw: random.Random) -> dict[str, Any]:
    path = "/" + "/".join(draw.choice(SEGMENTS) for _ in range(draw.randint(0, 8)))
    if draw.random() < 0.2:
        path = (
            "/files/b/x/y.png" + draw.choice(["", "/multipart/x"]) + draw.choice(["/1", "/" + "9" * 5000, "/complete"])
        )
    elif draw.random() < 0.3:
        path = draw.choice(["/queue", ""]) + "/fal-ai/flux-pro" + draw.choice(["", "/requests/x", path])
    query = draw.choice(QUERIES)
    return {
        "method": draw.choice(["GET", "GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "BREW"]),
        "url": "http://127.0.0.1:8000" + path + (f"?{query}" if query else ""),
        "headers": [(name, draw.choice(values)) for name, values in HEADERS if draw.random() < 0.15],
        "content": draw.choice(BODIES),
    }


@pytest.mark.parametrize("auth", ["open", "keys"])
@pytest.mark.parametrize("seed", range(4))
async def test_no_request_makes_a_500(build, auth: str, seed: int) -> None:
    server = await build(auth=auth)
    draw = random.Random(seed)
    seen: set[int] = set()
    async with server.client() as client:
        for _ in range(400):
            odd = odd_request(draw)
            answer = await client.request(**odd)
            seen.add(answer.status_code)
            assert answer.status_code < 500, (odd, answer.text)
            check(answer, odd)
    assert len(seen) > 5, "the requests are odd in many ways"


def check(answer: httpx.Response, odd: dict[str, Any]) -> None:
    assert len(answer.headers["x-fal-request-id"]) == 36, odd
    assert answer.headers["access-control-allow-origin"] == "*", odd
    if answer.status_code < 400 or odd["method"] == "HEAD" or answer.status_code == 416:
        return
    body = msgspec.json.decode(answer.content)
    assert answer.headers["content-type"] == "application/json", odd
    if set(body) == {"error"}:
        assert body["error"]["message"], odd
    elif "detail" not in body:
        assert body["status"] in ("NOT_FOUND", "ALREADY_COMPLETED"), odd
    elif isinstance(body["detail"], list):
        assert all(isinstance(part, str) for item in body["detail"] for part in item["loc"]), odd
    else:
        assert body["detail"], odd
