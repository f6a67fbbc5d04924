"""Files: how long they live, who may read them, how much a key may keep; and that what is erased is erased."""

import asyncio
from pathlib import Path

import pytest

from impasto.errors import QuotaExceeded, StoreError
from impasto.store.records import Acl, Decision, FileRecord, Lifecycle, LogLine, Outcome, Result

DAY = 24 * 3600.0
PRIVATE = Acl(Decision.HIDE, (("bob", Decision.ALLOW), ("carol", Decision.FORBID)))


def a_file(name: str = "a", **more: object) -> FileRecord:
    return FileRecord(**{"token": name, "media_type": "image/png", "size": 10, **more})  # type: ignore[arg-type]


class TestAcl:
    @pytest.mark.parametrize(
        ("reader", "decision"),
        [
            ("alice", Decision.ALLOW),
            ("bob", Decision.ALLOW),
            ("carol", Decision.FORBID),
            ("dave", Decision.HIDE),
            ("", Decision.HIDE),
            (None, Decision.HIDE),
        ],
    )
    def test_the_owner_reads_and_others_get_what_was_said_of_them(self, reader, decision):
        assert a_file(key_id="alice", acl=PRIVATE).decide(reader) is decision

    def test_no_rule_locks_the_owner_out(self):
        file = a_file(key_id="alice", acl=Acl(Decision.FORBID, (("alice", Decision.HIDE),)))
        assert file.decide("alice") is Decision.ALLOW

    def test_the_first_rule_that_names_the_reader_counts(self):
        acl = Acl(Decision.HIDE, (("bob", Decision.FORBID), ("bob", Decision.ALLOW)))
        assert acl.decide("bob") is Decision.FORBID

    def test_a_file_of_the_open_mode_is_not_everybodys_when_nobody_is_named(self):
        assert a_file(key_id="", acl=Acl(Decision.FORBID)).decide(None) is Decision.FORBID
        assert a_file(key_id="", acl=Acl(Decision.FORBID)).decide("") is Decision.ALLOW

    def test_public_means_that_nobody_is_refused(self):
        assert Acl().public
        assert Acl(rules=(("bob", Decision.ALLOW),)).public
        assert not Acl(rules=(("bob", Decision.HIDE),)).public
        assert not Acl(Decision.FORBID).public

    async def test_it_is_kept_and_can_be_replaced(self, store):
        await store.add_file(a_file("a", acl=PRIVATE))
        assert store.file("a").acl == PRIVATE
        assert await store.set_acl("a", Acl(Decision.FORBID))
        assert store.file("a").acl == Acl(Decision.FORBID)
        assert not await store.set_acl("unknown", Acl())


class TestLifecycle:
    async def drawn(self, store, running, **new):
        request = await running(key_id="alice", **new)
        assert await store.finish(
            request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {}), files=[a_file("p")]
        )
        return store.file("p")

    async def test_without_one_files_live_as_long_as_their_result_for_everybody(self, store, running, clock):
        file = await self.drawn(store, running)
        assert (file.expires_at, file.acl, file.key_id) == (clock.now + 7 * DAY, None, "alice")

    @pytest.mark.parametrize("seconds", [60, 365 * DAY])
    async def test_files_live_as_long_as_their_caller_said(self, store, running, clock, seconds):
        file = await self.drawn(store, running, lifecycle=Lifecycle(seconds, PRIVATE))
        assert (file.expires_at, file.acl) == (clock.now + seconds, PRIVATE)

    async def test_a_time_alone_leaves_them_public_and_an_acl_alone_leaves_the_time(self, store, running, clock):
        assert (await self.drawn(store, running, lifecycle=Lifecycle(60))).acl is None
        await store.delete_file("p")
        await store.forget_files(["p"])
        assert (await self.drawn(store, running, lifecycle=Lifecycle(acl=PRIVATE))).expires_at == clock.now + 7 * DAY

    async def test_it_outlives_a_restart_and_a_lost_runner(self, open_store, running, store, clock):
        request = await running(lifecycle=Lifecycle(60, PRIVATE))
        await store.close()
        again = await open_store()
        await again.recover()
        (claimed,) = await again.claim(endpoints=[request.endpoint], runner_id="r2", limit=1, lease_seconds=15)
        await again.finish(
            claimed.request_id, claimed.lease, outcome=Outcome.OK, result=Result(200, {}), files=[a_file("p")]
        )
        assert (again.file("p").expires_at, again.file("p").acl) == (clock.now + 60, PRIVATE)

    async def test_pictures_of_an_unstored_request_live_as_long_as_its_result(self, store, running, clock):
        assert (await self.drawn(store, running, store_io=False)).expires_at == clock.now + 600
        clock.advance(601)
        assert await store.sweep() == 2, "the request and its file"
        assert [file.token for file in store.expired_files()] == ["p"]

    async def test_unless_their_caller_named_a_time(self, store, running, clock):
        file = await self.drawn(store, running, store_io=False, lifecycle=Lifecycle(DAY))
        assert file.expires_at == clock.now + DAY


