"""The body of a webhook, in the cases that no receiver of the other tests meets."""

import json
import uuid
from dataclasses import replace

import pytest

from impasto.store.records import NewRequest, Outcome, Result
from impasto.webhooks.payload import body_of, gateway_request_id


@pytest.fixture
async def request_(store):
    new = NewRequest(request_id=str(uuid.uuid4()), endpoint="e", input={}, seed=1, base_url="b", webhook_url="http://x")
    return replace(await store.submit(new), attempt=1, outcome=Outcome.OK)


async def test_a_payload_that_no_json_can_hold_is_null_with_the_reason(request_):
    body = json.loads(body_of(request_, Result(200, {"prompt": "\ud800"}), max_bytes=10**6))
    assert (body["status"], body["payload"]) == ("OK", None)
    assert "surrogate" in body["payload_error"]


async def test_an_error_that_is_too_large_keeps_its_status_and_error(request_):
    failed = replace(request_, outcome=Outcome.ERROR)
    body = json.loads(body_of(failed, Result(422, {"detail": "x" * 1000}), max_bytes=500))
    assert (body["status"], body["error"], body["payload"]) == ("ERROR", "Invalid status code: 422", None)
    assert "too large" in body["payload_error"]


async def test_the_limit_is_over_the_whole_body_and_inclusive(request_):
    result = Result(200, {"x": "y" * 100})
    size = len(body_of(request_, result, max_bytes=10**6))
    assert json.loads(body_of(request_, result, max_bytes=size))["payload"] == result.payload
    assert json.loads(body_of(request_, result, max_bytes=size - 1))["payload"] is None


async def test_the_gateway_id_is_the_requests_own_until_it_was_tried_again(request_):
    assert gateway_request_id(replace(request_, attempt=0)) == gateway_request_id(request_) == request_.request_id
    second, third = (gateway_request_id(replace(request_, attempt=n)) for n in (2, 3))
    assert len({request_.request_id, second, third}) == 3
    assert second == gateway_request_id(replace(request_, attempt=2))
    assert str(uuid.UUID(second)) == second


async def test_a_webhook_names_files_under_the_public_url_of_now(request_):
    token = "files/b/0a1b2c3d/AbCdEfGhIjKlMnOpQrStUv.png"
    made = replace(request_, base_url="http://old:1")
    result = Result(200, {"images": [{"url": f"http://old:1/{token}"}]})
    for base in ("http://old:1", "https://new.example"):
        body = json.loads(body_of(made, result, max_bytes=1000, base_url=base))
        assert body["payload"]["images"][0]["url"] == f"{base}/{token}"
