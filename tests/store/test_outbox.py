"""Webhook deliveries: durable, claimed by one at a time, fenced, logged, and gone with their request."""

import asyncio
import sqlite3
import subprocess
import sys
import time

import pytest

from impasto.store.migrate import migrate, shipped
from impasto.store.outbox import LAPSED, MAX_ATTEMPTS, host_of
from impasto.store.queries import load
from impasto.store.records import CancelResult, DeliveryAttempt, DeliveryState

HOOK = "https://example.org/hook"
HOST = "example.org:443"

DELIVERER = """
import asyncio, sys
from impasto.store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1])
    (claimed,) = await store.claim_deliveries({("", "example.org:443"): 1}, seconds=3600)
    print(claimed.claim, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def attempt(number: int, **changes) -> DeliveryAttempt:
    values = {"at": 1_800_000_000.0, "http_status": 200, "error": None, "seconds": 0.5}
    return DeliveryAttempt(**({"number": number} | values | changes))


def due(store, clock) -> list[str]:
    """The hosts that something is due for now."""
    return [host for (_, host), at in store.deliveries_due().items() if at <= clock.now]


async def claim(store, limit: int = 10, host: str = HOST, seconds: float = 30, key_id: str = ""):
    return await store.claim_deliveries({(key_id, host): limit}, seconds=seconds)


@pytest.fixture
def posted(finished):
    async def post(url: str = HOOK, **changes):
        return (await finished(webhook_url=url, **changes)).request_id

    return post


class TestClaim:
    async def test_an_ended_request_is_due_at_once_and_claimed_once(self, store, posted, clock):
        request_id = await posted()
        assert due(store, clock) == [HOST]
        (delivery,) = await claim(store)
        assert (delivery.request_id, delivery.url, delivery.host) == (request_id, HOOK, HOST)
        assert (delivery.state, delivery.attempt, delivery.tries) == (DeliveryState.DUE, 1, 1)
        assert delivery.claimed_until == clock.now + 30
        assert await claim(store) == []
        assert due(store, clock) == []

    async def test_no_two_claimers_get_the_same(self, open_store, posted):
        for _ in range(40):
            await posted()
        ours, theirs = await open_store(), await open_store()
        batches = await asyncio.gather(*[claim(store, 3) for store in (ours, theirs) * 10])
        ids = [delivery.delivery_id for batch in batches for delivery in batch]
        assert len(ids) == len(set(ids)) == 40

    async def test_each_host_gives_what_was_wanted_of_it_the_longest_waiting_first(self, store, posted, clock):
        first = await posted()
        clock.advance(1)
        for url in (HOOK, HOOK, "http://other.example/x", "http://third.example/x"):
            await posted(url)
        assert due(store, clock) == [HOST, "other.example:80", "third.example:80"]
        claimed = await store.claim_deliveries(
            {("", HOST): 2, ("", "other.example:80"): 9, ("", "nobody:1"): 9}, seconds=30
        )
        assert [delivery.host for delivery in claimed] == [HOST, HOST, "other.example:80"]
        assert claimed[0].request_id == first
        assert due(store, clock) == [HOST, "third.example:80"]

    async def test_each_key_has_its_own_lane_to_a_host(self, store, posted, clock):
        theirs = [await posted(key_id="k1") for _ in range(3)]
        clock.advance(1)
        mine = await posted(key_id="k2")
        await posted("http://other.example/x", key_id="k2")
        other = "other.example:80"
        at = clock.now
        assert store.deliveries_due() == {("k1", HOST): at - 1, ("k2", HOST): at, ("k2", other): at}
        (delivery,) = await claim(store, key_id="k2")
        assert (delivery.request_id, delivery.key_id) == (mine, "k2")
        assert [delivery.request_id for delivery in await claim(store, key_id="k1")] == theirs

    async def test_a_claim_that_lapsed_is_due_again_and_the_log_says_so(self, store, posted, clock):
        request_id = await posted()
        await claim(store, seconds=30)
        clock.advance(29)
        assert await claim(store) == []
        clock.advance(1)
        (again,) = await claim(store)
        assert (again.attempt, again.tries) == (2, 2)
        _, log = store.delivery(request_id)
        assert [(line.number, line.error) for line in log] == [(1, LAPSED)]

    async def test_spellings_of_one_host_are_one_host(self):
        urls = ["https://A.example/x", "https://a.example:443/y?z", "https://a.example./", "https://u@a.example"]
        assert {host_of(url) for url in urls} == {"a.example:443"}
        assert host_of("http://[::1]:9/") == "::1:9"
        assert host_of("http://[") == host_of("http://x:99999999/") == ""


class TestRecord:
    async def test_a_delivered_one_is_never_due_again(self, store, posted, clock):
        request_id = await posted()
        (delivery,) = await claim(store)
        assert await store.record_delivery(delivery, attempt(1), state=DeliveryState.DELIVERED)
        clock.advance(10 * 3600)
        assert due(store, clock) == [] == await claim(store)
        settled, log = store.delivery(request_id)
        assert (settled.state, settled.claim, settled.claimed_until) == (DeliveryState.DELIVERED, None, None)
        assert log == [attempt(1)]

    async def test_a_failed_one_is_due_at_its_next_time(self, store, posted, clock):
        await posted()
        (delivery,) = await claim(store)
        failed = attempt(1, http_status=500, error="It answers with status 500.")
        assert await store.record_delivery(delivery, failed, state=DeliveryState.DUE, next_at=clock.now + 60)
        clock.advance(59)
        assert await claim(store) == []
        clock.advance(1)
        (again,) = await claim(store)
        assert again.tries == 2

    async def test_who_comes_back_after_the_lapse_adds_to_the_log_but_decides_nothing(self, open_store, posted, clock):
        request_id = await posted()
        ours, theirs = await open_store(), await open_store()
        (late,) = await claim(ours)
        clock.advance(30)
        (current,) = await claim(theirs)
        assert not await ours.record_delivery(late, attempt(1, seconds=31.0), state=DeliveryState.DEAD)
        assert ours.delivery(request_id)[0].claim == current.claim
        assert await theirs.record_delivery(current, attempt(2), state=DeliveryState.DELIVERED)
        assert not await ours.record_delivery(late, attempt(1, seconds=31.0), state=DeliveryState.DUE, next_at=0)
        delivery, log = theirs.delivery(request_id)
        assert delivery.state is DeliveryState.DELIVERED
        assert log == [attempt(1, seconds=31.0), attempt(2)]

    async def test_the_note_reaches_the_request_log_of_a_completed_request(self, store, posted):
        request_id = await posted()
        (delivery,) = await claim(store)
        await store.record_delivery(delivery, attempt(1, error="x"), state=DeliveryState.DEAD, note="It was dropped.")
        assert [(line.message, line.level) for line in store.logs(request_id)] == [("It was dropped.", "WARN")]

    async def test_the_log_keeps_the_last_hundred(self, store, posted):
        request_id = await posted()
        for number in range(1, MAX_ATTEMPTS + 6):
            await store.redeliver(request_id)
            (delivery,) = await claim(store)
            assert delivery.attempt == number
            await store.record_delivery(delivery, attempt(number), state=DeliveryState.DELIVERED)
        numbers = [line.number for line in store.delivery(request_id)[1]]
        assert numbers == list(range(6, MAX_ATTEMPTS + 6))


class TestRedeliver:
    @pytest.mark.parametrize("state", list(DeliveryState))
    async def test_whatever_its_state_it_is_due_now_with_a_series_of_its_own(self, store, posted, clock, state):
        request_id = await posted()
        (delivery,) = await claim(store)
        await store.record_delivery(delivery, attempt(1), state=state, next_at=clock.now + 3600)
        assert await store.redeliver(request_id)
        (again,) = await claim(store)
        assert (again.attempt, again.tries) == (2, 1)

    async def test_one_under_way_is_sent_again_and_cannot_settle_it(self, store, posted):
        request_id = await posted()
        (delivery,) = await claim(store)
        assert await store.redeliver(request_id)
        assert not await store.record_delivery(delivery, attempt(1), state=DeliveryState.DELIVERED)
        (again,) = await claim(store)
        assert (again.attempt, again.tries) == (2, 1)
        assert store.delivery(request_id)[1] == [attempt(1)]

    async def test_a_request_without_webhook_or_end_has_none(self, store, finished, running):
        done, busy = await finished(), await running(webhook_url=HOOK)
        for request_id in (done.request_id, busy.request_id, "nobody"):
            assert not await store.redeliver(request_id)
            assert store.delivery(request_id) is None


class TestBell:
    async def test_the_end_of_a_request_with_a_webhook_rings(self, store, posted):
        waiting = asyncio.create_task(store.delivery_due(timeout=60))
        await posted()
        await asyncio.wait_for(waiting, 30)

    async def test_a_ring_that_nobody_heard_is_kept(self, store, new):
        request = await store.submit(new(webhook_url=HOOK))
        assert await store.cancel(request.request_id) is CancelResult.CANCELLATION_REQUESTED
        await asyncio.wait_for(store.delivery_due(timeout=3600), 30)

    async def test_a_request_without_one_does_not(self, store, finished):
        await finished()
        start = time.monotonic()
        await store.delivery_due(timeout=0.2)
        assert time.monotonic() - start >= 0.15


class TestDurability:
    async def test_a_deliverer_that_is_killed_leaves_its_claim_to_the_next_server(self, open_store, database, new):
        store = await open_store(clock=time.time)  # the other process's clock
        request_id = (await store.submit(new(webhook_url=HOOK))).request_id
        await store.cancel(request_id)
        command = [sys.executable, "-c", DELIVERER, str(database)]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert (await process.stdout.readline()).strip()
        process.kill()
        await process.wait()
        again = await open_store(clock=time.time)
        assert await claim(again) == []  # an hour's claim
        await again.recover()
        (delivery,) = await claim(again)
        assert (delivery.attempt, delivery.request_id) == (2, request_id)
        assert store.delivery(request_id)[1][0].error == LAPSED

    async def test_what_an_older_version_left_in_the_outbox_is_due(self, open_store, database, new):
        database.parent.mkdir()
        connection = sqlite3.connect(database, isolation_level=None)
        connection.row_factory = sqlite3.Row
        migrate(connection, load("queries.sql"), shipped()[:1])
        connection.execute(
            "INSERT INTO requests (request_id, endpoint, key_id, priority, seed, base_url, no_retry, store_io, "
            "max_attempts, boot, created_at, input) VALUES ('r', 'e', '', 0, '1', 'b', 0, 1, 1, 'b', 1, '{}')"
        )
        connection.execute(
            "INSERT INTO webhook_deliveries (delivery_id, request_id, url, next_at, created_at) "
            f"VALUES ('d', 'r', '{HOOK}', 1, 1)"
        )
        connection.close()
        store = await open_store()
        assert store.deliveries_due() == {("", ""): 1}
        (delivery,) = await claim(store, host="")
        assert (delivery.request_id, delivery.url, delivery.attempt) == ("r", HOOK, 1)

    async def test_recover_leaves_what_waits_for_its_time(self, store, posted, clock):
        await posted()
        (delivery,) = await claim(store)
        await store.record_delivery(delivery, attempt(1), state=DeliveryState.DUE, next_at=clock.now + 60)
        await store.recover()
        assert await claim(store) == []

    async def test_everything_goes_with_the_request(self, open_store, finished, clock, table):
        store = await open_store(retention_seconds=100)
        done = await finished(webhook_url=HOOK)  # of another store over the same file, with its longer retention
        (delivery,) = await claim(store)
        await store.record_delivery(delivery, attempt(1), state=DeliveryState.DUE, next_at=clock.now)
        assert table("webhook_attempts")
        clock.advance(169 * 3600)
        await store.sweep()
        assert store.get(done.request_id) is None
        assert table("webhook_deliveries") == table("webhook_attempts") == []
        assert not await store.record_delivery(delivery, attempt(2), state=DeliveryState.DELIVERED)
        assert table("webhook_attempts") == []


class TestList:
    async def test_the_latest_ends_come_first_with_their_last_try_page_by_page(self, store, posted, clock):
        ids = [await posted(f"https://example.org/{n}") for n in range(3)]
        claimed = {delivery.request_id: delivery for delivery in await claim(store)}
        refused = attempt(1, http_status=503, error="It answers 503.")
        assert await store.record_delivery(claimed[ids[0]], refused, state=DeliveryState.DEAD)
        first = store.deliveries(limit=2)
        assert [row.delivery.request_id for row in first] == [ids[2], ids[1]]
        assert [row.last for row in first] == [None, None], "nobody has told how it went"
        (rest,) = store.deliveries(limit=2, before=first[-1].seq)
        assert (rest.delivery.request_id, rest.delivery.state, rest.last) == (ids[0], DeliveryState.DEAD, refused)
        assert rest.endpoint == "fal-ai/flux-pro"

    async def test_they_are_those_of_a_state_and_of_a_key(self, store, posted, clock):
        mine, theirs = await posted(key_id="mine"), await posted(key_id="theirs")
        (delivery,) = await claim(store, key_id="mine")
        assert await store.record_delivery(delivery, attempt(1), state=DeliveryState.DELIVERED)
        assert [row.delivery.request_id for row in store.deliveries(state=DeliveryState.DELIVERED)] == [mine]
        assert [row.delivery.request_id for row in store.deliveries(key_id="theirs")] == [theirs]
        assert store.deliveries(key_id="theirs", state=DeliveryState.DELIVERED) == []
