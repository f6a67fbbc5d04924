"""T3, T4: only who holds the lease may speak for the request, and a completed one does not move."""

import sqlite3

import pytest

from impasto.errors import StoreError
from impasto.store.records import FileRecord, LogLine, Outcome, Result, Status

LINE = LogLine("2026-11-22T12:00:00.000000", "step 1 of 4")
OK = Result(200, {"images": [{"url": "x"}]}, {"X-Fal-Billable-Units": "1"})


def a_file(token: str = "b/00000000/abcdefghijklmnopqrstuv.png") -> FileRecord:
    return FileRecord(token=token, media_type="image/png", size=10)


async def test_finish_stores_result_status_and_times(store, running, clock):
    request = await running()
    clock.advance(3)
    assert await store.finish(
        request.request_id, request.lease, outcome=Outcome.OK, result=OK, inference_time=2.5, input_={"prompt": "kept"}
    )
    done = store.get(request.request_id)
    assert (done.status, done.outcome, done.http_status) == (Status.COMPLETED, Outcome.OK, 200)
    assert (done.inference_time, done.finished_at) == (2.5, clock.now)
    assert store.input(done.request_id) == {"prompt": "kept"}
    assert (done.lease, done.error, done.error_type) == (None, None, None)
    assert store.result(request.request_id) == OK


async def test_finish_with_an_error_keeps_its_line_and_type(store, running):
    request = await running()
    body = Result(422, {"detail": [{"loc": ["body", "prompt"], "msg": "Field required", "type": "missing"}]})
    await store.finish(
        request.request_id, request.lease, outcome=Outcome.ERROR, result=body, error="bad \ud800", error_type="missing"
    )
    done = store.get(request.request_id)
    assert (done.outcome, done.http_status, done.error, done.error_type) == (Outcome.ERROR, 422, "bad ?", "missing")
    assert store.result(request.request_id) == body


async def test_a_sweep_that_comes_late_gives_the_time_back(store, running, clock):
    """The server was paused: beats wait to be read, and a lease that nobody could renew says nothing."""
    request = await running()
    clock.advance(3600)
    assert await store.sweep(late=3600.0) == 0
    clock.advance(14)
    assert await store.sweep(late=7.0) == 0, "half a lease is no pause"
    clock.advance(2)
    assert await store.sweep(late=7.0) == 1, "who does not use it has lost it"
    assert store.get(request.request_id).crash_count == 1


async def test_an_old_lease_cannot_renew_log_finish_or_requeue(store, running, clock):
    old = await running()
    clock.advance(16)
    assert await store.sweep() == 1
    clock.advance(1)
    (now,) = await store.claim(endpoints=[old.endpoint], runner_id="runner-2", limit=1, lease_seconds=15)
    assert now.attempt == 2
    logged = store.logs(old.request_id)

    assert await store.renew({old.request_id: old.lease}, lease_seconds=15) == ([old.request_id], [])
    assert not await store.progress(old.request_id, old.lease, [LINE])
    assert not await store.finish(old.request_id, old.lease, outcome=Outcome.OK, result=OK, files=[a_file()])
    assert await store.requeue(old.request_id, old.lease, crashed=False, reason="late") is None

    assert store.get(old.request_id) == now
    assert store.logs(old.request_id) == logged
    assert store.result(old.request_id) is None
    assert store.file(a_file().token) is None
    assert await store.finish(now.request_id, now.lease, outcome=Outcome.OK, result=OK)


@pytest.mark.parametrize("lease", ["", "0" * 32, "NULL"])
async def test_a_made_up_lease_is_nobodys(store, running, finished, lease):
    held, done = await running(), await finished()
    await store.requeue(held.request_id, held.lease, crashed=False, drain=True, reason="drain")
    for request in (held, done):
        assert await store.renew({request.request_id: lease}, lease_seconds=15) == ([request.request_id], [])
        assert not await store.finish(request.request_id, lease, outcome=Outcome.OK, result=OK)
        assert await store.requeue(request.request_id, lease, crashed=False, reason="") is None
    assert not await store.finish("nobody", lease, outcome=Outcome.OK, result=OK)


async def test_a_request_ended_without_a_runner_has_no_lease_to_match(store, new):
    request = await store.submit(new())
    await store.cancel(request.request_id)
    assert not await store.finish(request.request_id, "", outcome=Outcome.OK, result=OK)