class TestQuota:
    async def test_uploads_in_service_count_and_nothing_else(self, store, running, clock):
        await store.add_file(a_file("a", key_id="alice", size=100))
        await store.add_file(a_file("b", key_id="alice", size=10, expires_at=clock.now + 60))
        await store.add_file(a_file("c", key_id="bob", size=1000))
        request = await running(key_id="alice")
        await store.finish(
            request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {}), files=[a_file("p")]
        )
        assert store.stored_bytes("alice") == 110
        clock.advance(60)
        assert store.stored_bytes("alice") == 100, "from the second of its expiry on, swept or not"
        assert await store.delete_file("a")
        assert store.stored_bytes("alice") == 0
        assert store.stored_bytes("nobody") == 0

    async def test_of_many_at_once_only_those_that_fit_are_taken(self, store):
        files = [a_file(str(number), key_id="alice", size=30) for number in range(10)]
        done = await asyncio.gather(*(store.add_file(file, quota=100) for file in files), return_exceptions=True)
        assert [outcome for outcome in done if outcome is True] == [True] * 3
        refused = [outcome for outcome in done if isinstance(outcome, QuotaExceeded)]
        assert len(refused) == 7
        assert "server.upload_quota_mb" in refused[0].message
        assert store.stored_bytes("alice") == 90
        assert await store.add_file(a_file("exact", key_id="alice", size=10), quota=100)

    async def test_a_token_that_is_known_stays_as_it_is(self, store):
        assert await store.add_file(a_file("a", size=1))
        assert not await store.add_file(a_file("a", size=2))
        assert store.file("a").size == 1


class TestDelete:
    async def test_a_file_goes_at_once_and_once(self, store):
        await store.add_file(a_file("a"))
        assert await store.delete_file("a")
        assert store.file("a") is None
        assert not await store.delete_file("a")
        assert not await store.add_file(a_file("a")), "nobody gets its URL for other bytes"


def on_disk(database: Path) -> bytes:
    return b"".join(path.read_bytes() for path in database.parent.glob(database.name + "*"))


class TestErased:
    """Not in the rows, not in free pages, not in the write-ahead log."""

    async def swept(self, store, clock, seconds: float = 2.0) -> None:
        clock.advance(seconds)
        await asyncio.sleep(1.1)  # the log is emptied once a second at most
        await store.sweep()
        await store.sweep()  # its commit comes after the emptying that the first one caused

    async def unstored(self, store, running):
        request = await running(
            store_io=False,
            idempotency_key="once",
            input={"prompt": "canary-in-the-input " + "x" * 20_000, "image_url": "data:canary-in-the-input"},
        )
        await store.progress(request.request_id, request.lease, [LogLine("2026", "canary-in-a-line")])
        await store.finish(
            request.request_id,
            request.lease,
            outcome=Outcome.OK,
            result=Result(200, {"prompt": "canary-in-the-result"}),
        )
        return request

    async def test_the_input_of_an_unstored_request_is_gone_from_the_disk_when_it_ends(
        self, store, running, clock, database
    ):
        await self.unstored(store, running)
        await self.swept(store, clock)
        assert b"canary-in-the-input" not in on_disk(database)
        assert b"canary-in-the-result" in on_disk(database)

    async def test_and_all_the_rest_when_its_ten_minutes_are_over(self, store, running, clock, database):
        await self.unstored(store, running)
        await self.swept(store, clock, seconds=601)
        await self.swept(store, clock)
        assert b"canary" not in on_disk(database)

    async def test_what_a_deleted_request_said_is_gone_from_the_disk(self, store, running, clock, database):
        request = await running(input={"prompt": "canary"})
        await store.finish(
            request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {"prompt": "canary"})
        )
        assert b"canary" in on_disk(database)
        assert await store.erase_payloads(request.request_id) == []
        await self.swept(store, clock)
        assert b"canary" not in on_disk(database)

    async def test_a_reader_in_the_way_costs_no_writes(self, store, running, clock, database):
        import sqlite3

        request = await running(store_io=False, input={"prompt": "canary"})
        stranger = sqlite3.connect(database, isolation_level=None)
        stranger.execute("BEGIN")
        stranger.execute("SELECT count(*) FROM requests").fetchall()
        await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {}))
        await self.swept(store, clock)
        assert store.healthy
        stranger.execute("COMMIT")
        stranger.close()
        await self.swept(store, clock)
        assert b"canary" not in on_disk(database)


async def test_two_results_cannot_name_one_file(store, running):
    request = await running()
    await store.add_file(a_file("p"))
    with pytest.raises(StoreError, match="known already"):
        await store.finish(
            request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {}), files=[a_file("p")]
        )
