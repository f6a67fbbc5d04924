"""What callers and receivers see of webhooks over HTTP: the submit, the delivery log, asking again, the keys."""

import time

import pytest

from impasto.store.records import DeliveryAttempt, DeliveryState

APP = "/fal-ai/flux-pro"
HOOK = "https://example.com/hook"


async def submit(client, url: str = HOOK, **options) -> dict:
    answer = await client.post(f"/queue{APP}", params={"fal_webhook": url}, json={"prompt": "a"}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def path(body: dict) -> str:
    return f"/queue{APP}/requests/{body['request_id']}/webhook"


async def fail_once(store, next_at: float) -> None:
    (delivery,) = await store.claim_deliveries({("", "example.com:443"): 1}, seconds=30)
    attempt = DeliveryAttempt(number=1, at=1_800_000_000.25, http_status=500, error="No.", seconds=0.1234)
    assert await store.record_delivery(delivery, attempt, state=DeliveryState.DUE, next_at=next_at)


class TestSubmit:
    async def test_the_answer_names_the_gateway_id_when_a_webhook_was_asked_for(self, client):
        body = await submit(client)
        assert list(body)[:3] == ["status", "request_id", "gateway_request_id"]
        assert body["gateway_request_id"] == body["request_id"]
        plain = (await client.post(f"/queue{APP}", json={"prompt": "a"})).json()
        assert "gateway_request_id" not in plain

    async def test_a_sync_run_has_no_webhook(self, client, server, working):
        answer = await client.post(APP, params={"fal_webhook": HOOK}, json={"prompt": "a"})
        assert answer.status_code == 200
        assert server.store.get(answer.headers["x-fal-request-id"]).webhook_url is None
        assert server.store.deliveries_due() == {}

    @pytest.mark.parametrize(
        "url",
        ["http://10.0.0.1/hook", "http://169.254.169.254/", "http://[::1]/", "http://127.0.0.1:1/", "https://x:22/"],
    )
    async def test_a_target_that_may_not_be_reached_does_not_fail_the_submit(self, client, server, url):
        body = await submit(client, url)
        assert server.store.get(body["request_id"]).webhook_url == url

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("ftp://example.com/x", "begin with https://"),
            ("example.com/x", "not a valid URL"),
            ("https://user:secret@example.com/", "user name"),
            ("https://example.com/a b", "encode them"),
            ("https://2130706433/", "four decimal numbers"),
            ("https://example.com/" + "x" * 8192, "longer than 8192"),
            ("https://exa mple/", "encode them"),
            ("https://", "not a valid URL"),
        ],
    )
    async def test_what_is_no_url_is_refused_with_the_reason(self, client, url, reason):
        answer = await client.post(f"/queue{APP}", params={"fal_webhook": url}, json={"prompt": "a"})
        assert answer.status_code == 400
        assert "fal_webhook" in answer.json()["detail"]
        assert reason in answer.json()["detail"]
        assert "secret" not in answer.text


class TestLog:
    async def test_it_tells_where_the_webhook_stands(self, client, server):
        body = await submit(client)
        waiting = (await client.get(path(body))).json()
        assert waiting == {
            "request_id": body["request_id"], "url": HOOK, "state": "WAITING", "next_try": None, "attempts": []
        }  # fmt: skip
        await server.worker.draw(await server.worker.take())
        due = (await client.get(path(body))).json()
        assert (due["state"], due["attempts"]) == ("DUE", [])
        assert due["next_try"] is not None
        await fail_once(server.store, next_at=1_900_000_000.5)
        failed = (await client.get(path(body))).json()
        assert failed["next_try"] == "2030-03-17T17:46:40.500Z"
        assert failed["attempts"] == [
            {"number": 1, "at": "2027-01-15T08:00:00.250Z", "http_status": 500, "error": "No.", "seconds": 0.123}
        ]

    async def test_while_a_try_is_under_way_no_next_one_is_named(self, client, server):
        body = await submit(client)
        await server.worker.draw(await server.worker.take())
        await server.store.claim_deliveries({("", "example.com:443"): 1}, seconds=30)
        assert (await client.get(path(body))).json()["next_try"] is None

    async def test_a_request_without_webhook_has_no_log(self, client):
        body = (await client.post(f"/queue{APP}", json={"prompt": "a"})).json()
        for answer in (await client.get(path(body)), await client.post(path(body) + "/redeliver")):
            assert answer.status_code == 404
            assert "without fal_webhook" in answer.json()["detail"]

    async def test_it_is_the_callers_own(self, keyed):
        server, alice, bob = keyed
        async with server.client(key=alice) as client:
            body = await submit(client)
            await server.worker.draw(await server.worker.take())
            assert (await client.get(path(body))).status_code == 200
        for key in (bob, None):
            async with server.client(key=key) as client:
                for answer in (
                    await client.get(path(body)),
                    await client.post(path(body) + "/redeliver"),
                    await client.get(path({"request_id": "nobody"})),
                ):
                    assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})

    async def test_another_apps_path_does_not_lead_to_it(self, client):
        body = await submit(client)
        answer = await client.get(f"/queue/fal-ai/flux/requests/{body['request_id']}/webhook")
        assert answer.status_code == 404


class TestRedeliver:
    async def test_it_is_due_again_at_once(self, client, server):
        body = await submit(client)
        await server.worker.draw(await server.worker.take())
        await fail_once(server.store, next_at=time.time() + 3600)
        assert server.store.deliveries_due()["", "example.com:443"] > time.time()
        answer = await client.post(path(body) + "/redeliver")
        assert (answer.status_code, answer.json()["state"]) == (202, "DUE")
        assert len(answer.json()["attempts"]) == 1
        assert server.store.deliveries_due()["", "example.com:443"] <= time.time()

    async def test_before_the_end_there_is_nothing_to_send(self, client):
        answer = await client.post(path(await submit(client)) + "/redeliver")
        assert (answer.status_code, answer.json()) == (400, {"detail": "Request is still in progress"})

    async def test_only_post_asks(self, client):
        answer = await client.get(path(await submit(client)) + "/redeliver")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


class TestKeys:
    async def test_the_key_set_is_public_and_may_be_kept_for_an_hour(self, keyed):
        server, _, _ = keyed
        await server.store.ensure_signing_key()
        new = await server.store.rotate_signing_key(overlap=3600)
        for base in ("http://127.0.0.1:8000", "https://rest.fal.ai", "https://rest.alpha.fal.ai"):
            async with server.client(base=base) as client:
                answer = await client.get("/.well-known/jwks.json")
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "public, max-age=3600"
            old, young = answer.json()["keys"]
            assert young["kid"] == new.kid
            assert {old["kty"], old["crv"], young["kty"], young["crv"]} == {"OKP", "Ed25519"}

    async def test_nothing_private_is_published(self, client, server):
        await server.store.ensure_signing_key()
        (key,) = (await client.get("/.well-known/jwks.json")).json()["keys"]
        assert set(key) == {"kty", "crv", "x", "kid"}
