"""T2: each request goes to one runner at a time; normal before low, first come first served."""

import asyncio
import random
from collections import Counter

from impasto.store.records import Status

ENDPOINT = "fal-ai/flux-pro"


async def test_a_claim_gives_a_fresh_lease_and_counts_the_attempt(store, new, clock):
    submitted = await store.submit(new())
    clock.advance(2)
    (claimed,) = await store.claim(endpoints=[ENDPOINT], runner_id="gpu-0", limit=5, lease_seconds=15)
    assert (claimed.request_id, claimed.status, claimed.attempt) == (submitted.request_id, Status.IN_PROGRESS, 1)
    assert (claimed.runner_id, claimed.started_at) == ("gpu-0", clock.now)
    assert claimed.lease is not None
    assert len(claimed.lease) == 32
    assert store.get(submitted.request_id) == claimed


async def test_no_request_goes_to_two_runners(open_store, new):
    """Sixteen claimers over two open stores, as two processes would have them."""
    stores = [await open_store(), await open_store()]
    ids = {(await stores[0].submit(new())).request_id for _ in range(120)}

    async def take(number: int) -> list[str]:
        mine: list[str] = []
        while claimed := await stores[number % 2].claim(
            endpoints=[ENDPOINT], runner_id=f"gpu-{number}", limit=1 + number % 4, lease_seconds=15
        ):
            mine += [request.request_id for request in claimed]
        return mine

    taken = [request_id for mine in await asyncio.gather(*map(take, range(16))) for request_id in mine]
    assert Counter(taken) == Counter(ids)


async def test_leases_are_never_reused(store, new):
    request_id = (await store.submit(new(max_attempts=100))).request_id
    leases = set()
    for _ in range(20):
        (claimed,) = await store.claim(endpoints=[ENDPOINT], runner_id="gpu-0", limit=1, lease_seconds=15)
        leases.add(claimed.lease)
        await store.requeue(request_id, claimed.lease, crashed=False, drain=True, reason="drain")
    assert len(leases) == 20


async def test_first_come_first_served_and_normal_before_low(store, new):
    order = [("low-1", 1), ("normal-1", 0), ("low-2", 1), ("normal-2", 0)]
    for request_id, priority in order:
        await store.submit(new(request_id=request_id, priority=priority))
    claimed = await store.claim(endpoints=[ENDPOINT], runner_id="gpu-0", limit=3, lease_seconds=15)
    assert [request.request_id for request in claimed] == ["normal-1", "normal-2", "low-1"]
    claimed = await store.claim(endpoints=[ENDPOINT], runner_id="gpu-0", limit=3, lease_seconds=15)
    assert [request.request_id for request in claimed] == ["low-2"]


async def test_several_endpoints_share_one_order(store, new):
    for number, (endpoint, priority) in enumerate([("b", 0), ("a", 1), ("a", 0), ("c", 0), ("b", 0)]):
        await store.submit(new(request_id=str(number), endpoint=endpoint, priority=priority))
    claimed = await store.claim(endpoints=["a", "b", "a"], runner_id="gpu-0", limit=10, lease_seconds=15)
    assert [request.request_id for request in claimed] == ["0", "2", "4", "1"]


async def test_an_empty_queue_and_a_limit_of_none_give_nothing(store, new):
    assert await store.claim(endpoints=[ENDPOINT], runner_id="gpu-0", limit=1, lease_seconds=15) == []
    await store.submit(new())
    assert await store.claim(endpoints=[ENDPOINT], runner_id="gpu-0", limit=0, lease_seconds=15) == []
    assert await store.claim(endpoints=[], runner_id="gpu-0", limit=1, lease_seconds=15) == []
    assert await store.claim(endpoints=["another"], runner_id="gpu-0", limit=1, lease_seconds=15) == []


class TestAfterACrash:
    """A request that lost a runner may be poison: it never has neighbours again."""

    async def crashed(self, store, running):
        request = await running()
        await store.requeue(request.request_id, request.lease, crashed=True, reason="gone")
        return request.request_id

    async def claim(self, store, *, idle, limit=3):
        claimed = await store.claim(endpoints=[ENDPOINT], runner_id="r", limit=limit, lease_seconds=15, idle=idle)
        return [request.request_id for request in claimed]

    async def test_it_comes_alone_and_only_to_an_idle_runner(self, store, running, new, clock):
        suspect = await self.crashed(store, running)
        first = (await store.submit(new())).request_id
        clock.advance(1)
        assert await self.claim(store, idle=False) == [first], "others pass it"
        second = (await store.submit(new())).request_id
        clock.advance(10)
        assert await self.claim(store, idle=False) == [], "but not for ever"
        assert await self.claim(store, idle=True) == [suspect]
        assert await self.claim(store, idle=True) == [second]

    async def test_it_does_not_join_those_before_it(self, store, running, new, clock):
        suspect = await self.crashed(store, running)
        first, second = [(await store.submit(new(key_id="another"))).request_id for _ in range(2)]
        clock.advance(11)  # keys take turns, and the suspect's had the first one
        assert await self.claim(store, idle=True) == [first]
        assert await self.claim(store, idle=True) == [suspect]
        assert await self.claim(store, idle=True) == [second]

    async def test_a_failure_that_left_the_runner_alive_keeps_its_neighbours(self, store, running, new, clock):
        request = await running()
        await store.requeue(request.request_id, request.lease, crashed=False, reason="503")
        other = await store.submit(new())
        clock.advance(1)
        assert await self.claim(store, idle=False) == [request.request_id, other.request_id]


class TestPosition:
    async def test_it_counts_who_is_claimed_before(self, store, new):
        low = await store.submit(new(priority=1))
        normal = [await store.submit(new()) for _ in range(3)]
        await store.submit(new(endpoint="another"))
        assert [await store.position(request) for request in normal] == [0, 1, 2]
        assert await store.position(low) == 4, "one runner draws for every endpoint"
        await store.claim(endpoints=[ENDPOINT], runner_id="gpu-0", limit=2, lease_seconds=15)
        assert [await store.position(request) for request in normal] == [0, 0, 0]
        assert await store.position(low) == 2

    async def test_it_says_the_place_in_which_it_is_claimed(self, store, new):
        """Whatever keys, endpoints and priorities wait, and whoever was served last."""
        dice = random.Random(5)

        def any_one():
            return new(key_id=dice.choice("abc"), endpoint=dice.choice([ENDPOINT, "x"]), priority=dice.randrange(2))

        waiting = [await store.submit(any_one()) for _ in range(40)]
        for _ in range(20):
            said = {await store.position(request): request.request_id for request in waiting}
            assert sorted(said) == list(range(len(waiting)))
            claimed = await store.claim(endpoints=["x", ENDPOINT], runner_id="gpu-0", limit=2, lease_seconds=15)
            assert [request.request_id for request in claimed] == [said[0], said[1]]
            waiting = [request for request in waiting if request.request_id not in {said[0], said[1]}]
            waiting.append(await store.submit(any_one()))

    async def test_it_is_right_in_a_deep_queue(self, store, new):
        requests = await asyncio.gather(*[store.submit(new(priority=number % 2)) for number in range(700)])
        order = [request for request in requests if request.priority == 0]
        order += [request for request in requests if request.priority == 1]
        assert [await store.position(request) for request in order] == list(range(700))

    async def test_queued_counts_one_endpoint_or_all(self, store, new, running):
        await running()
        await store.submit(new())
        await store.submit(new(endpoint="another"))
        assert (store.queued(ENDPOINT), store.queued("another"), store.queued("none"), store.queued()) == (1, 1, 0, 2)
