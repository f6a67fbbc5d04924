"""Keys take turns (L4 in small), nobody runs more than allowed, and a key's queue has an end."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from impasto.errors import QueueFull
from impasto.store.records import Outcome, Request, Result

ENDPOINT = "fal-ai/flux-pro"


async def claim(store, limit: int = 1, endpoints: Sequence[str] = (ENDPOINT,)) -> list[Request]:
    return await store.claim(endpoints=endpoints, runner_id="gpu-0", limit=limit, lease_seconds=15)


async def end(store, request: Request) -> None:
    assert await store.finish(request.request_id, request.lease or "", outcome=Outcome.OK, result=Result(200, {}))


async def test_a_key_that_floods_delays_another_by_one_request(store, new):
    for _ in range(300):
        await store.submit(new(key_id="a"))
    taken = [(await claim(store))[0].key_id for _ in range(10)]
    assert taken == ["a"] * 10
    for _ in range(5):
        await store.submit(new(key_id="b"))
        assert [request.key_id for request in await claim(store, 2)] == ["b", "a"]


async def test_many_keys_are_served_alike(store, new):
    keys = [f"key-{n}" for n in range(40)]
    await asyncio.gather(*(store.submit(new(key_id=key)) for key in keys for _ in range(keys.index(key) % 7 + 10)))
    served = Counter([request.key_id for _ in range(50) for request in await claim(store, 8)])
    assert sum(served.values()) == 400
    assert max(served.values()) - min(served[key] for key in keys) <= 1


async def test_within_a_key_it_is_first_come_first_served_over_all_endpoints(store, new):
    for number, (key, endpoint) in enumerate([("a", "x"), ("b", "y"), ("a", "y"), ("a", "x"), ("b", "x")]):
        await store.submit(new(request_id=str(number), key_id=key, endpoint=endpoint))
    claimed = await claim(store, 9, ["y", "x"])
    assert [request.request_id for request in claimed] == ["0", "1", "2", "4", "3"]


async def test_low_waits_for_every_key_s_normal(store, new):
    await store.submit(new(key_id="b", priority=1))
    for _ in range(3):
        await store.submit(new(key_id="a"))
    assert [(request.key_id, request.priority) for request in await claim(store, 9)] == [("a", 0)] * 3 + [("b", 1)]


async def test_back_off_does_not_hold_up_the_next_of_its_key(store, new, clock):
    first, second = [(await store.submit(new(key_id="a"))).request_id for _ in range(2)]
    (request,) = await claim(store)
    await store.requeue(first, request.lease, crashed=False, reason="later")
    assert [request.request_id for request in await claim(store, 5)] == [second]
    clock.advance(60)
    assert [request.request_id for request in await claim(store, 5)] == [first]


async def test_no_key_runs_more_than_allowed(open_store, new):
    store = await open_store(max_running=2)
    for key in ("a", "a", "a", "a", "b", "", "", ""):
        await store.submit(new(key_id=key))
    running = await claim(store, 9)
    assert Counter(request.key_id for request in running) == {"a": 2, "b": 1, "": 3}, "nobody's have no limit"
    assert await claim(store, 9) == []
    await end(store, next(request for request in running if request.key_id == "a"))
    assert [request.key_id for request in await claim(store, 9)] == ["a"]


async def test_one_too_many_in_the_queue_is_refused_and_others_are_not(store, new):
    for _ in range(3):
        await store.submit(new(key_id="a", max_queued=3))
    with pytest.raises(QueueFull):
        await store.submit(new(key_id="a", max_queued=3))
    await store.submit(new(key_id="b", max_queued=3))
    await claim(store, 1)
    await store.submit(new(key_id="a", max_queued=3))


async def test_open_requests_are_counted_exactly_however_many_come_at_once(store, new):
    results = await asyncio.gather(
        *(store.submit(new(key_id="a", max_open=4)) for _ in range(30)), return_exceptions=True
    )
    assert sum(isinstance(result, Request) for result in results) == 4
    assert sum(isinstance(result, QueueFull) for result in results) == 26
    (running, *_) = await claim(store, 9)
    with pytest.raises(QueueFull):
        await store.submit(new(key_id="a", max_open=4))
    await end(store, running)
    await store.submit(new(key_id="a", max_open=4))


async def test_a_repeated_idempotency_key_is_never_one_too_many(store, new):
    first = await store.submit(new(key_id="a", idempotency_key="k", max_queued=1))
    again = await store.submit(new(key_id="a", idempotency_key="k", max_queued=1))
    assert again.request_id == first.request_id
