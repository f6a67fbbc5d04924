"""Ours beside fal's platform API, what the dashboard shows: activity, models, webhooks, requests with everything."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from impasto.flux.models import MODELS
from impasto.store.records import DeliveryAttempt, DeliveryState, NewRequest, Outcome, Result, Status

APP = "fal-ai/flux-pro"
HOOK = "https://example.org/hook"


@pytest.fixture
def draw(server):
    """Submit and end a request of a key; -> its id."""

    async def run(number: int, *, on=None, status: int = 200, endpoint: str = APP, **more) -> str:
        place = on or server
        request_id = f"00000000-0000-0000-0000-{number:012d}"
        new = NewRequest(
            request_id=request_id, endpoint=endpoint, input={"prompt": "a heron"}, seed=7, base_url="http://x", **more
        )
        await place.store.submit(new)
        taken = await place.worker.take()
        await place.worker.log(taken, "step 1/1")
        assert await place.store.finish(
            request_id,
            taken.lease or "",
            outcome=Outcome.OK if status == 200 else Outcome.ERROR,
            result=Result(status, {"prompt": "a heron"}),
            inference_time=0.5 if status == 200 else None,
            pictures=2 if status == 200 else 0,
        )
        return request_id

    return run


class TestActivity:
    async def test_it_counts_by_time_endpoint_and_key(self, keyed, draw):
        server, alice, bob = keyed
        _, boss = await server.store.create_key(alias="boss", scopes=["ADMIN"])
        await draw(1, on=server, key_id=alice.partition(":")[0])
        await draw(2, on=server, key_id=alice.partition(":")[0], status=422)
        await draw(3, on=server, key_id=bob.partition(":")[0], endpoint="fal-ai/flux/dev")
        async with server.client(key=boss) as client:
            body = (await client.get("/v1/system/activity?timeframe=day")).json()
            assert body["summary"]["request_count"] == 3
            assert sum(row["request_count"] for row in body["time_series"]) == 3
            assert {row["endpoint_id"]: row["pictures"] for row in body["endpoints"]} == {APP: 2, "fal-ai/flux/dev": 2}
            of = {row["alias"]: row for row in body["keys"]}
            assert {name: (row["request_count"], row["pictures"]) for name, row in of.items()} == {
                "alice": (2, 2), "bob": (1, 2),
            }  # fmt: skip
            assert (of["alice"]["user_error_count"], of["alice"]["inference_seconds"]) == (1, 0.5)
            assert 0 <= body["summary"]["p50_duration"] <= body["summary"]["p90_duration"]
            one = (await client.get("/v1/system/activity?endpoint_id=fal-ai/flux/dev")).json()
            assert [row["endpoint_id"] for row in one["endpoints"]] == ["fal-ai/flux/dev"]
            assert one["summary"]["request_count"] == 1
            assert one["summary"]["p50_duration"] is not None

    async def test_a_server_without_a_past_says_so_in_zeros(self, client):
        body = (await client.get("/v1/system/activity")).json()
        assert (body["time_series"], body["keys"], body["endpoints"]) == ([], [], [])
        assert body["summary"]["request_count"] == 0
        assert body["summary"]["p50_duration"] is None

    async def test_two_endpoints_at_once_are_refused(self, client):
        answer = await client.get(f"/v1/system/activity?endpoint_id={APP},fal-ai/flux/dev")
        assert answer.status_code == 400
        assert "one endpoint at most" in answer.json()["error"]["message"]


class TestModels:
    async def test_every_known_model_is_listed_with_licence_place_and_what_it_serves(self, server, client):
        kept: Path = server.settings.models_folder
        kept.mkdir(parents=True)  # noqa: ASYNC240 - a test may wait
        note = {"name": "mine", "model": "flux.1-schnell", "path": str(kept)}
        (kept / "mine.json").write_text(json.dumps(note))
        server.worker.runners = [replace(server.worker.runners[0], models=("fake", "mine"))]
        rows = {row["name"]: row for row in (await client.get("/v1/system/models?limit=100")).json()["models"]}
        assert set(MODELS) < set(rows)
        assert all(rows[name]["licence"] == spec.licence for name, spec in MODELS.items())
        assert (rows["impasto-mini"]["here"], rows["impasto-mini"]["loaded"]) == (True, False)
        assert (rows["flux.1-dev"]["here"], rows["flux.1-dev"]["gated"]) == (False, True)
        assert (rows["mine"]["licence"], rows["mine"]["loaded"]) == ("Apache-2.0", True)
        assert rows["fake"]["licence"] is None
        assert APP in rows["fake"]["serves"]

    async def test_a_runner_tells_how_fast_it_is(self, server, client):
        worked = {"steps_per_second": 3.14159, "pictures": 6, "work_seconds": 2.0}
        server.worker.runners = [replace(server.worker.runners[0], **worked)]
        (runner,) = (await client.get("/v1/system")).json()["runners"]
        assert (runner["steps_per_second"], runner["pictures"], runner["work_seconds"]) == (3.14, 6, 2.0)


class TestWebhooks:
    async def test_deliveries_are_listed_with_state_and_last_try_and_one_is_sent_again(self, server, client, draw):
        request_id = await draw(1, webhook_url=HOOK)
        await draw(2)
        (row,) = (await client.get("/v1/webhooks")).json()["deliveries"]
        assert (row["request_id"], row["endpoint_id"], row["url"]) == (request_id, APP, HOOK)
        assert (row["state"], row["attempts"], row["last"]) == ("DUE", 0, None)
        (delivery,) = await server.store.claim_deliveries({("", "example.org:443"): 1}, seconds=60)
        refused = DeliveryAttempt(number=1, at=1.0, http_status=410, error="It answers 410.", seconds=0.1)
        assert await server.store.record_delivery(delivery, refused, state=DeliveryState.DEAD)
        (row,) = (await client.get("/v1/webhooks?state=DEAD")).json()["deliveries"]
        assert (row["attempts"], row["next_try"], row["last"]["http_status"]) == (1, None, 410)
        again = await client.post(f"/v1/webhooks/{request_id}/redeliver")
        assert again.status_code == 202
        assert again.json()["state"] == "DUE"
        assert (await client.get("/v1/webhooks?state=DEAD")).json()["deliveries"] == []

    async def test_pages_join_to_the_whole(self, client, draw):
        ids = [await draw(n, webhook_url=HOOK) for n in range(1, 4)]
        first = (await client.get("/v1/webhooks?limit=2")).json()
        second = (await client.get(f"/v1/webhooks?limit=2&cursor={first['next_cursor']}")).json()
        assert [row["request_id"] for row in first["deliveries"] + second["deliveries"]] == ids[::-1]
        assert (first["has_more"], second["has_more"]) == (True, False)

    async def test_a_key_has_its_own_only_and_what_has_no_webhook_cannot_be_sent(self, keyed, draw):
        server, alice, bob = keyed
        _, boss = await server.store.create_key(alias="boss", scopes=["ADMIN"])
        request_id = await draw(1, on=server, key_id=alice.partition(":")[0], webhook_url=HOOK)
        plain = await draw(2, on=server, key_id=alice.partition(":")[0])
        for key, seen in ((alice, 1), (bob, 0), (boss, 1)):
            async with server.client(key=key) as client:
                assert len((await client.get("/v1/webhooks")).json()["deliveries"]) == seen
                answer = await client.post(f"/v1/webhooks/{request_id}/redeliver")
                assert answer.status_code == (202 if seen else 404)
                assert (await client.post(f"/v1/webhooks/{plain}/redeliver")).status_code == 404

    async def test_what_makes_no_sense_is_refused(self, client):
        answer = await client.get("/v1/webhooks?state=LOST")
        assert answer.status_code == 400
        assert "state is one of DUE, DELIVERED, DEAD" in answer.json()["error"]["message"]
        waits = (await client.post(f"/queue/{APP}?fal_webhook={HOOK}", json={"prompt": "x"})).json()["request_id"]
        answer = await client.post(f"/v1/webhooks/{waits}/redeliver")
        assert answer.status_code == 400
        assert "sent when it ends" in answer.json()["error"]["message"]


class TestRequests:
    async def test_an_admin_cancels_anybodys_request_and_a_key_only_its_own(self, keyed):
        server, alice, bob = keyed
        _, boss = await server.store.create_key(alias="boss", scopes=["ADMIN"])

        async def cancelled(key: str, request_id: str) -> tuple[int, Any]:
            async with server.client(key=key) as client:
                answer = await client.put(f"/v1/requests/{request_id}/cancel")
                return answer.status_code, answer.json()

        for key in (alice, boss):
            async with server.client(key=alice) as client:
                request_id = (await client.post(f"/queue/{APP}", json={"prompt": "x"})).json()["request_id"]
            status, body = await cancelled(bob, request_id)
            assert (status, body["error"]["type"]) == (404, "not_found")
            assert server.store.get(request_id).status is Status.IN_QUEUE
            assert await cancelled(key, request_id) == (202, {"status": "CANCELLATION_REQUESTED"})
            assert server.store.get(request_id).status is Status.COMPLETED
            assert await cancelled(key, request_id) == (400, {"status": "ALREADY_COMPLETED"})
        assert (await cancelled(boss, "none"))[0] == 404

    async def test_an_admin_sees_log_and_webhook_of_anybodys_request(self, keyed, draw):
        server, alice, _ = keyed
        _, boss = await server.store.create_key(alias="boss", scopes=["ADMIN"])
        request_id = await draw(1, on=server, key_id=alice.partition(":")[0], webhook_url=HOOK)
        async with server.client(key=boss) as client:
            path = f"/v1/requests?request_id={request_id}&expand=payloads,logs,webhook"
            (row,) = (await client.get(path)).json()["items"]
        assert [line["message"] for line in row["logs"]] == ["step 1/1"]
        assert (row["webhook"]["state"], row["webhook"]["url"]) == ("DUE", HOOK)
        assert row["json_input"] == {"prompt": "a heron"}

    async def test_one_without_a_webhook_has_none(self, client, draw):
        await draw(1)
        (row,) = (await client.get("/v1/requests?expand=webhook")).json()["items"]
        assert row["webhook"] is None


async def test_the_document_of_an_endpoint_takes_its_apps_other_inputs_on_demand(client):
    path = f"/api/openapi/queue/openapi.json?endpoint_id={APP}"
    own = (await client.get(path)).json()
    more = (await client.get(path + "&expand=app")).json()
    schemas = more["components"]["schemas"]
    assert {name: schemas[name] for name in own["components"]["schemas"]} == own["components"]["schemas"]
    added = {
        name: schema.get("x-impasto-endpoint")
        for name, schema in schemas.items()
        if name not in own["components"]["schemas"]
    }
    assert added["FluxProRedux"] == "fal-ai/flux-pro/v1/redux"
    assert "FluxProUltraTextToImageInputRedux" in added
    assert not any(name.endswith("Output") for name in added)
    assert (await client.get(path + "&expand=all")).status_code == 400
