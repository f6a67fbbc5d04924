"""The sync run: submit, wait, answer; and what happens when one side does not wait any longer."""

import asyncio
import json
import socket
import threading
from typing import Any

import httpx
import pytest

from impasto.errors import ClientCancelled, InternalError, ModelError, RunnerDisconnected
from impasto.store.records import Outcome, Status

APP = "/fal-ai/flux-pro"


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never happened")


async def test_run_answers_with_the_output_and_its_request_id(client, server, working) -> None:
    answer = await client.post(APP, json={"prompt": "a cat", "seed": 2**64 - 1, "image_size": "square"})
    assert answer.status_code == 200
    output = answer.json()
    assert list(output) == ["images", "timings", "seed", "has_nsfw_concepts", "prompt"]
    assert output["seed"] == 2**64 - 1
    assert answer.headers["x-fal-request-id"] == working.taken[0]
    assert (await client.get(output["images"][0]["url"])).status_code == 200
    assert server.store.get(working.taken[0]).outcome is Outcome.OK


@pytest.mark.parametrize("path", [APP + "/", "/fal-ai/flux-pro/new", "/fal-ai/flux-pro/v1.1"])
async def test_every_endpoint_runs(client, working, path: str) -> None:
    assert (await client.post(path, json={"prompt": "a"})).status_code == 200


async def test_sync_mode_answers_with_the_picture_itself(client, working) -> None:
    answer = await client.post(APP, json={"prompt": "a", "sync_mode": True, "output_format": "png"})
    image = answer.json()["images"][0]
    assert image["url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert image["content_type"] == "image/png"


async def test_what_the_clients_really_send(client, working) -> None:
    hugging_face = {
        "prompt": "a cat", "num_inference_steps": 28, "guidance_scale": 3.5, "seed": 7,
        "image_size": {"width": 640, "height": 480},
    }  # fmt: skip
    answer = await client.post(
        APP, json=hugging_face, headers={"Accept": "image/png", "X-Amzn-Trace-Id": "1-2", "authorization": "Key k:s"}
    )
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json()["images"][0]["width"], answer.json()["images"][0]["height"]) == (640, 480)
    ai_sdk = {
        "prompt": "a cat", "seed": 7, "image_size": "landscape_16_9", "num_images": 1, "guidance_scale": 3.5,
        "num_inference_steps": 28, "output_format": "png", "sync_mode": False, "safety_tolerance": "3",
    }  # fmt: skip
    assert (await client.post(APP, json=ai_sdk)).status_code == 200
    litellm = {"prompt": "a cat", "num_images": 1, "image_size": "square_hd"}
    assert (await client.post("/fal-ai/flux-pro/v1.1", json=litellm)).status_code == 200
    python = {"X-Fal-Store-IO": "0", "X-Fal-Runner-Hint": "h1", "X-Fal-Request-Timeout": "30.0"}
    assert (await client.post(APP, json={"prompt": "a cat"}, headers=python)).status_code == 200


async def test_a_bad_input_is_422_at_once_and_never_stored(client, server) -> None:
    answer = await client.post(APP, json={"num_images": 0, "image_size": {"width": 0}})
    assert answer.status_code == 422
    assert [item["loc"] for item in answer.json()["detail"]] == [
        ["body", "prompt"],
        ["body", "image_size", "width"],
        ["body", "num_images"],
    ]
    assert answer.headers["x-fal-billable-units"] == "0"
    assert answer.headers["x-fal-retryable"] == "false"
    assert "x-fal-request-id" in answer.headers
    assert server.store.queued() == 0


@pytest.mark.parametrize(
    "error",
    [InternalError(), RunnerDisconnected(), ModelError.at("prompt", "flagged", "content_policy_violation")],
    ids=lambda error: type(error).__name__,
)
async def test_a_failure_is_answered_as_it_was_stored(client, server, error: Any) -> None:
    waiting = asyncio.create_task(client.post(APP, json={"prompt": "a"}))
    await until(lambda: server.store.queued() == 1)
    await server.worker.fail(await server.worker.take(), error)
    answer = await waiting
    assert (answer.status_code, answer.json()) == (error.status, error.body())
    for name, value in error.headers().items():
        assert answer.headers[name] == value
    assert answer.headers["x-fal-request-id"] == server.worker.taken[0]


async def test_not_started_in_time_is_504_of_the_user(client, server) -> None:
    answer = await client.post(APP, json={"prompt": "a"}, headers={"X-Fal-Request-Timeout": "0.2"})
    assert answer.status_code == 504
    assert answer.json()["error_type"] == "request_timeout"
    assert answer.headers["x-fal-request-timeout-type"] == "user"
    assert answer.headers["x-fal-error-type"] == "request_timeout"
    assert server.store.queued() == 0


@pytest.mark.parametrize("path", [APP, APP + "/stream", "/openai/v1/images/generations"])
async def test_a_second_caller_has_a_start_limit_of_its_own(client, server, monkeypatch, path: str) -> None:
    """The first call set none for the request that both wait for."""
    sweeps = 0
    sweep = server.store.sweep

    async def counted() -> int:
        nonlocal sweeps
        sweeps += 1
        return await sweep()

    monkeypatch.setattr(server.store, "sweep", counted)
    body = {"prompt": "a"} | ({"model": "fal-ai/flux-pro", "stream": True} if "openai" in path else {})
    key = {"Idempotency-Key": "k"}
    first = asyncio.create_task(client.post(path, json=body, headers=key))
    await until(lambda: server.store.queued() == 1)
    async with asyncio.timeout(30):
        second = await client.post(path, json=body, headers=key | {"X-Fal-Request-Timeout": "0.2"})
    assert "did not start within the time" in second.text
    if path == APP:
        assert (second.status_code, second.json()["error_type"]) == (504, "request_timeout")
    assert sweeps == 1
    assert server.store.queued() == 1, "the first caller waits on"
    await server.worker.draw(await server.worker.take())
    assert (await first).status_code == 200


