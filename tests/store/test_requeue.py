"""T5, T6, T10: a lost runner costs an attempt and some patience, never the request; poison ends."""

import pytest

from impasto.store.records import Outcome, Result, Status

ENDPOINT = "fal-ai/flux-pro"


async def claim(store):
    return await store.claim(endpoints=[ENDPOINT], runner_id="runner-2", limit=1, lease_seconds=15)


async def test_a_crashed_attempt_goes_back_to_the_head_of_the_queue(store, running, new, clock):
    request = await running()
    later = await store.submit(new())
    moved = await store.requeue(request.request_id, request.lease, crashed=True, reason="the runner died")
    assert moved == store.get(request.request_id)
    assert (moved.status, moved.attempt, moved.crash_count) == (Status.IN_QUEUE, 1, 1)
    assert (moved.lease, moved.runner_id, moved.seed) == (None, None, request.seed)
    assert (await store.position(moved), await store.position(later)) == (0, 1)
    assert "the runner died" in store.logs(request.request_id)[0].message
    clock.advance(0.5)
    (again,) = await claim(store)
    assert (again.request_id, again.attempt) == (request.request_id, 2)


async def test_the_first_retry_after_a_crash_comes_within_half_a_second_but_not_at_once(store, running, clock):
    request = await running()
    await store.requeue(request.request_id, request.lease, crashed=True, reason="")
    clock.advance(0.39)
    assert await claim(store) == []
    clock.advance(0.11)
    assert len(await claim(store)) == 1


async def test_back_off_doubles_and_is_capped(open_store, new, clock):
    store = await open_store(max_crashes=100)
    request_id = (await store.submit(new(max_attempts=100))).request_id
    for attempt in range(1, 12):
        (claimed,) = await claim(store)
        await store.requeue(request_id, claimed.lease, crashed=False, reason="503")
        wanted = min(0.5 * 2 ** (attempt - 1), 30.0)
        clock.advance(wanted * 0.79)
        assert await claim(store) == [], attempt
        clock.advance(min(wanted * 1.2, 30.0) - wanted * 0.79 + 1e-3)
    assert len(await claim(store)) == 1


async def test_back_off_lets_the_next_request_pass(store, running, new):
    request = await running()
    other = await store.submit(new())
    await store.requeue(request.request_id, request.lease, crashed=True, reason="")
    assert [claimed.request_id for claimed in await claim(store)] == [other.request_id]


async def test_a_drain_costs_neither_an_attempt_nor_time(store, running):
    request = await running(max_attempts=1)
    moved = await store.requeue(request.request_id, request.lease, crashed=False, drain=True, reason="drain")
    assert (moved.status, moved.attempt, moved.crash_count) == (Status.IN_QUEUE, 0, 0)
    (again,) = await claim(store)
    assert again.attempt == 1


async def end_of(store, request_id):
    request, result = store.get(request_id), store.result(request_id)
    assert (request.status, request.outcome, request.http_status) == (Status.COMPLETED, Outcome.ERROR, 503)
    assert request.error_type == "runner_disconnected"
    assert request.error == result.payload["detail"]
    assert result.http_status == 503
    assert result.payload["error_type"] == "runner_disconnected"
    assert result.headers["X-Fal-Error-Type"] == "runner_disconnected"
    return True


async def test_after_the_last_attempt_it_ends_with_503(store, new, clock):
    request_id = (await store.submit(new(max_attempts=3))).request_id
    for _ in range(3):
        clock.advance(60)
        (claimed,) = await claim(store)
        moved = await store.requeue(request_id, claimed.lease, crashed=False, reason="503")
    assert moved == store.get(request_id)
    assert moved.attempt == 3
    assert await end_of(store, request_id)


