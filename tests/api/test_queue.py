"""The queue as the clients see it: bodies, field order, status codes, words."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from impasto.errors import (
    InternalError,
    ModelError,
    RequestError,
    RequestTimeout,
    RunnerDisconnected,
    ServiceUnavailable,
    docs_url,
)

APP = "/fal-ai/flux-pro"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


async def submit(client: httpx.AsyncClient, path: str = "/queue" + APP, **more: Any) -> dict[str, Any]:
    answer = await client.post(path, json={"prompt": "a cat"}, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def url(body: dict[str, Any], tail: str = "") -> str:
    return f"/queue{APP}/requests/{body['request_id']}{tail}"


# ---------------------------------------------------------------- submit


async def test_submit_answers_in_the_order_of_the_real_service(client) -> None:
    answer = await client.post("/queue" + APP, json={"prompt": "a cat"})
    body = answer.json()
    assert answer.status_code == 200
    assert list(body) == [
        "status", "request_id", "response_url", "status_url", "cancel_url", "logs", "metrics", "queue_position",
    ]  # fmt: skip
    assert UUID.fullmatch(body["request_id"])
    base = f"http://127.0.0.1:8000/queue{APP}/requests/{body['request_id']}"
    assert body == {
        "status": "IN_QUEUE",
        "request_id": body["request_id"],
        "response_url": base,
        "status_url": base + "/status",
        "cancel_url": base + "/cancel",
        "logs": None,
        "metrics": {},
        "queue_position": 0,
    }
    assert answer.headers["x-fal-request-id"] == body["request_id"]
    assert answer.headers["content-type"] == "application/json"


async def test_queue_position_counts_those_ahead_and_low_waits_for_normal(client) -> None:
    low = await submit(client, headers={"X-Fal-Queue-Priority": "low"})
    first = await submit(client, headers={"X-Fal-Queue-Priority": "normal"})
    second = await submit(client)
    assert [first["queue_position"], second["queue_position"]] == [0, 1]
    assert (await client.get(url(low, "/status"))).json()["queue_position"] == 2


async def test_submit_never_validates_the_model_input(client, server) -> None:
    answer = await client.post("/queue" + APP, json={"num_images": 99})
    assert answer.status_code == 200
    await server.worker.draw(await server.worker.take())
    found = await client.get(url(answer.json()))
    assert found.status_code == 422
    assert [item["loc"] for item in found.json()["detail"]] == [["body", "prompt"], ["body", "num_images"]]
    assert found.headers["x-fal-request-id"] == answer.json()["request_id"]
    assert found.headers["x-fal-billable-units"] == "0"
    assert found.headers["x-fal-retryable"] == "false"


async def test_submit_without_a_body_is_an_empty_input(client) -> None:
    answer = await client.post("/queue" + APP, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", [APP, "/fal-ai/flux-pro/new", "/fal-ai/flux-pro/v1.1"])
async def test_urls_carry_the_app_only(client, path: str) -> None:
    body = await submit(client, "/queue" + path)
    assert f"/queue{APP}/requests/" in body["response_url"]
    assert (await client.get(httpx.URL(body["status_url"]).path)).status_code == 202


@pytest.mark.parametrize("prefix", ["/queue", "/queue/queue", "/queue/queue/queue", "/queue//queue/"])
async def test_the_prefix_may_be_repeated(client, prefix: str) -> None:
    body = await submit(client, prefix + APP)
    assert body["response_url"].startswith("http://127.0.0.1:8000/queue/fal-ai/flux-pro/requests/")
    assert (await client.get(f"{prefix}{APP}/requests/{body['request_id']}/status")).status_code == 202


async def test_every_path_takes_slashes_at_the_end_without_redirect(client, server) -> None:
    body = await submit(client, f"/queue{APP}/")
    assert (await client.get(url(body, "/status/"))).status_code == 202
    assert (await client.get(url(body, "/status//?logs=1"))).status_code == 202
    await server.worker.draw(await server.worker.take())
    assert (await client.get(url(body, "/status/?logs=1"))).status_code == 200
    assert (await client.get(url(body, "/"))).status_code == 200
    assert (await client.get(url(body, "/response/"))).status_code == 200
    assert (await client.put(url(body, "/cancel/"))).status_code == 400


async def test_whole_endpoint_ids_work_in_request_urls(client, server) -> None:
    body = await submit(client, "/queue/fal-ai/flux-pro/v1.1")
    whole = f"/queue/fal-ai/flux-pro/v1.1/requests/{body['request_id']}"
    assert (await client.get(whole + "/status")).status_code == 202
    await server.worker.draw(await server.worker.take())
    for tail in ("", "/response"):
        assert (await client.get(whole + tail)).status_code == 200
    assert (await client.put(whole + "/cancel")).json() == {"status": "ALREADY_COMPLETED"}


async def test_request_urls_work_without_the_prefix_too(client) -> None:
    body = await submit(client)
    assert (await client.get(f"{APP}/requests/{body['request_id']}/status")).status_code == 202


async def test_fal_hosts_get_fal_urls(server) -> None:
    async with server.client(base="https://queue.fal.run") as client:
        body = await submit(client, APP)
        base = f"https://queue.fal.run{APP}/requests/{body['request_id']}"
        assert [body["response_url"], body["status_url"], body["cancel_url"]] == [
            base,
            base + "/status",
            base + "/cancel",
        ]
        await server.worker.draw(await server.worker.take())
        picture = (await client.get(base)).json()["images"][0]["url"]
        assert picture.startswith("https://v3.fal.media/files/")
    async with server.client(base="https://v3.fal.media") as client:
        assert (await client.get(picture)).headers["content-type"] == "image/jpeg"


async def test_public_url_is_the_base_of_every_url(build) -> None:
    server = await build(public_url="https://draw.example.org")
    async with server.client() as client:
        body = await submit(client)
        assert body["status_url"].startswith("https://draw.example.org/queue/fal-ai/flux-pro/requests/")
        await server.worker.draw(await server.worker.take())
        assert (await client.get(url(body))).json()["images"][0]["url"].startswith("https://draw.example.org/files/b/")


async def test_unknown_applications_and_paths_are_refused_at_submit(client) -> None:
    answer = await client.post("/queue/fal-ai/flux-prow", json={})
    assert (answer.status_code, answer.json()) == (404, {"detail": 'Application "flux-prow" not found'})
    answer = await client.post("/queue/fal-ai/flux-pro/v9/x", json={})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Path /v9/x not found"})
    assert answer.headers["x-fal-billable-units"] == "0"


# ---------------------------------------------------------------- headers and query


async def test_what_the_caller_wants_is_stored(client, server) -> None:
    body = await submit(
        client,
        f"/queue{APP}?fal_webhook=https%3A%2F%2Fexample.com%2Fhook%3Fa%3D1%26b%3D2&_subdomain=queue",
        headers={
            "X-Fal-Queue-Priority": "low",
            "X-Fal-Request-Timeout": "12.5",
            "X-Fal-No-Retry": "1",
            "X-Fal-Store-IO": "0",
            "X-Fal-Runner-Hint": "h1",
            "X-Fal-Tags": "ignored",
        },
    )
    request = server.store.get(body["request_id"])
    assert request.webhook_url == "https://example.com/hook?a=1&b=2"
    assert (request.priority, request.no_retry, request.store_io) == (1, True, False)
    assert request.base_url == "http://127.0.0.1:8000"
    assert request.max_attempts == server.settings.queue.max_attempts


async def test_defaults_of_what_the_caller_wants(client, server) -> None:
    request = server.store.get((await submit(client))["request_id"])
    assert (request.priority, request.no_retry, request.store_io, request.webhook_url) == (0, False, True, None)


@pytest.mark.parametrize("value", ["true", "yes", "TRUE", "1"])
async def test_every_spelling_of_no_retry(client, server, value: str) -> None:
    body = await submit(client, headers={"X-Fal-No-Retry": value})
    assert server.store.get(body["request_id"]).no_retry


@pytest.mark.parametrize(
    ("query", "headers", "named"),
    [
        ("", {"X-Fal-Request-Timeout": "soon"}, "X-Fal-Request-Timeout"),
        ("", {"X-Fal-Request-Timeout": "-1"}, "X-Fal-Request-Timeout"),
        ("", {"X-Fal-Request-Timeout": "nan"}, "X-Fal-Request-Timeout"),
        ("", {"X-Fal-Request-Timeout": "inf"}, "X-Fal-Request-Timeout"),
        ("", {"X-Fal-Request-Start-Timeout": "soon", "X-Fal-Request-Timeout": "9"}, "X-Fal-Request-Start-Timeout"),
        ("", {"X-Fal-Queue-Priority": "urgent"}, "X-Fal-Queue-Priority"),
        ("?fal_webhook=ftp://x", {}, "fal_webhook"),
        ("?fal_webhook=/hook", {}, "fal_webhook"),
        ("?fal_webhook=http://[", {}, "fal_webhook"),
        ("?fal_max_queue_length=many", {}, "fal_max_queue_length"),
        ("", {"Idempotency-Key": "k" * 256}, "Idempotency-Key"),
    ],
)
async def test_values_without_sense_are_named(client, query: str, headers: dict[str, str], named: str) -> None:
    answer = await client.post(f"/queue{APP}{query}", json={"prompt": "a"}, headers=headers)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]
    assert answer.json()["error_type"] == "bad_request"
    assert answer.headers["x-fal-error-type"] == "bad_request"


@pytest.mark.parametrize(("query", "priority"), [("low", 1), ("LOW", 1), ("normal", 0), ("urgent", 0), ("", 0)])
async def test_a_priority_of_the_query_counts_when_it_is_known(client, server, query: str, priority: int) -> None:
    body = await submit(client, f"/queue{APP}?priority={query}")
    assert server.store.get(body["request_id"]).priority == priority
    body = await submit(client, f"/queue{APP}?priority=low", headers={"X-Fal-Queue-Priority": "normal"})
    assert server.store.get(body["request_id"]).priority == 0, "the header counts before the query"


async def test_a_sync_run_has_no_priority(client, server, working) -> None:
    answer = await client.post(APP + "?priority=low", json={"prompt": "a"}, headers={"X-Fal-Queue-Priority": "urgent"})
    assert answer.status_code == 200
    assert server.store.get(answer.headers["x-fal-request-id"]).priority == 0


async def test_a_full_queue_is_429_to_come_back_soon(client) -> None:
    for _ in range(2):
        await submit(client, f"/queue{APP}?fal_max_queue_length=1")
    answer = await client.post(f"/queue{APP}?fal_max_queue_length=1", json={"prompt": "a"})
    assert answer.status_code == 429
    assert answer.json()["error_type"] == "concurrent_requests_limit"
    assert answer.headers["x-fal-needs-retry"] == "1"
    assert answer.headers["x-fal-retryable"] == "true"
    assert "nginx" not in answer.text
    await submit(client, f"/queue{APP}?fal_max_queue_length=2")


async def test_the_bound_of_the_queue_is_for_new_requests_and_holds_for_many_at_once(client) -> None:
    path, key = f"/queue{APP}?fal_max_queue_length=0", {"Idempotency-Key": "k1"}
    first = await submit(client, path, headers=key)
    assert (await submit(client, path, headers=key))["request_id"] == first["request_id"], "it was accepted"
    path = "/queue/fal-ai/flux/dev?fal_max_queue_length=3"
    answers = await asyncio.gather(*(client.post(path, json={"prompt": "a"}) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 16


async def test_an_idempotency_key_makes_one_request(client, server) -> None:
    headers = {"Idempotency-Key": "k1"}
    bodies = await asyncio.gather(*(submit(client, headers=headers) for _ in range(10)))
    assert len({body["request_id"] for body in bodies}) == 1
    assert server.store.queued() == 1
    answer = await client.post("/queue" + APP, json={"prompt": "a dog"}, headers=headers)
    assert answer.status_code == 422
    (item,) = answer.json()["detail"]
    assert (item["loc"], item["url"]) == (["header", "Idempotency-Key"], docs_url("value_error"))
    await server.worker.draw(await server.worker.take())
    again = await client.post("/queue" + APP, json={"prompt": "a cat"}, headers=headers)
    assert again.json()["request_id"] == bodies[0]["request_id"]
    assert again.headers["x-fal-request-id"] == bodies[0]["request_id"]


@pytest.mark.parametrize("seed", ["42", " 42 ", 42.0])
async def test_a_seed_is_stored_as_it_is_drawn(client, server, seed: Any) -> None:
    assert (await client.post("/queue" + APP, json={"prompt": "a", "seed": seed})).status_code == 200
    request = await server.worker.take()
    assert request.seed == 42
    await server.worker.draw(request)
    assert server.store.result(request.request_id).payload["seed"] == 42


async def test_without_a_seed_one_is_drawn_that_every_client_can_echo(client, server) -> None:
    seeds = {server.store.get((await submit(client))["request_id"]).seed for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("seed", [0, 7, 2**53 + 1, 2**64 - 1])
async def test_a_seed_comes_back_exactly(client, server, seed: int) -> None:
    answer = await client.post("/queue" + APP, json={"prompt": "a", "seed": seed})
    assert server.store.get(answer.json()["request_id"]).seed == seed
    await server.worker.draw(await server.worker.take())
    found = await client.get(url(answer.json()))
    assert f'"seed":{seed},' in found.text


# ---------------------------------------------------------------- status


async def test_status_goes_202_202_200_with_the_fields_of_each_state(client, server) -> None:
    body = await submit(client)
    common = {name: body[name] for name in ("request_id", "response_url", "status_url", "cancel_url")}

    waiting = await client.get(url(body, "/status"))
    assert waiting.status_code == 202
    assert waiting.json() == {"status": "IN_QUEUE", **common, "queue_position": 0, "logs": None, "metrics": {}}

    request = await server.worker.take()
    running = await client.get(url(body, "/status"))
    assert running.status_code == 202
    assert running.json() == {"status": "IN_PROGRESS", **common, "logs": None, "metrics": {}}

    await server.worker.draw(request)
    done = await client.get(url(body, "/status"))
    assert done.status_code == 200
    assert done.json() == {"status": "COMPLETED", **common, "logs": None, "metrics": {"inference_time": 0.25}}
    assert (await client.get(url(body, "/status"))).json() == done.json(), "metrics do not move"
    for answer in (waiting, running, done):
        assert answer.headers["x-fal-request-id"] == body["request_id"]


@pytest.mark.parametrize("on", ["1", "true", "True"])
@pytest.mark.parametrize("off", ["0", "false", "False", "", None])
async def test_logs_are_null_unless_asked_for_and_then_a_list(client, server, on: str, off: str | None) -> None:
    query_off = "" if off is None else f"?logs={off}"
    body = await submit(client)
    assert (await client.get(url(body, f"/status?logs={on}"))).json()["logs"] is None, "nothing runs yet"
    request = await server.worker.take()
    assert (await client.get(url(body, f"/status?logs={on}"))).json()["logs"] == []
    assert (await client.get(url(body, f"/status{query_off}"))).json()["logs"] is None
    await server.worker.draw(request)
    assert (await client.get(url(body, f"/status?logs={on}"))).json()["logs"] == []
    assert (await client.get(url(body, f"/status{query_off}"))).json()["logs"] is None


async def test_polled_logs_are_cumulative_and_complete(client, server) -> None:
    body = await submit(client)
    request = await server.worker.take()
    await server.worker.log(request, "step 1")
    first = (await client.get(url(body, "/status?logs=1"))).json()["logs"]
    assert first == [
        {
            "timestamp": "2024-12-20T15:37:17.120314",
            "message": "step 1",
            "level": "INFO",
            "source": "USER",
            "labels": {},
        }
    ]
    await server.worker.log(request, "step 2")
    messages = [line["message"] for line in (await client.get(url(body, "/status?logs=1"))).json()["logs"]]
    assert messages == ["step 1", "step 2"]


# ---------------------------------------------------------------- result


async def test_result_is_the_models_output(client, server) -> None:
    body = (await client.post("/queue" + APP, json={"prompt": "a cat", "num_images": 2, "seed": 5})).json()
    await server.worker.draw(await server.worker.take())
    for tail in ("", "/response"):
        found = await client.get(url(body, tail))
        assert found.status_code == 200
        output = found.json()
        assert list(output) == ["images", "timings", "seed", "has_nsfw_concepts", "prompt"]
        assert (output["seed"], output["prompt"], output["has_nsfw_concepts"]) == (5, "a cat", [False, False])
        assert found.headers["x-fal-request-id"] == body["request_id"]
    image = output["images"][0]
    assert (image["width"], image["height"], image["content_type"]) == (1024, 768, "image/jpeg")
    picture = await client.get(image["url"])
    assert picture.status_code == 200
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content[:3] == b"\xff\xd8\xff"


async def test_result_before_completion_is_400(client, server) -> None:
    body = await submit(client)
    for _ in range(2):
        found = await client.get(url(body))
        assert (found.status_code, found.json()) == (400, {"detail": "Request is still in progress"})
        if not server.worker.taken:
            await server.worker.take()


@pytest.mark.parametrize(
    "error",
    [
        InternalError(),
        RunnerDisconnected(),
        ServiceUnavailable(),
        RequestTimeout(),
        ModelError.at("prompt", "flagged", "content_policy_violation"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_failure_keeps_its_status_body_and_headers(client, server, error: RequestError) -> None:
    body = await submit(client)
    await server.worker.fail(await server.worker.take(), error)
    status = await client.get(url(body, "/status"))
    assert status.status_code == 200
    assert status.json()["status"] == "COMPLETED"
    assert status.json()["error"] == f"Invalid status code: {error.status}"
    assert status.json()["error_type"] == error.error_type
    assert list(status.json())[-2:] == ["error", "error_type"]
    found = await client.get(url(body))
    assert (found.status_code, found.json()) == (error.status, error.body())
    for name, value in error.headers().items():
        assert found.headers[name] == value


async def test_a_start_that_came_too_late_is_504_of_the_user(client, server) -> None:
    body = await submit(client, headers={"X-Fal-Request-Timeout": "0.1"})
    await asyncio.sleep(0.15)
    await server.store.sweep()
    found = await client.get(url(body))
    assert found.status_code == 504
    assert found.json()["error_type"] == "request_timeout"
    assert found.headers["x-fal-request-timeout-type"] == "user"
    assert found.headers["x-fal-error-type"] == "request_timeout"


# ---------------------------------------------------------------- cancel


async def test_cancel_of_a_queued_request_takes_it_out(client, server) -> None:
    body = await submit(client)
    answer = await client.put(url(body, "/cancel"), headers={"Content-Length": "0"})
    assert (answer.status_code, answer.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    status = await client.get(url(body, "/status"))
    assert status.status_code == 200
    assert (status.json()["status"], status.json()["error_type"]) == ("COMPLETED", "client_cancelled")
    found = await client.get(url(body))
    assert found.status_code == 499
    assert found.json() == {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"}
    assert server.store.queued() == 0


async def test_cancel_of_a_running_request_asks_its_runner(client, server) -> None:
    body = await submit(client)
    request = await server.worker.take()
    assert (await client.put(url(body, "/cancel"))).status_code == 202
    lost, cancelled = await server.store.renew({request.request_id: request.lease}, lease_seconds=60)
    assert (lost, cancelled) == ([], [request.request_id])
    assert (await client.get(url(body, "/status"))).json()["status"] == "IN_PROGRESS"
    await server.worker.draw(request)
    assert (await client.get(url(body))).status_code == 200, "it may still complete"


async def test_cancel_of_a_finished_request_is_400(client, server) -> None:
    body = await submit(client)
    await server.worker.draw(await server.worker.take())
    answer = await client.put(url(body, "/cancel"))
    assert (answer.status_code, answer.json()) == (400, {"status": "ALREADY_COMPLETED"})


# ---------------------------------------------------------------- who does not exist


@pytest.mark.parametrize("tail", ["", "/response", "/status", "/status?logs=1"])
@pytest.mark.parametrize("id_", ["00000000-0000-4000-8000-000000000000", "x", "%00", "..", "a'b--"])
async def test_an_unknown_id_is_404_not_found(client, tail: str, id_: str) -> None:
    answer = await client.get(f"/queue{APP}/requests/{id_}{tail}")
    if id_ == "..":  # the client itself resolves it away
        assert answer.status_code in (404, 405)
        return
    assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})
    assert UUID.fullmatch(answer.headers["x-fal-request-id"])


async def test_cancel_of_an_unknown_id_is_404(client) -> None:
    answer = await client.put(f"/queue{APP}/requests/00000000-0000-4000-8000-000000000000/cancel")
    assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})


async def test_a_request_of_another_app_is_unknown(client) -> None:
    body = await submit(client)
    for app in ("/fal-ai/flux", "/other/flux-pro", "/fal-ai"):
        answer = await client.get(f"/queue{app}/requests/{body['request_id']}/status")
        assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})


async def test_keys_do_not_see_each_others_requests(keyed) -> None:
    server, alice, bob = keyed
    async with server.client(key=alice) as hers, server.client(key=bob) as his, server.client() as nobodys:
        body = await submit(hers)
        await server.worker.draw(await server.worker.take())
        for tail in ("", "/response", "/status", "/status?logs=1"):
            assert (await hers.get(url(body, tail))).status_code == 200
            for stranger in (his, nobodys):
                answer = await stranger.get(url(body, tail))
                absent = await stranger.get(url({"request_id": "00000000-0000-4000-8000-000000000000"}, tail))
                assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})
                assert answer.content == absent.content
        for stranger in (his, nobodys):
            assert (await stranger.put(url(body, "/cancel"))).json() == {"status": "NOT_FOUND"}
        picture = (await hers.get(url(body))).json()["images"][0]["url"]
        assert (await nobodys.get(picture)).status_code == 200, "pictures are public to whoever knows the URL"


async def test_idempotency_keys_belong_to_their_api_key(keyed) -> None:
    server, alice, bob = keyed
    headers = {"Idempotency-Key": "same"}
    async with server.client(key=alice) as hers, server.client(key=bob) as his:
        first, second = await submit(hers, headers=headers), await submit(his, headers=headers)
    assert first["request_id"] != second["request_id"]


# ---------------------------------------------------------------- odd clients


async def test_accept_and_content_type_never_matter(client) -> None:
    body = (
        await client.post(
            "/queue" + APP, content=b'{"prompt":"a"}', headers={"Accept": "image/png", "Content-Type": "text/plain"}
        )
    ).json()
    json_headers = {"Content-Type": "application/json", "Accept": "application/json"}
    assert (await client.get(url(body, "/status"), headers=json_headers)).status_code == 202
    assert (await client.put(url(body, "/cancel"), headers=json_headers)).status_code == 202


async def test_text_survives_the_way_through_the_queue(client, server) -> None:
    prompt = 'Grüße 猫 🐈 \u0000 \u2028 "quoted" \\ </script>'
    body = (await client.post("/queue" + APP, json={"prompt": prompt})).json()
    await server.worker.draw(await server.worker.take())
    assert (await client.get(url(body))).json()["prompt"] == prompt


async def test_polling_does_not_write(client, server) -> None:
    body = await submit(client)
    before = server.store.counters["commits"]
    for _ in range(20):
        await client.get(url(body, "/status?logs=1"))
    assert server.store.counters["commits"] == before


async def test_bodies_are_compact_json(client) -> None:
    answer = await client.post("/queue" + APP, json={"prompt": "a"})
    assert answer.text == json.dumps(answer.json(), separators=(",", ":"))


async def test_urls_of_files_are_formed_for_the_client_that_asks(server) -> None:
    async with server.client(base="http://impasto:8000") as client:
        body = await submit(client)
        await server.worker.draw(await server.worker.take())
        first = (await client.get(url(body))).json()["images"][0]["url"]
    assert first.startswith("http://impasto:8000/files/b/")
    token = first.removeprefix("http://impasto:8000")
    for base in ("http://localhost:9000", "http://[::1]:8000", "https://queue.fal.run"):
        async with server.client(base=base) as client:
            path = url(body).partition("/fal-ai/")[2]
            found = (await client.get(f"{base}/fal-ai/{path}")).json()["images"][0]["url"]
            assert found == ("https://v3.fal.media" if "fal.run" in base else base) + token
            if "fal.run" not in base:
                assert (await client.get(found)).status_code == 200
                listed = await client.get("/v1/requests?expand=payloads,summary")
                (row,) = listed.json()["items"]
                assert row["json_output"]["images"][0]["url"] == row["summary"]["picture"] == base + token


@pytest.mark.parametrize("id_", ["fal-ai/flux-lora/stream", "fal-ai/flux-krea-lora/stream"])
async def test_the_streamed_ids_of_fals_clients_are_queued_like_the_endpoint(server, id_: str) -> None:
    async with server.client(base="https://queue.fal.run") as client:
        body = await submit(client, f"/{id_}")
        app = "/".join(id_.split("/")[:2])
        assert body["response_url"] == f"https://queue.fal.run/{app}/requests/{body['request_id']}"
        await server.worker.draw(await server.worker.take())
        assert (await client.get(body["status_url"])).json()["status"] == "COMPLETED"
        assert len((await client.get(body["response_url"])).json()["images"]) == 1
    async with server.client(base="https://fal.run") as client:
        drawing = asyncio.create_task(server.worker.run())
        for path in (id_, f"{id_}/stream"):  # fal.run and fal.stream of that id
            answer = await client.post(f"/{path}", json={"prompt": "a cat"})
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert '"images"' in answer.text
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        assert (await client.post("/fal-ai/flux-lora/other/stream", json={})).status_code == 404
    listed = (await server.client().get(f"/v1/models?endpoint_id={id_}")).json()["models"]
    assert [row["endpoint_id"] for row in listed] == [id_]
