"""Stored inputs have a quota, searches and lists never read them, and large ones are kept where they are of use."""

import json
import sqlite3

import pytest

from impasto.errors import PayloadTooLarge, QueueFull
from impasto.store.migrate import migrate, shipped
from impasto.store.queries import load
from impasto.store.records import Outcome, Result

LARGE = "data:image/png;base64," + "A" * 200_000
MIB = 2**20


def picture(size: int) -> dict[str, object]:
    return {"prompt": "a heron", "image_url": "data:image/png;base64," + "A" * size, "strength": 0.5}


def total(database, scope: str = "all") -> int:
    connection = sqlite3.connect(database)
    try:
        row = connection.execute("SELECT bytes FROM input_totals WHERE scope = ?", [scope]).fetchone()
        return 0 if row is None else row[0]
    finally:
        connection.close()


def stored(table) -> int:
    return sum(len(row["input"]) for row in table("requests"))


class TestRefused:
    @pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.CANCELLED, Outcome.TIMEOUT])
    async def test_a_large_input_of_a_request_that_drew_nothing_is_cut_and_says_so(
        self, store, running, table, database, outcome
    ):
        request = await running(input={"prompt": "a heron", "image_url": LARGE, "nested": [{"a": LARGE}], "n": 1})
        await store.finish(request.request_id, request.lease, outcome=outcome, result=Result(422, {"detail": []}))
        kept = store.input(request.request_id)
        cut = f"{LARGE[:64]}… ({len(LARGE)} characters, not kept)"
        assert kept == {"prompt": "a heron", "image_url": cut, "nested": [{"a": cut}], "n": 1}
        assert total(database) == stored(table) < 1000

    async def test_a_cancelled_one_in_the_queue_too(self, store, new, table, database):
        request = await store.submit(new(input=picture(100_000)))
        await store.cancel(request.request_id)
        assert total(database) == stored(table) < 1000

    async def test_a_small_input_is_kept_whole_whatever_became_of_it(self, store, running):
        given = {"prompt": "p" * 30_000, "image_url": "i" * 30_000}
        request = await running(input=given)
        await store.finish(request.request_id, request.lease, outcome=Outcome.ERROR, result=Result(422, {}))
        assert store.input(request.request_id) == given

    async def test_many_small_values_are_no_way_round(self, store, running, table):
        request = await running(input={"prompt": "a heron"} | {f"field {n}": "x" * 1000 for n in range(1000)})
        await store.finish(request.request_id, request.lease, outcome=Outcome.ERROR, result=Result(422, {}))
        assert stored(table) < 70_000
        assert store.input(request.request_id)["prompt"] == "a heron"

    async def test_what_was_drawn_keeps_its_input(self, store, finished):
        request = await finished(input=picture(100_000))
        assert store.input(request.request_id) == picture(100_000)


