"""What one key may have waiting and running, how often one request may be sent, and what else a queue is asked for."""

import asyncio
from typing import Any

import httpx
import pytest

from impasto.api.connection import protocols
from impasto.api.warden import Warden
from impasto.settings import ServerSettings

APP = "/fal-ai/flux-pro"
QUEUE = "/queue" + APP
INPUT = {"prompt": "a cat"}


def is_busy(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["error_type"], answer.headers["x-fal-needs-retry"]) == (
        429,
        "concurrent_requests_limit",
        "1",
    )


async def two_keys(build: Any, **queue: int) -> tuple[Any, str, str]:
    server = await build(auth="keys", queue=queue)
    _, alice = await server.store.create_key(alias="alice", scopes=["API"])
    _, bob = await server.store.create_key(alias="bob", scopes=["API"])
    return server, alice, bob


async def test_a_key_s_queue_has_an_end_and_another_key_s_begins(build) -> None:
    server, alice, bob = await two_keys(build, max_queued=3)
    async with server.client(key=alice) as hers, server.client(key=bob) as his:
        answers = [await hers.post(QUEUE, json=INPUT) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert is_busy(answers[-1])
        assert "queue.max_queued" in answers[-1].json()["detail"]
        assert (await his.post(QUEUE, json=INPUT)).status_code == 200
        await server.worker.take()
        assert (await hers.post(QUEUE, json=INPUT)).status_code == 200


async def test_past_its_running_limit_a_key_s_queue_waits_and_its_sync_run_is_429(build) -> None:
    server, alice, bob = await two_keys(build, max_running=1)
    async with server.client(key=alice) as hers, server.client(key=bob) as his:
        first = (await hers.post(QUEUE, json=INPUT)).json()
        second = (await hers.post(QUEUE, json=INPUT)).json()
        assert second["status"] == "IN_QUEUE"
        for path in (APP, APP + "/stream"):
            assert is_busy(await hers.post(path, json=INPUT))
        running = await server.worker.take()
        assert running.request_id == first["request_id"]
        with pytest.raises(AssertionError, match="nothing is waiting"):
            await server.worker.take()
        await his.post(QUEUE, json=INPUT)
        other = await server.worker.take()
        assert other.request_id != second["request_id"]
        await server.worker.draw(running)
        assert (await server.worker.take()).request_id == second["request_id"]


async def test_nobody_s_requests_have_no_limit(build) -> None:
    server = await build(queue={"max_queued": 1, "max_running": 1})
    async with server.client() as client:
        answers = [await client.post(QUEUE, json=INPUT) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}


async def test_fifty_at_once_with_one_idempotency_key_are_one_request(server, listen) -> None:
    http, _ = protocols(Warden(ServerSettings()))
    with listen(server.app, http=http, log_config=None) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            headers = {"Idempotency-Key": "the same"}
            answers = await asyncio.gather(*(client.post(QUEUE, json=INPUT, headers=headers) for _ in range(50)))
            other = await client.post(QUEUE, json={"prompt": "another"}, headers=headers)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["request_id"] for answer in answers}) == 1
    assert server.store.queued() == 1
    (item,) = other.json()["detail"]
    assert (other.status_code, item["loc"]) == (422, ["header", "Idempotency-Key"])
    assert {"msg", "type"} <= set(item)


HINTS = {
    "X-Fal-Runner-Hint": "session-7",
    "X-Fal-Retry-Config": '{"max_retries": 3}',
    "X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds": 3600}',
    "X-App-Fal-Disable-Fallback": "true",
    "X-Fal-Tags": "a,b",
    "X-Fal-Client-Proxy": "@fal-ai/server-proxy",
    "X-Amzn-Trace-Id": "Root=1",
}


@pytest.mark.parametrize("name", HINTS)
async def test_a_hint_never_hinders(client, server, name: str) -> None:
    answer = await client.post(QUEUE, json=INPUT, headers={name: HINTS[name]})
    assert answer.status_code == 200
    await server.worker.draw(await server.worker.take())
    found = await client.get(f"{QUEUE}/requests/{answer.json()['request_id']}", headers={name: HINTS[name]})
    assert found.status_code == 200


async def test_store_io_off_forgets_the_input_and_soon_the_output(client, server) -> None:
    body = (await client.post(QUEUE, json=INPUT, headers={"X-Fal-Store-IO": "0"})).json()
    await server.worker.draw(await server.worker.take())
    assert server.store.input(body["request_id"]) == {}
    assert (await client.get(f"{QUEUE}/requests/{body['request_id']}")).json()["prompt"] == "a cat"