async def test_the_last_attempt_may_bring_its_own_error(store, new, clock):
    request_id = (await store.submit(new(max_attempts=2))).request_id
    result = Result(507, {"detail": "no room"}, {"X-Fal-Retryable": "true"})
    for _ in range(2):
        clock.advance(60)
        (claimed,) = await claim(store)
        assert store.result(request_id) is None
        await store.requeue(
            request_id, claimed.lease, crashed=False, reason="x", result=result, error="no room", error_type="full"
        )
    request = store.get(request_id)
    assert (request.outcome, request.http_status, request.error, request.error_type) == (
        Outcome.ERROR, 507, "no room", "full",
    )  # fmt: skip
    assert store.result(request_id) == result


async def test_poison_ends_after_the_third_crash_though_attempts_are_left(store, new, clock):
    request_id = (await store.submit(new(max_attempts=10))).request_id
    for _ in range(3):
        clock.advance(60)
        (claimed,) = await claim(store)
        await store.requeue(request_id, claimed.lease, crashed=True, reason="killed its runner")
    assert store.get(request_id).crash_count == 3
    assert await end_of(store, request_id)


async def test_no_retry_means_one_attempt(store, running):
    request = await running(no_retry=True)
    await store.requeue(request.request_id, request.lease, crashed=True, reason="gone")
    assert await end_of(store, request.request_id)


async def test_a_lease_that_runs_out_counts_as_a_crash(store, running, clock):
    request = await running()
    clock.advance(14.9)
    assert await store.sweep() == 0
    clock.advance(0.2)
    assert await store.sweep() == 1
    moved = store.get(request.request_id)
    assert (moved.status, moved.attempt, moved.crash_count) == (Status.IN_QUEUE, 1, 1)


async def test_leases_that_run_out_end_in_503_as_well(store, new, clock):
    request_id = (await store.submit(new())).request_id
    for _ in range(3):
        clock.advance(60)
        assert len(await claim(store)) == 1
        clock.advance(16)
        assert await store.sweep() == 1
    assert await end_of(store, request_id)


@pytest.mark.parametrize("how", ["requeue", "sweep"])
async def test_a_late_finish_after_a_503_is_told_that_it_was_dropped(store, running, clock, how):
    """The stored answer is not that runner's: it must learn so, and delete its files."""
    request = await running(no_retry=True)
    if how == "requeue":
        await store.requeue(request.request_id, request.lease, crashed=True, reason="gone")
    else:
        clock.advance(16)
        await store.sweep()
    result = Result(200, {"images": []})
    assert not await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=result)
    assert await end_of(store, request.request_id)


@pytest.mark.parametrize("how", ["requeue", "sweep", "recover"])
async def test_a_cancelled_request_whose_runner_is_lost_ends_cancelled_and_is_not_run_again(store, running, clock, how):
    request = await running()
    await store.cancel(request.request_id)
    if how == "requeue":
        await store.requeue(request.request_id, request.lease, crashed=True, reason="gone")
    elif how == "sweep":
        clock.advance(16)
        assert await store.sweep() == 1
    else:
        assert await store.recover() == 1
    done = store.get(request.request_id)
    assert (done.status, done.outcome, done.http_status) == (Status.COMPLETED, Outcome.CANCELLED, 499)
    assert store.result(request.request_id).payload["error_type"] == "client_cancelled"