class TestQuota:
    async def test_open_requests_that_fill_it_make_the_next_one_429(self, open_store, new):
        store = await open_store(key_input_bytes=2 * MIB)
        await store.submit(new(key_id="k", input=picture(1_500_000)))
        with pytest.raises(QueueFull, match=r"queue\.max_key_input_mb"):
            await store.submit(new(key_id="k", input=picture(1_000_000)))
        await store.submit(new(key_id="k", input={"prompt": "small ones fit"}))
        await store.submit(new(key_id="other", input=picture(1_000_000)))

    async def test_of_all_keys_together(self, open_store, new):
        store = await open_store(all_input_bytes=2 * MIB)
        await store.submit(new(key_id="k", input=picture(1_500_000)))
        with pytest.raises(QueueFull, match=r"queue\.max_input_mb"):
            await store.submit(new(key_id="other", input=picture(1_000_000)))

    async def test_an_input_that_never_fits_is_413(self, open_store, new):
        store = await open_store(key_input_bytes=MIB)
        with pytest.raises(PayloadTooLarge, match=r"queue\.max_key_input_mb"):
            await store.submit(new(key_id="k", input=picture(2 * MIB)))

    async def test_ended_requests_make_room_the_oldest_first(self, open_store, new, table, database):
        store = await open_store(key_input_bytes=2 * MIB)
        ids = []
        for _ in range(5):
            request = await store.submit(new(key_id="k", input=picture(900_000)))
            (claimed,) = await store.claim(endpoints=[request.endpoint], runner_id="r", limit=1)
            await store.finish(claimed.request_id, claimed.lease, outcome=Outcome.OK, result=Result(200, {}))
            ids.append(request.request_id)
        lengths = [len(store.input(id_)["image_url"]) > 900_000 for id_ in ids]
        assert lengths == [False, False, False, True, True]
        assert total(database, "key:k") == total(database) == stored(table) <= 2 * MIB

    async def test_sums_follow_every_way_out(self, open_store, new, clock, table, database):
        store = await open_store(retention_seconds=60)
        unstored = await store.submit(new(key_id="a", store_io=False, input=picture(100_000)))
        erased = await store.submit(new(key_id="b", input=picture(100_000)))
        await store.submit(new(key_id="c", input=picture(100_000)))
        for claimed in await store.claim(endpoints=[erased.endpoint], runner_id="r", limit=9):
            if claimed.key_id != "c":
                await store.finish(claimed.request_id, claimed.lease, outcome=Outcome.OK, result=Result(200, {}))
        assert store.input(unstored.request_id) == {}
        await store.erase_payloads(erased.request_id)
        assert total(database) == stored(table)
        clock.advance(61)
        await store.sweep()
        assert [total(database, f"key:{key}") > 0 for key in "abc"] == [False, False, True]
        assert total(database) == stored(table)


class TestFacts:
    async def test_prompt_and_size_are_known_without_the_input(self, store, new):
        long = await store.submit(new(input={"prompt": "Reiher \N{BIRD}" + "x" * 5000}))
        odd = await store.submit(new(input={"prompt": ["no text"]}))
        lone = await store.submit(new(input={"prompt": "\ud800 heron"}))
        secret = await store.submit(new(input={"prompt": "a secret"}, store_io=False))
        facts = store.input_facts([long.seq, odd.seq, lone.seq, secret.seq, 10_000])
        assert facts[long.seq].prompt == ("Reiher \N{BIRD}" + "x" * 5000)[:2000]
        assert facts[long.seq].size == len(
            json.dumps({"prompt": "Reiher \N{BIRD}" + "x" * 5000}, separators=(",", ":"))
        )
        assert [facts[one.seq].prompt for one in (odd, lone, secret)] == [None, "? heron", None]
        assert 10_000 not in facts

    async def test_erased_payloads_leave_no_prompt(self, store, finished, table):
        request = await finished(input={"prompt": "a secret"})
        await store.erase_payloads(request.request_id)
        (row,) = table("input_index")
        assert (row["prompt"], row["brief"], row["bytes"]) == (None, None, 2)
        assert not store.input_facts([row["seq"]])[row["seq"]].kept

    async def test_a_database_of_the_version_before_gets_its_index(self, open_store, database, table):
        database.parent.mkdir(parents=True)
        connection = sqlite3.connect(database, isolation_level=None)
        migrate(connection, load("queries.sql"), shipped()[:6])
        insert = (
            "INSERT INTO requests (request_id, endpoint, key_id, priority, seed, base_url, no_retry, store_io, "
            "max_attempts, boot, created_at, input) VALUES (?, 'e', 'k', 0, '1', '', 0, 1, 1, '', 1, ?)"
        )
        texts = [json.dumps(value) for value in ({"prompt": "\ud83e\udd86 \ud800"}, {"prompt": 7}, picture(100_000))]
        for number, text in enumerate(texts):
            connection.execute(insert, [str(number), text])
        connection.close()
        store = await open_store()
        facts = store.input_facts([1, 2, 3])
        assert [facts[seq].prompt for seq in (1, 2, 3)] == ["\N{DUCK} ?", None, "a heron"]
        assert [facts[seq].size for seq in (1, 2, 3)] == [len(text) for text in texts]
        assert total(database, "key:k") == sum(map(len, texts))
        assert [bool(row["brief"]) for row in table("input_index")] == [False, False, True]
