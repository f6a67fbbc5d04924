"""Every error becomes bytes in one place; every answer carries its id; nothing is ever a bare 500."""

import asyncio
import inspect
import json
import logging
import socket
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from impasto import errors
from impasto.api.problems import PHRASES, Problems, answer, teach_uvicorn
from impasto.errors import ModelError, RequestError, StoreError, WireError


def every(kind: type[WireError]) -> Iterator[type[WireError]]:
    for child in kind.__subclasses__():
        yield child
        yield from every(child)


LEAVES = [  # what is loaded besides has its own
    kind for kind in every(WireError) if kind not in (RequestError, ModelError) and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_wire_error_becomes_an_answer_in_fals_shape(kind: type[WireError]) -> None:
    error = kind()
    found = answer(error)
    body = json.loads(found.body)
    assert found.status_code == kind.status
    assert 400 <= kind.status <= 599
    assert found.headers["content-type"] == "application/json"
    assert found.headers["x-fal-error-type"] == kind.error_type
    assert found.headers["x-fal-retryable"] in ("true", "false")
    assert error.message == inspect.getdoc(kind)
    if kind is errors.UnknownRequest:
        assert body == {"status": "NOT_FOUND"}
    else:
        assert body["detail"] == error.message
        assert body.get("error_type", kind.error_type) == kind.error_type
        assert set(body) <= {"detail", "error_type"}
    assert "nginx" not in found.body.decode()


def test_every_wire_error_is_enumerated() -> None:
    classes = {c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, WireError)}
    assert classes - {WireError, RequestError, ModelError} == set(LEAVES)


TABLE = {  # reference, protocol section 4 (a): the ones that this server can emit
    errors.RequestTimeout: (504, "request_timeout"),
    errors.RunnerDisconnected: (503, "runner_disconnected"),
    errors.ServiceUnavailable: (503, "runner_scheduling_failure"),
    errors.QueueFull: (429, "concurrent_requests_limit"),
    errors.ClientDisconnected: (499, "client_disconnected"),
    errors.ClientCancelled: (499, "client_cancelled"),
    errors.BadRequest: (400, "bad_request"),
    errors.InternalError: (500, "internal_error"),
}


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.__name__)
def test_request_errors_have_fals_status_and_type(kind: type[WireError]) -> None:
    assert (kind.status, kind.error_type) == TABLE[kind]


def test_a_model_error_is_a_list_with_string_locations() -> None:
    found = answer(ModelError.at("num_images", "Input should be less than or equal to 4", "less_than_equal", le=4))
    assert found.status_code == 422
    assert json.loads(found.body) == {
        "detail": [
            {
                "loc": ["body", "num_images"],
                "msg": "Input should be less than or equal to 4",
                "type": "less_than_equal",
                "url": "https://docs.fal.ai/errors#less_than_equal",
                "ctx": {"le": 4},
            }
        ]
    }
    assert found.headers["x-fal-billable-units"] == "0"
    assert found.headers["x-fal-retryable"] == "false"


def app_that(raises: BaseException, *, started: bool = False) -> httpx.AsyncClient:
    async def endpoint(request: Request) -> StreamingResponse:
        async def body() -> Iterator[bytes]:  # type: ignore[misc]
            yield b"x"
            raise raises

        if started:
            return StreamingResponse(body())  # type: ignore[arg-type]
        raise raises

    app = Starlette(routes=[Route("/{path:path}", endpoint)], middleware=[Middleware(Problems)])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://h")


async def test_an_unforeseen_exception_is_logged_and_answered_without_its_text(caplog) -> None:
    with caplog.at_level(logging.ERROR, logger="impasto.api"):
        async with app_that(ZeroDivisionError("secret detail")) as client:
            found = await client.get("/x")
    assert (found.status_code, found.json()) == (500, {"detail": "Internal Server Error"})
    assert found.headers["x-fal-error-type"] == "internal_error"
    assert found.headers["x-fal-request-id"]
    assert "secret detail" in caplog.text, "the operator sees the traceback"
    assert "Traceback" not in found.text


async def test_a_broken_store_is_503(caplog) -> None:
    async with app_that(StoreError("disk full")) as client:
        found = await client.get("/x")
    assert found.status_code == 503
    assert found.json()["error_type"] == "runner_scheduling_failure"
    assert "disk full" not in found.text
    assert "disk full" in caplog.text


async def test_an_exception_after_the_start_breaks_the_answer_off(caplog) -> None:
    async with app_that(ZeroDivisionError("late"), started=True) as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/x")
    assert "late" in caplog.text


async def test_phrases_are_installed_in_uvicorn() -> None:
    from uvicorn.protocols.http import h11_impl, httptools_impl

    teach_uvicorn()
    for status, phrase in PHRASES.items():
        assert httptools_impl.STATUS_LINE[status] == f"HTTP/1.1 {status} {phrase}\r\n".encode()
        assert h11_impl.STATUS_PHRASES[status] == phrase.encode()


async def test_x_fal_request_id_is_on_every_answer(client, keyed) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/healthz"),
        ("GET", "/nothing"),
        ("POST", "/fal-ai/none"),
        ("GET", "/fal-ai/flux-pro"),
        ("POST", "/fal-ai/flux-pro"),
        ("GET", "/queue/fal-ai/flux-pro/requests/x/status"),
        ("OPTIONS", "/fal-ai/flux-pro"),
        ("GET", "/files/none"),
        ("GET", "/api/fal/proxy"),
        ("PATCH", "/storage/auth/token"),
    ):
        found = await client.request(method, path)
        assert len(found.headers.get_list("x-fal-request-id")) == 1, (method, path)
        assert len(found.headers["x-fal-request-id"]) == 36
    async with keyed[0].client() as nobody:
        assert (await nobody.post("/fal-ai/flux-pro")).headers["x-fal-request-id"]


async def test_a_host_header_that_is_no_host_is_400(client) -> None:
    found = await client.get("/healthz", headers={"Host": "a b"})
    assert found.status_code == 400
    assert "Host" in found.json()["detail"]


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS to a plain port
        b"GET /fal-ai/\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /fal-ai/flux-pro HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_http_are_answered_in_fals_shape(server, listen, http: str, sent: bytes) -> None:
    with listen(server.app, http=http, log_config=None) as url:
        answer = await asyncio.to_thread(said, httpx.URL(url).port, sent)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")
    headers = httpx.Headers([(name, value) for name, _, value in (line.partition(": ") for line in lines[1:])])
    assert lines[0] == "HTTP/1.1 400 Bad Request"
    assert json.loads(body) == {"detail": "Invalid HTTP request received.", "error_type": "bad_request"}
    assert int(headers["content-length"]) == len(body)
    assert headers["content-type"] == "application/json"
    assert headers["x-fal-error-type"] == "bad_request"
    assert headers["connection"] == "close"
    assert len(headers["x-fal-request-id"]) == 36


def said(port: int | None, sent: bytes) -> bytes:
    """Everything that the server says to `sent` before it closes."""
    with socket.create_connection(("127.0.0.1", port or 0), timeout=10) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(65536), b""))


async def test_a_stopping_server_promises_no_more_than_it_keeps() -> None:
    """The caller may still be sending: what was not taken does not go on."""
    async with app_that(asyncio.CancelledError()) as client:
        found = await client.get("/x")
    assert (found.status_code, found.headers["x-fal-error-type"]) == (503, "runner_scheduling_failure")
    assert "a request that it has taken goes on after its restart" in found.json()["detail"]