class TestRestart:
    async def test_recover_requeues_what_was_running_without_counting_the_attempt(self, open_store, new):
        former = await open_store()
        ids = [(await former.submit(new())).request_id for _ in range(3)]
        claimed = await former.claim(endpoints=[ENDPOINT], runner_id="runner-1", limit=2, lease_seconds=15)
        await former.close()
        store = await open_store()
        assert await store.recover() == 2
        assert await store.recover() == 0
        # Any of the first two may have taken the server with it: each is drawn alone.
        again = [request for _ in ids for request in await claim(store)]
        assert [request.request_id for request in again] == ids
        assert [(request.attempt, request.crash_count) for request in again] == [(1, 1), (1, 1), (1, 0)]
        assert await store.renew({claimed[0].request_id: claimed[0].lease}, lease_seconds=15) == ([ids[0]], [])

    async def test_a_request_that_takes_the_whole_server_with_it_ends(self, open_store, new):
        former = await open_store()
        request_id = (await former.submit(new())).request_id
        for life in (1, 2, 3):
            (claimed,) = await claim(former)
            assert (claimed.attempt, claimed.crash_count) == (1, life - 1)
            await former.close()
            former = await open_store()
            assert await former.recover() == 1
        assert await end_of(former, request_id)

    async def test_recover_does_not_run_a_no_retry_request_twice(self, open_store, new):
        former = await open_store()
        request_id = (await former.submit(new(no_retry=True))).request_id
        await former.claim(endpoints=[ENDPOINT], runner_id="runner-1", limit=1, lease_seconds=15)
        await former.close()
        store = await open_store()
        assert await store.recover() == 1
        assert await end_of(store, request_id)

    async def test_a_lease_of_a_former_process_gets_one_full_term_on_the_new_clock(self, open_store, new):
        """The monotonic clock of another boot says nothing here: neither "over" nor "good for years"."""
        for former_clock, ours in ((1e9, 5.0), (5.0, 1e9)):
            former = await open_store(monotonic=lambda now=former_clock: now)
            request_id = (await former.submit(new())).request_id
            await former.claim(endpoints=[ENDPOINT], runner_id="runner-1", limit=1, lease_seconds=15)
            await former.close()
            now = [ours]
            store = await open_store(monotonic=lambda now=now: now[0])
            assert await store.sweep() == 0
            now[0] += 14
            assert await store.sweep() == 0
            assert store.get(request_id).status == Status.IN_PROGRESS
            now[0] += 2
            assert await store.sweep() == 1
            assert store.get(request_id).status == Status.IN_QUEUE
            await store.cancel(request_id)

    async def test_a_back_off_of_a_former_process_is_over(self, open_store, new):
        former = await open_store(monotonic=lambda: 1e9)
        request_id = (await former.submit(new())).request_id
        (claimed,) = await claim(former)
        await former.requeue(request_id, claimed.lease, crashed=True, reason="")
        await former.close()
        store = await open_store(monotonic=lambda: 5.0)
        await store.recover()
        assert [request.request_id for request in await claim(store)] == [request_id]

    async def test_a_clock_that_is_set_forward_ends_no_lease(self, open_store, new, clock):
        store = await open_store(monotonic=lambda: 100.0)
        await store.submit(new())
        (claimed,) = await claim(store)
        clock.advance(3600)
        assert await store.sweep() == 0
        assert await store.renew({claimed.request_id: claimed.lease}, lease_seconds=15) == ([], [])

    @pytest.mark.parametrize("step", [-3600.0, 3600.0])
    async def test_a_clock_that_is_set_neither_ends_nor_extends_a_start_deadline(self, open_store, new, clock, step):
        passed = [100.0]
        store = await open_store(monotonic=lambda: passed[0])
        request = await store.submit(new(start_timeout=60))
        clock.advance(step)
        assert await store.sweep() == 0
        assert store.get(request.request_id).status == Status.IN_QUEUE
        passed[0] += 61
        assert await store.sweep() == 1
        assert store.get(request.request_id).outcome == Outcome.TIMEOUT

    @pytest.mark.parametrize("step", [-3600.0, 3600.0])
    async def test_a_request_in_its_start_deadline_is_claimed_after_the_clock_was_set(
        self, open_store, new, clock, step
    ):
        store = await open_store(monotonic=lambda: 100.0)
        request = await store.submit(new(start_timeout=60))
        clock.advance(step)
        assert [each.request_id for each in await claim(store)] == [request.request_id]

    async def test_across_a_restart_a_start_deadline_goes_by_the_machines_clock(self, open_store, new, clock):
        former = await open_store(monotonic=lambda: 1e9)
        await former.submit(new(start_timeout=60))
        await former.close()
        clock.advance(61)
        store = await open_store(monotonic=lambda: 5.0)
        assert await store.sweep() == 1
