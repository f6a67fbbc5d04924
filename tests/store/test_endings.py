"""T7, T8, T9, T11: cancel in every state, the start deadline, and what retention deletes."""

import asyncio

import pytest

from impasto.store.moves import SWEEP_STEP
from impasto.store.records import CancelResult, FileRecord, LogLine, Outcome, Result, Status

ENDPOINT = "fal-ai/flux-pro"
DAY = 24 * 3600.0


class TestCancel:
    async def test_a_queued_request_ends_at_once(self, store, new, clock):
        request = await store.submit(new())
        assert await store.cancel(request.request_id) == CancelResult.CANCELLATION_REQUESTED
        done, result = store.get(request.request_id), store.result(request.request_id)
        assert (done.status, done.outcome, done.http_status) == (Status.COMPLETED, Outcome.CANCELLED, 499)
        assert (done.error_type, done.finished_at) == ("client_cancelled", clock.now)
        assert result.http_status == 499
        assert result.payload == {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"}
        assert await store.claim(endpoints=[ENDPOINT], runner_id="gpu", limit=1, lease_seconds=15) == []

    async def test_a_running_request_is_told_and_ends_by_its_runner(self, store, running):
        request = await running()
        assert await store.cancel(request.request_id) == CancelResult.CANCELLATION_REQUESTED
        assert store.get(request.request_id).cancel_requested
        assert store.get(request.request_id).status == Status.IN_PROGRESS
        assert await store.renew({request.request_id: request.lease}, lease_seconds=15) == ([], [request.request_id])
        body = Result(499, {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"})
        assert await store.finish(request.request_id, request.lease, outcome=Outcome.CANCELLED, result=body)
        assert store.get(request.request_id).outcome == Outcome.CANCELLED

    async def test_a_running_request_may_still_complete(self, store, running):
        request = await running()
        await store.cancel(request.request_id)
        assert await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {}))
        assert store.get(request.request_id).outcome == Outcome.OK

    async def test_a_request_in_back_off_ends_at_once(self, store, running):
        request = await running()
        await store.requeue(request.request_id, request.lease, crashed=True, reason="gone")
        assert await store.cancel(request.request_id) == CancelResult.CANCELLATION_REQUESTED
        assert store.get(request.request_id).outcome == Outcome.CANCELLED

    async def test_a_completed_request_stays_as_it_is(self, store, finished):
        request = await finished()
        before = store.get(request.request_id), store.result(request.request_id)
        assert await store.cancel(request.request_id) == CancelResult.ALREADY_COMPLETED
        assert (store.get(request.request_id), store.result(request.request_id)) == before

    async def test_cancelling_twice_says_so(self, store, new):
        request = await store.submit(new())
        await store.cancel(request.request_id)
        assert await store.cancel(request.request_id) == CancelResult.ALREADY_COMPLETED

    async def test_an_unknown_request_is_not_found(self, store):
        assert await store.cancel("nobody") == CancelResult.NOT_FOUND


class TestStartDeadline:
    async def test_a_request_that_did_not_start_in_time_ends_with_504(self, store, new, clock):
        request = await store.submit(new(start_timeout=5))
        clock.advance(4.9)
        assert await store.sweep() == 0
        clock.advance(0.2)
        assert await store.sweep() == 1
        done, result = store.get(request.request_id), store.result(request.request_id)
        assert (done.status, done.outcome, done.error_type) == (Status.COMPLETED, Outcome.TIMEOUT, "request_timeout")
        assert (done.http_status, result.http_status) == (504, 504)
        assert result.headers["X-Fal-Request-Timeout-Type"] == "user"
        assert result.payload["error_type"] == "request_timeout"
        assert isinstance(result.payload["detail"], str)

    async def test_a_late_request_is_not_started_even_before_the_sweep(self, store, new, clock):
        await store.submit(new(start_timeout=5))
        clock.advance(5.1)
        assert await store.claim(endpoints=[ENDPOINT], runner_id="gpu", limit=1, lease_seconds=15) == []

    async def test_what_has_started_is_not_hurried(self, store, running, clock):
        request = await running(start_timeout=5)
        clock.advance(10)
        assert await store.sweep() == 0
        assert store.get(request.request_id).status == Status.IN_PROGRESS

    async def test_it_covers_retries(self, store, running, clock):
        request = await running(start_timeout=5)
        clock.advance(6)
        await store.requeue(request.request_id, request.lease, crashed=True, reason="gone")
        assert await store.sweep() == 1
        assert store.get(request.request_id).outcome == Outcome.TIMEOUT

    async def test_it_outlives_a_restart(self, open_store, new, clock):
        former = await open_store()
        request = await former.submit(new(start_timeout=5))
        await former.close()
        clock.advance(6)
        store = await open_store()
        assert await store.sweep() == 1
        assert store.get(request.request_id).outcome == Outcome.TIMEOUT


class TestRetention:
    async def test_a_completed_request_and_all_its_rows_go(self, store, finished, running, clock, table):
        kept = await running()
        request = await running(webhook_url="https://example.org/hook")
        await store.progress(request.request_id, request.lease, [LogLine("2026-11-22T12:00:00", "hello")])
        await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {}))
        clock.advance(7 * DAY - 1)
        await store.renew({kept.request_id: kept.lease}, lease_seconds=15)
        assert await store.sweep() == 0
        clock.advance(2)
        assert await store.sweep() == 1
        assert store.get(request.request_id) is None
        assert store.result(request.request_id) is None
        assert [table(name) for name in ("results", "logs", "webhook_deliveries")] == [[], [], []]
        assert [row["request_id"] for row in table("requests")] == [kept.request_id]

    async def test_a_waiting_request_is_never_too_old(self, store, new, clock):
        request = await store.submit(new())
        clock.advance(365 * DAY)
        assert await store.sweep() == 0
        assert store.get(request.request_id) == request

    async def test_the_setting_is_obeyed(self, open_store, new, clock):
        store = await open_store(retention_seconds=60)
        request = await store.submit(new())
        await store.cancel(request.request_id)
        clock.advance(61)
        assert await store.sweep() == 1
        assert store.get(request.request_id) is None

    async def test_a_files_row_goes_only_after_its_bytes(self, store, running, clock):
        request = await running()
        token = "b/00000000/abcdefghijklmnopqrstuv.png"
        record = FileRecord(token=token, media_type="image/png", size=10)
        await store.finish(
            request.request_id, request.lease, outcome=Outcome.OK, result=Result(200, {}), files=[record]
        )
        assert await store.forget_files([token]) == 0, "a file in service is not forgotten"
        clock.advance(7 * DAY + 1)
        assert store.file(token) is None, "not served from the very second on"
        assert store.expired_files() == []
        assert await store.sweep() == 2
        assert await store.sweep() == 0
        assert [file.token for file in store.expired_files()] == [token]
        assert await store.forget_files([token]) == 1
        assert store.expired_files() == []

    async def test_an_upload_lives_as_long_as_it_was_told(self, store, clock):
        await store.add_file(FileRecord(token="short", media_type="image/png", size=1, expires_at=clock.now + 10))
        await store.add_file(FileRecord(token="long", media_type="image/png", size=1, file_name="a\ud800.png"))
        clock.advance(11)
        assert await store.sweep() == 1
        assert store.file("short") is None
        assert store.file("long").file_name == "a?.png"

    async def test_more_than_one_sweep_full_is_worked_off(self, open_store, new, clock, monkeypatch):
        monkeypatch.setattr("impasto.store.moves.SWEEP_LIMIT", 4)
        store = await open_store()
        for _ in range(10):
            await store.cancel((await store.submit(new())).request_id)
        clock.advance(8 * DAY)
        assert [await store.sweep() for _ in range(4)] == [4, 4, 2, 0]

    async def test_expired_files_and_requests_get_an_even_share_of_every_sweep(
        self, open_store, new, clock, monkeypatch
    ):
        monkeypatch.setattr("impasto.store.moves.SWEEP_LIMIT", 20)
        monkeypatch.setattr("impasto.store.moves.SWEEP_STEP_SECONDS", 60.0)
        store = await open_store()
        for number in range(45):
            await store.add_file(
                FileRecord(token=f"f{number}", media_type="image/png", size=1, expires_at=clock.now + 10)
            )
        for _ in range(15):
            await store.cancel((await store.submit(new())).request_id)
        clock.advance(8 * DAY)
        left = []
        while await store.sweep():
            left.append((45 - len(store.expired_files(limit=100)), len(store.requests(limit=100))))
        assert left == [(35, 5), (20, 0), (0, 0)]

    async def test_others_write_between_the_steps_of_a_sweep(self, store, new, clock):
        late = [(await store.submit(new(start_timeout=1))).request_id for _ in range(3 * SWEEP_STEP + 1)]
        clock.advance(2)
        sweep = asyncio.create_task(store.sweep())
        await asyncio.sleep(0)  # its first step is on its way
        await store.submit(new())
        assert store.get(late[-1]).status is Status.IN_QUEUE, "a submit did not wait for all of them"
        moved = await sweep
        while step := await store.sweep():  # what a slow machine did not do within a sweep's second
            moved += step
        assert moved == len(late)

    async def test_a_sweep_reads_no_inputs(self, store, new, running, clock, monkeypatch):
        await running()
        await store.submit(new(start_timeout=1))
        monkeypatch.setattr("impasto.store.rows.json.loads", lambda text: pytest.fail(f"{text} was read"))
        clock.advance(3600)
        assert await store.sweep() == 2


