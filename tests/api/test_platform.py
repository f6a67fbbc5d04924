"""The platform API: fal's shapes, a caller's own requests only, everything for ADMIN, errors in its own words."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from impasto.api.platform import history, requests
from impasto.endpoints.table import Endpoints
from impasto.engine.senses import senses_of
from impasto.errors import InternalError
from impasto.flux.models import IMPASTO_MINI
from impasto.store.records import FileRecord, Outcome, Result

APP = "fal-ai/flux-pro"
ENDPOINTS = Endpoints()
TAUGHT = ("fill", "canny", "depth", "kontext")  # in the ids of endpoints that need a model trained for them


def error_of(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["type", "message", "docs_url", "request_id"]
    assert body["error"]["request_id"] == answer.headers["x-fal-request-id"]
    return body["error"]


@pytest.fixture
def draw(server) -> Callable[..., Awaitable[str]]:
    """Submit and end a request; → its id."""

    async def run(*, key_id: str = "", endpoint: str = APP, fail: bool = False, on: Any = None, **input_: Any) -> str:
        from impasto.store.records import NewRequest

        place = on or server
        request_id = f"00000000-0000-0000-0000-{next(counter):012d}"
        await place.store.submit(
            NewRequest(
                request_id=request_id,
                endpoint=endpoint,
                input={"prompt": "a heron"} | input_,
                seed=7,
                base_url="http://127.0.0.1:8000",
                key_id=key_id,
            )
        )
        taken = await place.worker.take()
        if fail:
            await place.worker.fail(taken, InternalError())
            return request_id
        token = place.blobs.put(b"\x89PNG\r\n\x1a\n" + request_id.encode(), media_type="image/png")
        assert await place.store.finish(
            request_id,
            taken.lease or "",
            outcome=Outcome.OK,
            result=Result(200, {"prompt": "a heron"}),
            files=[FileRecord(token=token, media_type="image/png", size=3)],
            inference_time=0.5,
            pictures=2,
        )
        return request_id

    counter = iter(range(1, 10_000))
    return run


class TestModels:
    async def test_every_endpoint_is_listed_with_what_draws_it(self, client, server):
        body = (await client.get("/v1/models?limit=100")).json()
        assert [row["endpoint_id"] for row in body["models"]] == list(ENDPOINTS)
        assert (body["next_cursor"], body["has_more"]) == (None, False)
        row = body["models"][0]
        assert row["metadata"]["display_name"] == ENDPOINTS[APP].title
        assert row["metadata"]["category"] == "text-to-image"
        assert row["impasto"] == {
            "model": "flux-pro",
            "served_by": "fake",
            "availability": {"status": "available", "reason": None, "commands": []},
            "licence": None,
            "residency": "weights in int8",
        }
        server.worker.ready = False
        body = (await client.get("/v1/models")).json()
        ours = body["models"][0]["impasto"]
        assert ours["served_by"] is None, "no runner draws it now, and that is said"
        assert (ours["availability"]["status"], ours["availability"]["commands"]) == ("waiting", [])

    async def test_an_endpoint_that_the_loaded_model_cannot_draw_for_says_so_with_the_commands(self, client, server):
        server.worker.senses = senses_of(IMPASTO_MINI, redux=False)
        body = (await client.get("/v1/models?limit=100")).json()
        ours = {row["endpoint_id"]: row["impasto"] for row in body["models"]}
        refused = {id_ for id_, row in ours.items() if row["availability"]["status"] == "unsupported"}
        assert refused == {
            id_ for id_ in ENDPOINTS if any(word in id_ for word in TAUGHT) and not id_.endswith("text-to-image")
        }
        assert all(ours[id_]["served_by"] is None for id_ in refused)
        assert ours["fal-ai/flux-pro/v1/fill"]["availability"] == {
            "status": "unsupported",
            "reason": "impasto-mini cannot fill the masked part of a picture: that needs FLUX.1-Fill-dev.",
            "commands": ["impasto models pull flux.1-fill-dev", "impasto serve --model flux.1-fill-dev"],
        }
        page = (await client.get("/models/fal-ai/flux-pro/v1/fill/llms.txt")).text
        assert "requests are refused with 422" in page
        assert "`impasto models pull flux.1-fill-dev`" in page
        installed = (await client.get("/v1/system/models?limit=100")).json()["models"]
        assert refused.isdisjoint(id_ for row in installed for id_ in row["serves"])

    async def test_pages_join_to_the_whole(self, client):
        ids: list[str] = []
        cursor = None
        while True:
            query = {"limit": 4} | ({} if cursor is None else {"cursor": cursor})
            body = (await client.get("/v1/models", params=query)).json()
            ids += [row["endpoint_id"] for row in body["models"]]
            cursor = body["next_cursor"]
            assert body["has_more"] is (cursor is not None)
            if cursor is None:
                break
        assert ids == list(ENDPOINTS)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("endpoint_id=fal-ai/flux-pro&endpoint_id=fal-ai/flux/dev", {"fal-ai/flux-pro", "fal-ai/flux/dev"}),
            ("endpoint_id=fal-ai/flux-pro,fal-ai/none", {"fal-ai/flux-pro"}),
            ("q=schnell+redux", {"fal-ai/flux/schnell/redux", "fal-ai/flux-1/schnell/redux"}),
            ("category=text-to-video", set()),
            ("status=deprecated", set()),
        ],
    )
    async def test_filters(self, client, query: str, expected: set[str]):
        body = (await client.get(f"/v1/models?{query}")).json()
        assert {row["endpoint_id"] for row in body["models"]} == expected

    @pytest.mark.parametrize(
        ("base", "queue"),
        [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/queue"),
            ("https://fal.run", "https://queue.fal.run"),
            ("https://queue.example.org", "https://queue.example.org"),
        ],
    )
    async def test_a_client_made_from_the_queues_document_submits(self, server, base: str, queue: str):
        async with server.client(base=base) as client:
            path = f"/api/openapi/queue/openapi.json?endpoint_id={APP}"
            (entry,) = (await client.get(base.replace("queue.", "") + path)).json()["servers"]
            answer = await client.post(f"{entry['url']}/{APP}", json={"prompt": "a"})
        assert entry["url"] in (queue, queue.replace("queue.example.org", "example.org/queue"))
        assert answer.json()["status"] == "IN_QUEUE"

    async def test_openapi_comes_on_demand(self, client):
        body = (await client.get(f"/v1/models?endpoint_id={APP}&expand=openapi-3.0")).json()
        document = (await client.get(f"/api/openapi/queue/openapi.json?endpoint_id={APP}")).json()
        assert body["models"][0]["openapi"] == document

    @pytest.mark.parametrize(
        "path", ["/v1/models", "/openapi.json", f"/api/openapi/queue/openapi.json?endpoint_id={APP}"]
    )
    async def test_long_answers_come_gzipped_to_whom_takes_that(self, client, path: str):
        small = await client.get(path, headers={"Accept-Encoding": "gzip"})
        plain = await client.get(path, headers={"Accept-Encoding": "identity"})
        assert (small.headers["content-encoding"], plain.headers.get("content-encoding")) == ("gzip", None)
        assert "Accept-Encoding" in small.headers["vary"]
        assert "Accept-Encoding" in plain.headers["vary"]
        assert small.json() == plain.json()
        assert int(small.headers["content-length"]) < int(plain.headers["content-length"]) / 3

    async def test_fals_own_host_is_served(self, server):
        async with server.client(base="https://api.fal.ai") as client:
            assert (await client.get("/v1/models?limit=1")).json()["has_more"] is True

    @pytest.mark.parametrize(
        ("path", "status", "words"),
        [
            ("/v1/models?limit=0", 400, "limit is a whole number from 1 to 100"),
            ("/v1/models?cursor=%C3%A9", 400, "cursor is not one that this server gave"),
            ("/v1/models?cursor=eA", 400, "cursor is not one that this server gave"),
            ("/v1/models?status=new", 400, "status is one of active, deprecated"),
            ("/v1/models?expand=all", 400, "expand takes openapi-3.0"),
            ("/v1/models?endpoint_id=" + ",".join(map(str, range(51))), 400, "at most 50"),
            ("/v1/models/pricing", 400, "endpoint_id is missing"),
            ("/v1/models/pricing?endpoint_id=a/b", 404, "There is no endpoint 'a/b' here"),
            ("/v1/models/usage?timezone=Mars/Base", 400, "timezone is a name such as"),
            ("/v1/models/usage?start=yesterday", 400, "start is a date or time"),
            ("/v1/models/usage?start=0001-01-01&timeframe=week", 400, "start is a date or time"),
            ("/v1/models/usage?start=2026-01-02&end=2026-01-01", 400, "start has to lie before end"),
            ("/v1/models/analytics?start=2001-01-01&timeframe=minute", 400, "more than 10000 buckets"),
            ("/v1/models/requests/by-endpoint", 400, "endpoint_id names one endpoint"),
            (f"/v1/models/requests/by-endpoint?endpoint_id={APP}&sort_by=size", 400, "sort_by is one of ended_at"),
            ("/v1/nothing", 404, "The platform API has no /v1/nothing"),
        ],
    )
    async def test_what_makes_no_sense_is_answered_in_the_apis_own_shape(self, client, path, status, words):
        answer = await client.get(path)
        assert answer.status_code == status
        error = error_of(answer)
        assert words in error["message"]
        assert error["type"] == ("not_found" if status == 404 else "validation_error")

    async def test_a_wrong_method_is_405_in_the_same_shape(self, client):
        answer = await client.post("/v1/models")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET"
        error_of(answer)

    async def test_a_store_that_fails_is_503_in_the_same_shape(self, server, client):
        await server.store.close()
        answer = await client.get(f"/v1/models/requests/by-endpoint?endpoint_id={APP}")
        assert answer.status_code == 503
        assert error_of(answer)["type"] == "server_error"


class TestPricing:
    async def test_nothing_is_charged_unless_configured(self, client):
        body = (await client.get(f"/v1/models/pricing?endpoint_id={APP}")).json()
        assert body["prices"] == [{"endpoint_id": APP, "unit_price": 0.0, "unit": "image", "currency": "USD"}]

    async def test_configured_prices_count_in_prices_estimates_and_usage(self, build, draw):
        from impasto.settings import PlatformSettings

        server = await build(platform=PlatformSettings(price=0.01, prices={APP: 0.05}, currency="EUR"))
        async with server.client() as client:
            prices = (await client.get(f"/v1/models/pricing?endpoint_id={APP},fal-ai/flux/dev")).json()["prices"]
            assert [row["unit_price"] for row in prices] == [0.05, 0.01]
            units = {"estimate_type": "unit_price", "endpoints": {APP: {"unit_quantity": 10}}}
            assert (await client.post("/v1/models/pricing/estimate", json=units)).json() == {
                "estimate_type": "unit_price",
                "total_cost": 0.5,
                "currency": "EUR",
            }
            calls = {"estimate_type": "historical_api_price", "endpoints": {APP: {"call_quantity": 10}}}
            estimate = await client.post("/v1/models/pricing/estimate", json=calls)
            assert estimate.json()["total_cost"] == 0.5, "without a history a call makes one picture"
            await draw(on=server)
            estimate = await client.post("/v1/models/pricing/estimate", json=calls)
            assert estimate.json()["total_cost"] == 1.0, "calls made two pictures each"
            usage = (await client.get("/v1/models/usage?expand=summary")).json()
            assert usage["time_series"] == []
            (line,) = usage["summary"]
            assert line == {
                "endpoint_id": APP, "unit": "image", "quantity": 2, "unit_price": 0.05, "cost": 0.1, "currency": "EUR",
            }  # fmt: skip

    async def test_an_estimate_says_nothing_of_other_keys_habits(self, build, draw):
        from impasto.settings import PlatformSettings

        server = await build(auth="keys", platform=PlatformSettings(price=1.0))
        calls = {"estimate_type": "historical_api_price", "endpoints": {APP: {"call_quantity": 10}}}
        costs = {}
        for alias, scope in (("drawer", "API"), ("other", "API"), ("boss", "ADMIN")):
            _, key = await server.store.create_key(alias=alias, scopes=[scope])
            async with server.client(key=key) as client:
                if alias == "drawer":
                    await draw(on=server, key_id=key.partition(":")[0])
                answer = await client.post("/v1/models/pricing/estimate", json=calls)
                costs[alias] = answer.json()["total_cost"]
        assert costs == {"drawer": 20.0, "other": 10.0, "boss": 10.0}

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"estimate_type": "guess", "endpoints": {APP: {"unit_quantity": 1}}},
            {"estimate_type": "unit_price", "endpoints": {}},
            {"estimate_type": "unit_price", "endpoints": {APP: {"call_quantity": 1}}},
            {"estimate_type": "unit_price", "endpoints": {APP: {"unit_quantity": 0}}},
            {"estimate_type": ["unit_price"], "endpoints": 5},
        ],
    )
    async def test_an_estimate_that_makes_no_sense_is_refused(self, client, body):
        answer = await client.post("/v1/models/pricing/estimate", json=body)
        assert answer.status_code == 400
        error_of(answer)


class TestReports:
    async def test_usage_by_bucket_endpoint_and_key(self, client, draw):
        await draw()
        await draw(endpoint="fal-ai/flux/dev")
        await draw(fail=True)
        body = (await client.get("/v1/models/usage?expand=time_series,summary,auth_method&timeframe=day")).json()
        results = [line for bucket in body["time_series"] for line in bucket["results"]]
        assert {line["endpoint_id"]: line["quantity"] for line in results} == {APP: 2, "fal-ai/flux/dev": 2}
        assert {line["auth_method"] for line in results} == {"local"}
        assert datetime.fromisoformat(body["time_series"][0]["bucket"]).hour == 0
        one = (await client.get("/v1/models/usage?expand=summary&endpoint_id=fal-ai/flux/dev")).json()
        assert [line["endpoint_id"] for line in one["summary"]] == ["fal-ai/flux/dev"]
        old = (await client.get("/v1/models/usage?start=2020-01-01&end=2020-02-01&expand=summary,time_series")).json()
        assert (old["time_series"], old["summary"]) == ([], [])

    async def test_analytics_tell_counts_and_percentiles(self, client, draw):
        await draw()
        await draw()
        await draw(fail=True)
        everything = (
            "time_series,summary,request_count,success_count,user_error_count,error_count,p50_duration,p90_duration"
        )
        body = (await client.get(f"/v1/models/analytics?expand={everything}&endpoint_id={APP}")).json()
        (summary,) = body["summary"]
        assert {name: summary[name] for name in summary if name.endswith("_count")} == {
            "request_count": 3, "success_count": 2, "user_error_count": 0, "error_count": 1,
        }  # fmt: skip
        assert 0 <= summary["p50_duration"] <= summary["p90_duration"]
        assert "p75_duration" not in summary, "only what was asked for"
        assert sum(line["request_count"] for bucket in body["time_series"] for line in bucket["results"]) == 3

    async def test_buckets_follow_the_wall_clock_of_the_zone(self):
        from zoneinfo import ZoneInfo

        from starlette.datastructures import QueryParams

        from impasto.api.platform import query as q

        berlin = ZoneInfo("Europe/Berlin")

        def starts(start: str, end: str, timeframe: str) -> list[str]:
            query = QueryParams({"start": start, "end": end, "timeframe": timeframe})
            return [at.isoformat() for at in q.buckets(query, *q.span(query, berlin))]

        assert starts("2026-03-28T05:00", "2026-03-30T05:00", "day") == [
            "2026-03-28T00:00:00+01:00",
            "2026-03-29T00:00:00+01:00",
            "2026-03-30T00:00:00+02:00",
        ]
        assert starts("2026-01-15", "2026-03-02", "month") == [
            "2026-01-01T00:00:00+01:00",
            "2026-02-01T00:00:00+01:00",
            "2026-03-01T00:00:00+01:00",
        ]
        assert starts("2026-01-01", "2026-01-06", "week") == ["2025-12-29T00:00:00+01:00", "2026-01-05T00:00:00+01:00"]
        assert len(starts("2026-03-29T00:00", "2026-03-29T04:00", "hour")) == 3, "one hour of that night is not there"


class TestRequests:
    PATH = f"/v1/models/requests/by-endpoint?endpoint_id={APP}"

    async def test_newest_first_with_pages_and_payloads_on_demand(self, client, draw):
        ids = [await draw() for _ in range(5)]
        first = (await client.get(self.PATH + "&limit=3")).json()
        assert [item["request_id"] for item in first["items"]] == ids[:1:-1]
        second = (await client.get(f"{self.PATH}&limit=3&cursor={first['next_cursor']}&expand=payloads")).json()
        assert [item["request_id"] for item in second["items"]] == ids[1::-1]
        assert second["has_more"] is False
        item = second["items"][0]
        assert (item["json_input"], item["json_output"]) == ({"prompt": "a heron"}, {"prompt": "a heron"})
        assert "json_input" not in first["items"][0]
        assert (item["endpoint_id"], item["status_code"]) == (APP, 200)
        for name in ("sent_at", "started_at", "ended_at"):
            assert datetime.fromisoformat(item[name]).tzinfo == UTC
        assert item["duration"] >= 0

    @pytest.mark.parametrize("words", ["", "&q=heron"])
    async def test_pages_of_several_endpoints_skip_nothing(self, client, monkeypatch, words: str):
        monkeypatch.setattr(history, "BATCH", 4)
        ids: list[str] = []
        for id_ in ("fal-ai/flux/dev", "fal-ai/flux/schnell", "fal-ai/flux/schnell", APP) * 3:
            body = (await client.post(f"/queue/{id_}", json={"prompt": "a heron"})).json()
            ids += [] if "schnell" in id_ else [body["request_id"]]
        seen, cursor = [], ""
        while cursor is not None:
            more = words + (cursor and f"&cursor={cursor}")
            page = (await client.get(f"/v1/requests?endpoint_id=fal-ai/flux/dev,{APP}&limit=2{more}")).json()
            seen += [item["request_id"] for item in page["items"]]
            cursor = page["next_cursor"]
        assert seen == ids[::-1]

    @pytest.mark.parametrize("path", ["/v1/requests?limit=3", PATH + "&limit=3"])
    async def test_a_page_ends_where_it_would_be_too_large(self, client, draw, path: str, monkeypatch):
        ids = [await draw() for _ in range(5)][::-1]
        monkeypatch.setattr(requests, "PAGE_BYTES", 900)
        seen, cursor = [], ""
        while cursor is not None:
            page = (await client.get(f"{path}&expand=payloads{cursor and f'&cursor={cursor}'}")).json()
            assert 1 <= len(page["items"]) < 3
            seen += [item["request_id"] for item in page["items"]]
            cursor = page["next_cursor"]
        assert seen == ids
        monkeypatch.setattr(requests, "PAGE_BYTES", 1)
        assert len((await client.get(f"{path}&expand=payloads")).json()["items"]) == 1, "one row always fits"

    async def test_filters(self, client, draw, server):
        good, bad = await draw(), await draw(fail=True)
        waits = (await client.post("/queue/" + APP, json={"prompt": "x"})).json()["request_id"]

        async def ids(query: str) -> list[str]:
            return [item["request_id"] for item in (await client.get(self.PATH + query)).json()["items"]]

        assert await ids("") == [bad, good], "what has ended, as fal"
        assert await ids("&status=success") == [good]
        assert await ids("&status=error") == [bad]
        assert await ids("&status=user_error") == []
        assert await ids("&status=in_queue") == [waits]
        assert await ids(f"&request_id={good}") == [good]
        assert await ids("&request_id=unknown") == []
        assert await ids("&end=2020-01-01") == []
        assert await ids("&start=2020-01-01T00:00:00Z") == [bad, good]

    async def test_erased_payloads_are_gone_at_once(self, client, draw, server):
        request_id = await draw()
        before = (await client.get(self.PATH + "&expand=payloads")).json()["items"][0]
        assert before["json_output"] is not None
        answer = await client.delete(f"/v1/models/requests/{request_id}/payloads")
        assert answer.status_code == 200
        (row,) = answer.json()["cdn_delete_results"]
        assert row["exception"] is None
        assert (await client.get(row["link"])).status_code == 404
        assert list((server.settings.data / "files" / "b").glob("*/*.png")) == [], "the bytes are gone, too"
        after = (await client.get(self.PATH + "&expand=payloads")).json()["items"][0]
        assert (after["json_input"], after["json_output"]) == ({}, None)
        again = await client.delete(f"/v1/models/requests/{request_id}/payloads")
        assert again.json() == {"cdn_delete_results": []}

    async def test_a_running_requests_payloads_cannot_be_erased(self, client):
        waits = (await client.post("/queue/" + APP, json={"prompt": "x"})).json()["request_id"]
        answer = await client.delete(f"/v1/models/requests/{waits}/payloads")
        assert answer.status_code == 400
        assert "cancel it" in error_of(answer)["message"]
        assert (await client.delete("/v1/models/requests/unknown/payloads")).status_code == 404


class TestScopes:
    async def test_a_key_sees_its_own_and_admin_sees_all(self, keyed, draw):
        server, alice, bob = keyed
        _, boss = await server.store.create_key(alias="boss", scopes=["ADMIN"])
        of_alice = await draw(key_id=alice.partition(":")[0], on=server)
        of_bob = await draw(key_id=bob.partition(":")[0], on=server)
        path = TestRequests.PATH
        for key, expected in ((alice, [of_alice]), (bob, [of_bob]), (boss, [of_bob, of_alice])):
            async with server.client(key=key) as client:
                listed = (await client.get(path)).json()["items"]
                assert [item["request_id"] for item in listed] == expected
                usage = (await client.get("/v1/models/usage?expand=summary,auth_method")).json()["summary"]
                assert sum(line["quantity"] for line in usage) == 2 * len(expected)
                counts = (await client.get("/v1/models/analytics?expand=summary,request_count")).json()["summary"]
                assert sum(line["request_count"] for line in counts) == len(expected)
                one = (await client.get(f"{path}&request_id={of_bob}")).json()["items"]
                assert len(one) == (of_bob in expected)
        async with server.client(key=alice) as client:
            assert (await client.delete(f"/v1/models/requests/{of_bob}/payloads")).status_code == 404
            assert (await client.delete(f"/v1/models/requests/{of_alice}/payloads")).status_code == 200
        async with server.client(key=boss) as client:
            names = (await client.get("/v1/models/usage?expand=summary,auth_method")).json()["summary"]
            assert {line["auth_method"] for line in names} == {"alice", "bob"}

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/x"), ("GET", "/v1/account/billing"),
            ("GET", "/v1/system"), ("GET", "/v1/system/activity"), ("GET", "/v1/system/models"),
        ],
    )  # fmt: skip
    async def test_keys_account_and_system_are_for_admin(self, keyed, method, path):
        server, alice, _ = keyed
        async with server.client(key=alice) as client:
            answer = await client.request(method, path)
            assert answer.status_code == 403
            assert "--scope ADMIN" in error_of(answer)["message"]
        async with server.client() as client:
            answer = await client.request(method, path)
            assert answer.status_code == 401
            assert error_of(answer)["type"] == "authorization_error"

    async def test_a_page_follows_keys_that_are_gone(self, client, server):
        for number in range(6):
            await server.store.create_key(alias=str(number), scopes=["API"])
        first = (await client.get("/v1/keys?limit=3")).json()
        for key in first["keys"]:
            assert (await client.delete(f"/v1/keys/{key['key_id']}")).status_code == 204
        second = (await client.get(f"/v1/keys?limit=3&cursor={first['next_cursor']}")).json()
        assert {key["alias"] for key in [*first["keys"], *second["keys"]]} == set("012345")
        assert (second["next_cursor"], second["has_more"]) == (None, False)
        assert (await client.get("/v1/keys?cursor=eA")).status_code == 400

    async def test_an_admin_makes_lists_and_deletes_keys(self, keyed):
        server, _, _ = keyed
        _, boss = await server.store.create_key(alias="boss", scopes=["ADMIN"])
        async with server.client(key=boss) as client:
            made = await client.post("/v1/keys", json={"alias": "ci"})
            assert made.status_code == 201
            body = made.json()
            assert body["key"] == f"{body['key_id']}:{body['key_secret']}"
            listed = (await client.get("/v1/keys?expand=creator_info")).json()["keys"]
            assert {row["alias"]: row["scope"] for row in listed} == {
                "alice": "API", "bob": "API", "boss": "ADMIN", "ci": "API",
            }  # fmt: skip
            assert body["key_secret"] not in str(listed)
            async with server.client(key=body["key"]) as made_client:
                assert (await made_client.post("/queue/" + APP, json={"prompt": "x"})).status_code == 200
                assert (await client.delete(f"/v1/keys/{body['key_id']}")).status_code == 204
                assert (await made_client.post("/queue/" + APP, json={"prompt": "x"})).status_code == 401
            assert (await client.delete(f"/v1/keys/{body['key_id']}")).status_code == 404
            for bad in ({}, {"alias": ""}, {"alias": "x" * 256}, {"alias": "x", "scope": "ROOT"}, {"alias": 5}):
                assert (await client.post("/v1/keys", json=bad)).status_code == 400
            assert (await client.get("/v1/account/billing")).json() == {"username": "boss"}

    async def test_the_catalogue_needs_no_key_and_the_rest_does(self, keyed):
        server, _, _ = keyed
        async with server.client() as client:
            assert (await client.get("/v1/models")).status_code == 200
            assert (await client.get("/v1/meta")).json()["webhook_ip_ranges"] == []
            for path in (f"/v1/models/pricing?endpoint_id={APP}", "/v1/models/usage", TestRequests.PATH):
                answer = await client.get(path)
                assert answer.status_code == 401
                error_of(answer)

    async def test_on_an_open_server_everybody_is_the_local_caller(self, client):
        body = (await client.get("/v1/account/billing?expand=credits")).json()
        assert body == {"username": "local", "credits": {"current_balance": 0.0, "currency": "USD"}}
