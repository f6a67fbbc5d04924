"""Looking back: lists newest first, counts and durations by bucket, payloads erased for good; by an index each."""

import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from impasto.store import history
from impasto.store.base import Store
from impasto.store.queries import load
from impasto.store.records import FileRecord, Outcome, Request, Result, Status

QUERIES = load("queries.sql")
Make = Callable[..., Awaitable[Request]]


class TestLists:
    async def test_newest_first_page_by_page_and_nothing_twice(self, store: Store, new):
        ids = [(await store.submit(new())).request_id for _ in range(7)]
        pages: list[list[str]] = []
        before: int | None = None
        while page := store.requests(before=before, limit=3):
            pages.append([request.request_id for request in page])
            before = page[-1].seq
            await store.submit(new())  # what comes meanwhile is on no later page
        assert [id_ for page in pages for id_ in page] == ids[::-1]
        assert [len(page) for page in pages] == [3, 3, 1]

    async def test_each_filter_and_all_of_them(self, store: Store, new, finished: Make, clock):
        mine = await finished(key_id="k1", endpoint="a/b")
        clock.advance(10)
        other = await store.submit(new(key_id="k2", endpoint="a/b"))
        waits = await store.submit(new(key_id="k1", endpoint="c/d"))

        def ids(**filters: Any) -> list[str]:
            return [request.request_id for request in store.requests(**filters)]

        first, second, third = mine.request_id, other.request_id, waits.request_id
        assert ids() == [third, second, first]
        assert ids(key_id="k1") == [third, first]
        assert ids(endpoints=["a/b"]) == [second, first]
        assert ids(key_id="k1", endpoints=["a/b"]) == [first]
        assert ids(endpoints=["a/b", "c/d"]) == [third, second, first]
        assert ids(endpoints=["c/d", "e/f"], limit=1) == [third]
        assert ids(key_id="k1", endpoints=["a/b", "e/f"], limit=1) == [first], "filtered before it is cut off"
        assert ids(status=Status.IN_QUEUE) == [third, second]
        assert ids(http_status=(200, 399)) == [first]
        assert ids(http_status=(400, 499)) == []
        assert ids(since=clock.now) == [third, second]
        assert ids(until=clock.now) == [first]
        assert ids(key_id="k3") == []
        assert store.requests()[0].input is None, "a list carries no inputs"


class TestPagesOfRowsThatGo:
    async def test_a_page_follows_a_row_that_is_gone(self, store: Store, new, clock):
        ids = [(await store.submit(new(store_io=number != 2))).request_id for number in range(5)]
        last = store.requests(limit=3)[-1]
        assert last.request_id == ids[2]
        await store.cancel(ids[2])  # it is kept for ten minutes
        clock.advance(601)
        assert await store.sweep() == 1
        assert store.get(ids[2]) is None
        assert [request.request_id for request in store.requests(before=last.seq)] == [ids[1], ids[0]]

    async def test_so_does_a_page_of_deliveries(self, store: Store, new, clock):
        hook = "http://a.example/"
        ids = [(await store.submit(new(webhook_url=hook, store_io=number != 1))).request_id for number in range(3)]
        for id_ in ids:
            await store.cancel(id_)
        last = store.deliveries(limit=2)[-1]
        assert last.delivery.request_id == ids[1]
        clock.advance(601)
        await store.sweep()
        assert [row.delivery.request_id for row in store.deliveries(before=last.seq)] == [ids[0]]


async def end(store: Store, running: Make, *, status: int, clock: Any, wait: float, run: float, **new: Any) -> Request:
    """A request that ends with `status` after `wait` and `run` seconds."""
    submitted = await store.submit(new.pop("build")(**new))
    clock.advance(wait)
    (claimed,) = await store.claim(endpoints=[submitted.endpoint], runner_id="r", limit=1, lease_seconds=900.0)
    clock.advance(run)
    good = status < 400
    assert await store.finish(
        claimed.request_id,
        claimed.lease or "",
        outcome=Outcome.OK if good else Outcome.ERROR,
        result=Result(status, {}),
        inference_time=run if good else None,
        pictures=2 if good else 0,
    )
    return claimed


