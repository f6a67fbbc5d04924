"""Server-sent events: the status of a request, and a run told while it happens."""

import asyncio
import json
from typing import Any

import httpx

from impasto.errors import ModelError
from impasto.fleet.messages import Preview, Progress
from impasto.store.records import Outcome, Status

APP = "/fal-ai/flux-pro"
WORK = {"lease": "l", "step": 7, "steps": 28, "image": 1}


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never happened")


def events(text: str) -> list[Any]:
    """The JSON of the data lines; every other line is a comment or empty."""
    lines = text.splitlines()
    assert all(line.startswith(("data: ", ":")) or not line for line in lines)
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


async def submitted(client: httpx.AsyncClient, **input_: Any) -> str:
    return (await client.post("/queue" + APP, json={"prompt": "a cat"} | input_)).json()["request_id"]


async def test_the_status_stream_tells_every_state_and_each_line_once(client, server) -> None:
    request_id = await submitted(client)
    asked = asyncio.create_task(client.get(f"/queue{APP}/requests/{request_id}/status/stream?logs=1"))
    await asyncio.sleep(0.1)
    request = await server.worker.take()
    for line in ("one", "two", "three"):
        await server.worker.log(request, line)
        await asyncio.sleep(0.02)
    await server.worker.draw(request)
    answer = await asked
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-encoding" not in answer.headers
    seen = events(answer.text)
    assert seen[0]["status"] == "IN_QUEUE"
    assert seen[-1]["status"] == "COMPLETED"
    assert (seen[0]["queue_position"], seen[0]["logs"]) == (0, None)
    assert [log["message"] for event in seen for log in event["logs"] or []] == ["one", "two", "three"]
    assert seen[-1]["metrics"] == {"inference_time": 0.25}


async def test_without_logs_they_are_null(client, server, working) -> None:
    request_id = await submitted(client)
    answer = await client.get(f"/queue{APP}/requests/{request_id}/status/stream")
    assert {event["logs"] for event in events(answer.text)} == {None}


async def test_a_completed_request_is_one_event(client, server, working) -> None:
    request_id = await submitted(client, num_images=99)
    await until(lambda: server.store.get(request_id).status is Status.COMPLETED)
    for form in (APP, APP + "/v1.1"):  # the app, and the whole id that some programs keep
        answer = await client.get(f"/queue/queue{form}/requests/{request_id}/status/stream/")
        (only,) = events(answer.text)
        assert (only["status"], only["error"]) == ("COMPLETED", "Invalid status code: 422")


async def test_an_unknown_request_is_404_not_a_stream(client) -> None:
    answer = await client.get(f"/queue{APP}/requests/764cabcf-b745-4b3e-ae38-1200304cf45b/status/stream")
    assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})


async def test_the_queue_streams_no_runs(client, server) -> None:
    for base in ("/queue", "https://queue.fal.run", "https://rest.fal.ai"):
        answer = await client.post(f"{base}{APP}/stream", json={"prompt": "a cat"})
        assert (answer.status_code, answer.json()) == (404, {"detail": "Path /stream not found"}), base
    assert server.store.queued() == 0


async def test_a_streamed_run_ends_with_the_output(client, server) -> None:
    asked = asyncio.create_task(client.post(APP + "/stream", json={"prompt": "a cat", "num_images": 2}))
    await until(lambda: server.worker.watched)
    await asyncio.sleep(0.05)
    request = await server.worker.take()
    id_ = request.request_id
    assert server.worker.watched == [id_]
    server.worker.steps[id_] = Progress(request_id=id_, images=2, **WORK)
    server.worker.seen[id_] = [Preview(request_id=id_, jpeg=b"\xff\xd8", width=32, height=24, **WORK)]
    await server.worker.log(request, "step 7/28")
    await asyncio.sleep(0.05)
    await server.worker.draw(request)
    answer = await asked
    assert answer.headers["x-fal-request-id"] == id_
    first, *middle, last = events(answer.text)
    assert (first["status"], first["progress"], first["images"]) == ("IN_QUEUE", 0.0, [])
    assert middle[-1]["progress"] == 0.125
    assert middle[-1]["images"] == [
        {"url": "data:image/jpeg;base64,/9g=", "width": 32, "height": 24, "content_type": "image/jpeg"}
    ]
    assert list(last) == ["images", "timings", "seed", "has_nsfw_concepts", "prompt"]
    assert len(last["images"]) == 2


async def test_what_is_wrong_before_the_first_byte_is_a_status(client) -> None:
    assert (await client.post(APP + "/stream", json={})).status_code == 422
    assert (await client.post("/fal-ai/nothing/stream", json={"prompt": "x"})).status_code == 404
    assert (await client.get(APP + "/stream")).status_code == 405


async def test_what_goes_wrong_later_is_the_last_event(client, server) -> None:
    asked = asyncio.create_task(client.post(APP + "/stream", json={"prompt": "a cat"}))
    await until(server.store.queued)
    request = await server.worker.take()
    await server.worker.fail(request, ModelError.at("prompt", "not that", "content_policy_violation"))
    answer = await asked
    assert answer.status_code == 200
    assert events(answer.text)[-1]["detail"][0]["type"] == "content_policy_violation"


async def test_a_start_that_comes_too_late_ends_the_stream(client, server) -> None:
    answer = await client.post(APP + "/stream", json={"prompt": "a"}, headers={"X-Fal-Request-Timeout": "0.1"})
    assert events(answer.text)[-1]["error_type"] == "request_timeout"


async def test_a_client_that_hangs_up_cancels(server, listen) -> None:
    with listen(server.app) as url:
        asking = httpx.AsyncClient(base_url=url)
        async with asking, asking.stream("POST", APP + "/stream", json={"prompt": "a cat"}) as answer:
            assert answer.status_code == 200
            id_ = answer.headers["x-fal-request-id"]
            async for line in answer.aiter_lines():
                assert line.startswith("data: ")
                break
        await until(lambda: server.store.get(id_).status is Status.COMPLETED)
    assert server.store.get(id_).outcome is Outcome.CANCELLED
