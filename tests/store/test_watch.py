"""Waking up: nobody polls on the happy path, nobody sleeps through a change, nothing is kept for who has left."""

import asyncio
import time

import pytest

from impasto.store.records import LogLine, Outcome, Result
from impasto.store.watch import Watch

LONG = 30.0  # seconds; a test that waits so long has failed


async def test_every_move_counts_as_a_change(store, running, clock):
    request = await running()
    seen = [0, store.version(request.request_id)]
    steps = [
        lambda lease: store.progress(request.request_id, lease, [LogLine("2026-11-22T12:00:00", "x")]),
        lambda lease: store.cancel(request.request_id),
        lambda lease: store.finish(request.request_id, lease, outcome=Outcome.OK, result=Result(200, {})),
    ]
    for step in steps:
        await step(request.lease)
        seen.append(store.version(request.request_id))
    clock.advance(8 * 24 * 3600)
    await store.sweep()
    seen.append(store.version(request.request_id))
    assert seen == sorted(set(seen))


async def test_nothing_is_a_change_but_a_move(store, running):
    request = await running()
    before = store.version(request.request_id)
    await store.renew({request.request_id: request.lease}, lease_seconds=15)
    assert not await store.progress(request.request_id, "another", [LogLine("2026-11-22T12:00:00", "x")])
    assert not await store.finish(request.request_id, "another", outcome=Outcome.OK, result=Result(200, {}))
    assert store.version(request.request_id) == before


async def test_who_waits_is_woken_by_the_change_and_sees_it(store, running):
    request = await running()
    since = store.version(request.request_id)

    async def wait() -> object:
        version = await store.changed(request.request_id, since=since, timeout=LONG)
        assert version > since
        return store.result(request.request_id)

    waiters = [asyncio.ensure_future(wait()) for _ in range(20)]
    await asyncio.sleep(0)
    await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {"a": 1}))
    async with asyncio.timeout(LONG / 2):
        assert await asyncio.gather(*waiters) == [Result(200, {"a": 1})] * 20


async def test_a_change_before_the_wait_is_not_slept_through(store, new):
    request = await store.submit(new())
    since = store.version(request.request_id)
    await store.cancel(request.request_id)
    async with asyncio.timeout(LONG / 2):
        assert await store.changed(request.request_id, since=since, timeout=LONG) > since


async def test_without_a_change_the_wait_ends_with_the_old_counter(store, new):
    request, other = await store.submit(new()), await store.submit(new())
    since = store.version(request.request_id)
    waiter = asyncio.ensure_future(store.changed(request.request_id, since=since, timeout=0.05))
    await asyncio.sleep(0)
    await store.cancel(other.request_id)
    assert await waiter == since


async def test_waiting_leaves_nothing_behind(store, new):
    request = await store.submit(new())
    since = store.version(request.request_id)
    cancelled = asyncio.ensure_future(store.changed(request.request_id, since=since, timeout=LONG))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    await store.changed(request.request_id, since=since, timeout=0.01)
    await store.work_available(timeout=0.01)
    await store.work_available(timeout=0.01)
    assert not store._watch._waiters
    assert not store._watch._work.listeners


async def test_the_counters_are_bounded_and_a_forgotten_one_answers_at_least_as_much():
    watch = Watch(max_versions=4)
    assert watch.version("a") == 0
    versions = {}
    for name in "abcdefgh":
        watch.notify([name], ring=False)
        versions[name] = watch.version(name)
    assert len(watch._versions) == 4
    assert watch.version("h") == versions["h"]
    assert watch.version("a") >= versions["a"], "who knew the old counter is not left sleeping"
    async with asyncio.timeout(LONG / 2):
        await watch.changed("a", since=versions["a"], timeout=LONG)


class TestDoorbell:
    async def quiet(self, store) -> None:
        await store.work_available(timeout=0.01)

    @pytest.mark.parametrize("event", ["submit", "drain", "cancel"])
    async def test_it_rings_for_work_and_for_a_cancel(self, store, new, running, event):
        request = await running()
        await self.quiet(store)
        bell = asyncio.ensure_future(store.work_available(timeout=LONG))
        await asyncio.sleep(0)
        if event == "submit":
            await store.submit(new())
        elif event == "drain":
            await store.requeue(request.request_id, request.lease, crashed=False, drain=True, reason="drain")
        else:
            await store.cancel(request.request_id)
        async with asyncio.timeout(LONG / 2):
            await bell

    async def test_a_ring_that_nobody_heard_is_kept(self, store, new):
        await store.submit(new())
        async with asyncio.timeout(LONG / 2):
            await store.work_available(timeout=LONG)

    async def test_it_rings_again_when_the_back_off_is_over(self, open_store, new):
        """On real clocks: the retry is picked up without polling."""
        store = await open_store(clock=time.time)
        request = await store.submit(new())
        (claimed,) = await store.claim(endpoints=[request.endpoint], runner_id="gpu", limit=1, lease_seconds=15)
        await self.quiet(store)
        await store.requeue(request.request_id, claimed.lease, crashed=True, reason="gone")
        assert await store.claim(endpoints=[request.endpoint], runner_id="gpu", limit=1, lease_seconds=15) == []
        async with asyncio.timeout(LONG / 2):
            await store.work_available(timeout=LONG)
        again = await store.claim(endpoints=[request.endpoint], runner_id="gpu", limit=1, lease_seconds=15)
        assert [each.request_id for each in again] == [request.request_id]

    async def test_it_does_not_ring_for_a_finish(self, store, finished):
        await finished()
        await self.quiet(store)
        assert not store._watch._work.rung