async def test_finish_is_idempotent_for_the_winning_lease_and_the_first_result_stands(store, running, table):
    request = await running(webhook_url="https://example.org/hook")
    for number in range(3):
        result = Result(200, {"number": number})
        assert await store.finish(
            request.request_id, request.lease, outcome=Outcome.OK, result=result, files=[a_file()]
        )
    assert store.result(request.request_id) == Result(200, {"number": 0})
    assert len(table("results")) == len(table("files")) == len(table("webhook_deliveries")) == 1


async def test_renew_extends_the_lease(store, running, clock):
    request = await running()
    for _ in range(5):
        clock.advance(10)
        assert await store.renew({request.request_id: request.lease}, lease_seconds=15) == ([], [])
        assert await store.sweep() == 0
    assert store.get(request.request_id).status == Status.IN_PROGRESS
    clock.advance(16)
    assert await store.sweep() == 1
    assert store.get(request.request_id).status == Status.IN_QUEUE


async def test_renew_tells_lost_and_cancelled_apart(store, running, finished):
    kept, cancelled, done = await running(), await running(), await finished()
    await store.cancel(cancelled.request_id)
    leases = {request.request_id: request.lease for request in (kept, cancelled, done)} | {"nobody": "x"}
    lost, asked = await store.renew(leases, lease_seconds=15)
    assert (sorted(lost), asked) == (sorted([done.request_id, "nobody"]), [cancelled.request_id])


async def test_files_and_result_become_visible_in_one_step(store, running):
    """A file that cannot be recorded takes the whole completion back: never a result without its file."""
    request = await running()
    await store.add_file(a_file())
    other = a_file("b/00000000/zzzzzzzzzzzzzzzzzzzzzz.png")
    with pytest.raises(StoreError):
        await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=OK, files=[other, a_file()])
    assert store.get(request.request_id).status == Status.IN_PROGRESS
    assert store.result(request.request_id) is None
    assert store.file(other.token) is None
    assert await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=OK, files=[other])
    assert store.file(other.token).request_id == request.request_id


async def test_a_files_row_names_its_request_and_caller(store, running, clock):
    request = await running(key_id="key-1")
    await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=OK, files=[a_file()])
    assert store.file(a_file().token) == FileRecord(
        token=a_file().token,
        media_type="image/png",
        size=10,
        request_id=request.request_id,
        key_id="key-1",
        created_at=clock.now,
        expires_at=clock.now + 168 * 3600,
    )


async def test_a_result_that_json_cannot_say_is_refused_and_the_lease_holds(store, running):
    request = await running()
    with pytest.raises(StoreError, match="result cannot be kept as JSON"):
        await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {"x": object()}))
    assert await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=OK)


async def test_the_database_itself_keeps_completed_requests_and_results_as_they_are(finished, database):
    await finished()
    connection = sqlite3.connect(database)
    for statement in (
        "UPDATE requests SET status = 'IN_QUEUE', outcome = NULL, http_status = NULL, finished_at = NULL",
        "UPDATE requests SET outcome = 'ERROR'",
        "UPDATE results SET payload = '{}'",
        "INSERT INTO results SELECT request_id, NULL, 200, '{}', '{}' FROM requests",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
    connection.close()


async def test_a_webhook_goes_to_the_outbox_with_every_ending(store, new, running, finished, clock, table):
    hook = "https://example.org/hook"
    done = await finished(webhook_url=hook)
    cancelled = await store.submit(new(webhook_url=hook))
    await store.cancel(cancelled.request_id)
    late = await store.submit(new(webhook_url=hook, start_timeout=1))
    clock.advance(2)
    await store.sweep()
    crashed = await running(webhook_url=hook, no_retry=True)
    await store.requeue(crashed.request_id, crashed.lease, crashed=True, reason="gone")
    await finished()
    rows = table("webhook_deliveries")
    assert {row["request_id"] for row in rows} == {r.request_id for r in (done, cancelled, late, crashed)}
    assert all((row["url"], row["state"], row["attempt"]) == (hook, "DUE", 0) for row in rows)
    assert all(row["next_at"] <= clock.now for row in rows)


async def test_there_is_no_outbox_row_before_the_end(store, running, table):
    request = await running(webhook_url="https://example.org/hook")
    await store.requeue(request.request_id, request.lease, crashed=True, reason="gone")
    assert table("webhook_deliveries") == []
