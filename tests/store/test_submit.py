"""T1: what is accepted is kept, once."""

import asyncio
import math

import pytest

from impasto.errors import ModelError, StoreError
from impasto.store.records import NewRequest, Status


async def test_a_submitted_request_is_read_back_as_it_was_given(store, new, clock):
    given = new(
        input={"prompt": "Reiher \N{BIRD}", "nested": [1, 2.5, None, True, {"a": "\x00"}]},
        seed=2**64 - 1,
        key_id="key-1",
        priority=1,
        webhook_url="https://example.org/hook",
        no_retry=True,
        max_attempts=4,
    )
    request = await store.submit(given)
    assert store.get(given.request_id) == request
    assert store.input(given.request_id) == given.input
    for name in ("request_id", "endpoint", "input", "seed", "base_url", "key_id", "priority", "webhook_url"):
        assert getattr(request, name) == getattr(given, name), name
    assert (request.no_retry, request.store_io, request.max_attempts) == (True, True, 4)
    assert (request.status, request.outcome, request.attempt, request.lease) == (Status.IN_QUEUE, None, 0, None)
    assert (request.created_at, request.started_at, request.finished_at) == (clock.now, None, None)


async def test_a_lone_surrogate_in_the_prompt_survives(store, new):
    request = await store.submit(new(input={"prompt": "\ud800"}))
    assert store.input(request.request_id) == {"prompt": "\ud800"}


async def test_attempts_default_to_the_servers_setting(open_store, new):
    store = await open_store(max_attempts=6)
    assert (await store.submit(new())).max_attempts == 6


async def test_a_submitted_request_is_there_after_a_restart(open_store, new):
    first = await open_store()
    request = await first.submit(new())
    await first.close()
    assert (await open_store()).get(request.request_id) == request


async def test_an_unknown_request_is_none_everywhere(store):
    assert store.get("nobody") is None
    assert store.result("nobody") is None
    assert store.logs("nobody") == []


async def test_the_same_request_id_twice_is_refused_and_the_first_stands(store, new):
    first = await store.submit(new())
    with pytest.raises(StoreError):
        await store.submit(new(request_id=first.request_id, input={"prompt": "another"}))
    assert store.get(first.request_id) == first


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", {1, 2}])
async def test_input_that_json_cannot_say_is_refused_with_the_reason(store, new, value):
    with pytest.raises(StoreError, match="input cannot be kept as JSON"):
        await store.submit(new(input={"prompt": value}))
    assert store.queued() == 0


async def test_a_value_that_no_column_holds_fails_alone(store, new):
    bad, good = new(endpoint="\ud800"), new()
    refused, accepted = await asyncio.gather(store.submit(bad), store.submit(good), return_exceptions=True)
    assert isinstance(refused, StoreError)
    assert accepted == store.get(good.request_id)
    assert store.get(bad.request_id) is None


class TestIdempotency:
    async def test_the_same_key_and_body_returns_the_first_request(self, store, new):
        first = await store.submit(new(key_id="k", idempotency_key="once"))
        again = await store.submit(new(key_id="k", idempotency_key="once"))
        assert again == first
        assert store.queued() == 1

    async def test_fifty_at_once_make_one_request(self, store, new):
        submits = [store.submit(new(key_id="k", idempotency_key="once")) for _ in range(50)]
        assert len({request.request_id for request in await asyncio.gather(*submits)}) == 1
        assert store.queued() == 1

    async def test_it_returns_the_first_request_after_completion_and_restart_too(self, open_store, new):
        store = await open_store()
        first = await store.submit(new(idempotency_key="once"))
        await store.cancel(first.request_id)
        await store.close()
        store = await open_store()
        again = await store.submit(new(idempotency_key="once"))
        assert (again.request_id, again.status) == (first.request_id, Status.COMPLETED)

    async def test_it_holds_no_longer_than_the_request_is_kept(self, open_store, new, clock):
        """Which `queue.retention_hours` and docs/clients.md say."""
        store = await open_store(retention_seconds=3600)
        first = await store.submit(new(idempotency_key="once"))
        await store.cancel(first.request_id)
        clock.advance(3500)
        assert (await store.submit(new(idempotency_key="once"))).request_id == first.request_id
        clock.advance(200)
        await store.sweep()
        assert (await store.submit(new(idempotency_key="once"))).request_id != first.request_id

    @pytest.mark.parametrize("change", [{"input": {"prompt": "another"}}, {"endpoint": "fal-ai/flux/dev"}])
    async def test_the_same_key_with_another_body_is_answered_422(self, store, new, change):
        await store.submit(new(idempotency_key="once"))
        with pytest.raises(ModelError) as caught:
            await store.submit(new(idempotency_key="once", **change))
        assert caught.value.status == 422
        assert caught.value.body()["detail"][0]["loc"] == ["header", "Idempotency-Key"]
        assert store.queued() == 1

    async def test_the_order_of_the_bodys_fields_does_not_matter(self, store, new):
        first = await store.submit(new(idempotency_key="once", input={"a": 1, "b": 2}))
        again = await store.submit(new(idempotency_key="once", input={"b": 2, "a": 1}))
        assert again.request_id == first.request_id

    async def test_callers_do_not_share_keys(self, store, new):
        one = await store.submit(new(key_id="one", idempotency_key="once"))
        two = await store.submit(new(key_id="two", idempotency_key="once", input={"prompt": "another"}))
        assert one.request_id != two.request_id

    async def test_after_a_day_the_key_is_free_again(self, store, new, clock):
        first = await store.submit(new(idempotency_key="once"))
        clock.advance(24 * 3600 - 1)
        assert (await store.submit(new(idempotency_key="once"))).request_id == first.request_id
        clock.advance(2)
        later = await store.submit(new(idempotency_key="once", input={"prompt": "another"}))
        assert later.request_id != first.request_id
        assert (await store.submit(new(idempotency_key="once", input={"prompt": "another"}))) == later

    async def test_without_a_key_every_submit_is_a_request(self, store, new):
        given: NewRequest = new()
        await store.submit(given)
        await store.submit(new(input=given.input))
        assert store.queued() == 2