async def test_the_start_limit_does_not_end_work_that_has_begun(client, server) -> None:
    waiting = asyncio.create_task(client.post(APP, json={"prompt": "a"}, headers={"X-Fal-Request-Timeout": "0.3"}))
    await until(lambda: server.store.queued() == 1)
    request = await server.worker.take()
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await server.worker.draw(request)
    assert (await waiting).status_code == 200


async def test_a_cancelled_run_is_499(client, server) -> None:
    waiting = asyncio.create_task(client.post(APP, json={"prompt": "a"}))
    await until(lambda: server.store.queued() == 1)
    request = await server.worker.take()
    await server.store.cancel(request.request_id)
    await server.worker.fail(request, ClientCancelled())
    answer = await waiting
    assert answer.status_code == 499
    assert answer.json() == {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"}


async def test_many_runs_at_once_each_get_their_own(client, working) -> None:
    answers = await asyncio.gather(
        *(client.post(APP, json={"prompt": f"cat {i}", "seed": i, "image_size": "square"}) for i in range(30))
    )
    assert [(a.json()["prompt"], a.json()["seed"]) for a in answers] == [(f"cat {i}", i) for i in range(30)]
    assert len({a.headers["x-fal-request-id"] for a in answers}) == 30


async def test_run_is_post_only(client) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE", "HEAD"):
        answer = await client.request(method, APP)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        if method != "HEAD":
            assert answer.json() == {"detail": "Method Not Allowed"}


async def test_unknown_applications_and_paths(client) -> None:
    answer = await client.post("/fal-ai/nothing", json={})
    assert (answer.status_code, answer.json()) == (404, {"detail": 'Application "nothing" not found'})
    assert answer.headers["x-fal-error-type"] == "not_found"
    answer = await client.post("/fal-ai/flux-pro/xyz", json={})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Path /xyz not found"})
    assert answer.headers["x-fal-billable-units"] == "0"
    answer = await client.get("/favicon.ico")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Path /favicon.ico not found"})


async def test_models_are_not_run_on_the_rest_and_file_hosts(server) -> None:
    for host in ("rest.fal.ai", "v3.fal.media"):
        async with server.client(base=f"https://{host}") as client:
            assert (await client.post(APP, json={"prompt": "a"})).status_code == 404
    assert server.store.queued() == 0


# ---------------------------------------------------------------- over a real socket


def raw(url: str, body: bytes, *, path: str = APP, headers: str = "") -> socket.socket:
    host, port = httpx.URL(url).host, httpx.URL(url).port
    connection = socket.create_connection((host, port or 80))
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return connection


async def test_a_client_that_hangs_up_cancels_its_request(server, listen) -> None:
    with listen(server.app) as url:
        connection = await asyncio.to_thread(raw, url, json.dumps({"prompt": "a"}).encode())
        await until(lambda: server.store.queued() == 1)
        connection.close()
        await until(lambda: server.store.queued() == 0)

        connection = await asyncio.to_thread(raw, url, json.dumps({"prompt": "b"}).encode())
        await until(lambda: server.store.queued() == 1)
        request = await server.worker.take()
        connection.close()
        await until(lambda: server.store.get(request.request_id).cancel_requested)
        assert server.store.get(request.request_id).status is Status.IN_PROGRESS


@pytest.mark.parametrize("path", ["/fal-ai/flux-pro", "/fal-ai/flux-pro/stream"])
async def test_a_client_that_may_come_back_with_its_idempotency_key_finds_its_request(
    server, listen, path: str
) -> None:
    body = json.dumps({"prompt": "a"}).encode()
    with listen(server.app) as url:
        for _ in range(2):
            connection = await asyncio.to_thread(raw, url, body, path=path, headers="Idempotency-Key: k\r\n")
            await until(lambda: server.store.queued() == 1)
            await asyncio.sleep(0.1)
            connection.close()
            await asyncio.sleep(0.2)
        request = await server.worker.take()
        assert not server.store.get(request.request_id).cancel_requested
        assert server.store.queued() == 0, "both calls are one request"


async def test_status_lines_carry_the_phrases_that_clients_show(server, listen) -> None:
    with listen(server.app) as url:
        waiting = asyncio.create_task(asyncio.to_thread(_status_line, url, b'{"prompt": "a"}'))
        await until(lambda: server.store.queued() == 1)
        request = await server.worker.take()
        await server.worker.fail(request, ClientCancelled())
        assert await waiting == "HTTP/1.1 499 Client Closed Request"
        assert await asyncio.to_thread(_status_line, url, b"{}") == "HTTP/1.1 422 Unprocessable Entity"
        assert await asyncio.to_thread(_status_line, url, b"{}", "/x/y") == "HTTP/1.1 404 Not Found"


def _status_line(url: str, body: bytes, path: str = APP) -> str:
    with raw(url, body, path=path) as connection:
        return connection.recv(4096).split(b"\r\n")[0].decode()


async def test_the_server_thread_of_the_tests_is_gone(server, listen) -> None:
    """Guards the helper: a server left running would make the others' findings worthless."""
    before = threading.active_count()
    with listen(server.app):
        pass
    await until(lambda: threading.active_count() <= before)