class TestUsage:
    async def test_counts_by_bucket_endpoint_and_key(self, store: Store, new, running: Make, clock):
        start = clock.now
        for status, key in ((200, "k1"), (200, "k1"), (422, "k1"), (500, "k2")):
            await end(store, running, status=status, clock=clock, wait=1, run=2, build=new, key_id=key)
        clock.advance(100)
        await end(store, running, status=200, clock=clock, wait=1, run=2, build=new, endpoint="a/b")
        counts, _ = await store.usage(buckets=[start, start + 60], until=clock.now + 1)
        shown = [(row.bucket - start, row.endpoint, row.key_id, row.requests, row.successes) for row in counts]
        assert shown == [
            (0, "fal-ai/flux-pro", "k1", 3, 2),
            (0, "fal-ai/flux-pro", "k2", 1, 0),
            (60, "a/b", "", 1, 1),
        ]
        assert [(row.user_errors, row.errors, row.pictures) for row in counts] == [(1, 0, 4), (0, 1, 0), (0, 0, 2)]
        assert counts[0].inference_seconds == pytest.approx(4)
        only, _ = await store.usage(buckets=[start], until=clock.now + 1, key_id="k2")
        assert [(row.key_id, row.requests) for row in only] == [("k2", 1)]
        assert await store.usage(buckets=[clock.now + 5], until=clock.now + 9) == ([], [])

    async def test_durations_are_nearest_rank_percentiles_of_what_succeeded(self, store: Store, new, running, clock):
        start = clock.now
        for seconds in range(1, 11):
            await end(store, running, status=200, clock=clock, wait=seconds / 10, run=seconds, build=new)
        await end(store, running, status=500, clock=clock, wait=50, run=500, build=new)
        _, (row,) = await store.usage(buckets=[start], until=clock.now + 1)
        assert row.ran == pytest.approx((5, 8, 9))
        assert row.waited == pytest.approx((0.5, 0.8, 0.9))

    async def test_percentiles_of_the_whole_are_made_of_all_requests_not_of_percentiles(
        self, store: Store, new, running, clock
    ):
        start = clock.now
        for seconds in range(1, 10):
            await end(store, running, status=200, clock=clock, wait=0, run=seconds, build=new)
        await end(store, running, status=200, clock=clock, wait=0, run=100, build=new, endpoint="a/b")
        _, rows = await store.usage(buckets=[start], until=clock.now + 1)
        assert [row.ran[0] for row in rows] == pytest.approx([100, 5])
        _, (row,) = await store.usage(buckets=[start], until=clock.now + 1, whole=True)
        assert (row.endpoint, row.ran) == ("", pytest.approx((5, 8, 9)))


class TestErasing:
    async def test_input_result_and_files_are_gone_and_the_request_stays(self, store: Store, running: Make, table):
        claimed = await running(input={"prompt": "a secret heron"})
        assert await store.erase_payloads(claimed.request_id) is None, "it is not completed"
        assert await store.finish(
            claimed.request_id,
            claimed.lease or "",
            outcome=Outcome.OK,
            result=Result(200, {"prompt": "a secret heron"}),
            files=[FileRecord(token="b/x/1.png", media_type="image/png", size=3)],
        )
        assert await store.erase_payloads(claimed.request_id) == ["b/x/1.png"]
        assert store.input(claimed.request_id) == {}
        assert store.result(claimed.request_id) is None
        assert store.file("b/x/1.png") is None
        assert [file.token for file in store.expired_files()] == ["b/x/1.png"]
        kept = store.get(claimed.request_id)
        assert kept is not None
        assert kept.status is Status.COMPLETED
        assert "heron" not in json.dumps([table("requests"), table("results")], default=str)
        assert await store.erase_payloads(claimed.request_id) == []
        assert await store.erase_payloads("unknown") is None


ROWS = 100_000


@pytest.fixture
async def busy(open_store, database: Path, clock) -> Store:
    """A hundred thousand ended requests of 20 endpoints and 50 keys, each with an input of a kilobyte."""
    store = await open_store()
    connection = sqlite3.connect(database)
    now, padding = clock.now, "x" * 1000
    connection.executemany(
        "INSERT INTO requests (request_id, endpoint, key_id, priority, status, outcome, http_status, seed, base_url, "
        "no_retry, store_io, max_attempts, boot, created_at, started_at, finished_at, inference_time, pictures, input) "
        "VALUES (?, ?, ?, 0, 'COMPLETED', 'OK', 200, '7', 'b', 0, 1, 1, 'b', ?, ?, ?, 1.5, 1, ?)",
        (
            (f"r{n}", f"e/{n % 20}", f"k{n % 50}", now - ROWS + n, now - ROWS + n + 1, now - ROWS + n + 3, padding)
            for n in range(ROWS)
        ),
    )
    connection.commit()
    connection.close()
    return store


class TestAHundredThousand:
    async def test_lists_and_counts_find_their_rows_by_an_index_and_are_right(self, busy: Store, database, clock):
        assert [request.request_id for request in busy.requests(limit=3)] == ["r99999", "r99998", "r99997"]
        page = busy.requests(endpoints=["e/7"], key_id="k7", before=busy.get("r50007").seq, limit=2)
        assert [request.request_id for request in page] == ["r49907", "r49807"]
        counts, durations = await busy.usage(buckets=[clock.now - ROWS, clock.now - 50_000], until=clock.now + 10)
        assert sum(row.requests for row in counts) == sum(row.pictures for row in counts) == ROWS
        assert len({(row.endpoint, row.key_id) for row in counts}) == 100
        assert {row.ran for row in durations} == {(2.0, 2.0, 2.0)}
        connection = sqlite3.connect(database)
        connection.create_function("bucket", 1, lambda at: at)
        names = ("key_id", "endpoint", "endpoints", "status", "lowest", "highest", "since", "until", "before", "limit")
        values = dict.fromkeys((*names, "whole"), None)
        plans = {
            name: " | ".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + QUERIES[name].sql, values))
            for name in (
                *(history.newest(key_id=key, endpoints=ids) for key in (None, "k") for ids in ((), ("e",))),
                "usage_counts",
                "usage_durations",
            )
        }
        connection.close()
        for name, plan in plans.items():
            assert "SCAN requests" not in plan, (name, plan)
            if name.startswith("requests_newest"):
                assert "TEMP B-TREE" not in plan, (name, plan)
            else:
                assert "USING COVERING INDEX requests_ended" in plan, (name, plan)