class TestStoreNothing:
    """X-Fal-Store-IO: 0."""

    async def test_the_input_is_erased_when_it_ends(self, store, running, table):
        request = await running(store_io=False, input={"prompt": "canary-prompt"})
        assert request.input == {"prompt": "canary-prompt"}
        await store.finish(
            request.request_id,
            request.lease,
            outcome=Outcome.OK,
            result=Result(200, {"ok": True}),
            input_={"prompt": "canary-prompt"},
        )
        assert store.input(request.request_id) == {}
        assert "canary" not in str(table("requests"))
        assert store.result(request.request_id) == Result(200, {"ok": True})

    async def test_the_input_is_kept_for_another_attempt(self, store, running):
        request = await running(store_io=False)
        await store.requeue(request.request_id, request.lease, crashed=True, reason="gone")
        assert store.input(request.request_id) == request.input

    async def test_the_result_goes_after_ten_minutes(self, store, finished, clock):
        request = await finished(store_io=False)
        clock.advance(599)
        assert await store.sweep() == 0
        clock.advance(2)
        assert await store.sweep() == 1
        assert store.get(request.request_id) is None
        assert store.result(request.request_id) is None

    @pytest.mark.parametrize("ending", ["cancel", "timeout"])
    async def test_the_input_is_erased_with_every_ending(self, store, new, clock, ending):
        request = await store.submit(new(store_io=False, start_timeout=5))
        if ending == "cancel":
            await store.cancel(request.request_id)
        else:
            clock.advance(6)
            await store.sweep()
        assert store.input(request.request_id) == {}
