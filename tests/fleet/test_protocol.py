"""The dispatcher's half of the conversation, against a runner whose every sentence the test says itself."""

import asyncio
import contextlib
import errno
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from impasto.endpoints.table import Endpoints
from impasto.engine.job import JobResult, Picture
from impasto.errors import StoreError
from impasto.fleet import messages as m
from impasto.fleet import work as w
from impasto.store.records import NewRequest, Outcome, Status

from .conftest import BASE_URL, PATIENCE, House, make_settings, open_house


class Scripted:
    """A runner that only says what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, message: m.Up) -> None:
        self._writer.write(m.encode(message))

    async def hear(self, kind: type[m.Down]) -> m.Down:
        async with asyncio.timeout(PATIENCE):
            while True:
                frame = await m.read_frame(self._reader)
                assert frame is not None, f"hung up before it said {kind.__name__}"
                message = m.decode_down(frame)
                if isinstance(message, kind):
                    return message

    async def assigned(self) -> m.Assign:
        message = await self.hear(m.Assign)
        assert isinstance(message, m.Assign)
        return message

    def done(self, assign: m.Assign, *, lease: str | None = None, data: bytes = b"\x89PNG") -> None:
        picture = Picture(data=data, media_type="image/png", width=128, height=96, nsfw=False, nsfw_score=0.0)
        result = JobResult(request_id=assign.job.request_id, pictures=(picture,), seed=7, timings={"inference": 1.0})
        self.say(m.Done(request_id=assign.job.request_id, lease=lease or assign.lease, result=result))

    def leave(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def scripted_runner(house: House, runner_id: str = "scripted", *, slots: int = 1) -> AsyncIterator[Scripted]:
    reader, writer = await asyncio.open_unix_connection(str(house.dispatcher.socket_path))
    runner = Scripted(reader, writer)
    runner.say(m.Hello(runner_id=runner_id, pid=1, token=house.dispatcher.token))
    await runner.hear(m.Welcome)
    runner.say(m.Ready(models=["impasto-mini"], slots=slots, device="cpu", dtype="x", load_seconds=0.0))
    await house.until(lambda: runner_id in {facts.runner_id for facts in house.dispatcher.runners})
    try:
        yield runner
    finally:
        writer.close()
        await house.until(lambda: runner_id not in {facts.runner_id for facts in house.dispatcher.runners})


@pytest.fixture
async def empty_house(tmp_path: Path) -> AsyncIterator[House]:
    """Nobody draws unless the test brings a runner. Beats are never due: nothing happens by itself."""
    async with open_house(make_settings(tmp_path, beat_seconds=3600.0, lease_seconds=3600.0), runners=0) as house:
        yield house


def failed(assign: m.Assign, *, status: int, retryable: bool, detail: str = "no luck") -> m.Failed:
    return m.Failed(
        request_id=assign.job.request_id, lease=assign.lease, status=status, error_type="runner_scheduling_failure",
        body={"detail": detail, "error_type": "runner_scheduling_failure"}, headers={"X-Fal-Retryable": "true"},
        retryable=retryable,
    )  # fmt: skip


async def test_without_a_runner_work_waits_and_the_house_says_why(empty_house: House) -> None:
    request_id = await empty_house.submit()
    assert not empty_house.dispatcher.ready
    assert empty_house.dispatcher.reason == "The runner is being started."
    assert empty_house.request(request_id).status is Status.IN_QUEUE


async def test_a_retryable_failure_is_tried_again(empty_house: House) -> None:
    request_id = await empty_house.submit()
    async with scripted_runner(empty_house) as runner:
        first = await runner.assigned()
        assert first.attempt == 1
        runner.say(failed(first, status=503, retryable=True))
        second = await runner.assigned()
        assert (second.attempt, second.job) == (2, first.job)
        assert second.lease != first.lease
        runner.done(second)
        request, _ = await empty_house.ended(request_id)
        assert (request.outcome, request.crash_count) == (Outcome.OK, 0)


async def test_a_retryable_failure_of_the_last_attempt_is_the_result(empty_house: House) -> None:
    request_id = await empty_house.submit(no_retry=True)
    async with scripted_runner(empty_house) as runner:
        runner.say(failed(await runner.assigned(), status=503, retryable=True, detail="Ask for a smaller image_size."))
        request, result = await empty_house.ended(request_id)
        assert (request.outcome, request.http_status, request.error_type, request.error) == (
            Outcome.ERROR, 503, "runner_scheduling_failure", "Ask for a smaller image_size.",
        )  # fmt: skip
        assert result.payload["detail"] == "Ask for a smaller image_size."
        assert empty_house.messages(request_id) == [
            "Attempt 1 ended: Ask for a smaller image_size. It was the last one."
        ]


async def test_a_disk_that_refuses_the_pictures_of_the_last_attempt_is_named(
    empty_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(empty_house.blobs, "put", full)
    request_id = await empty_house.submit(no_retry=True)
    async with scripted_runner(empty_house) as runner:
        runner.done(await runner.assigned())
        _, result = await empty_house.ended(request_id)
        assert result.http_status == 503
        assert result.payload["detail"] == (
            "On the server the pictures could not be written (No space left on device): tell its operator."
        )


@pytest.mark.parametrize("retryable", [True, False])
async def test_an_error_that_json_cannot_say_is_one_of_the_endpoint(empty_house: House, retryable: bool) -> None:
    request_id = await empty_house.submit()
    async with scripted_runner(empty_house) as runner:
        assign = await runner.assigned()
        odd = failed(assign, status=503, retryable=retryable)
        runner.say(msgspec.structs.replace(odd, body={"detail": "odd", "limit": float("nan")}))
        request, result = await empty_house.ended(request_id)
        assert (result.http_status, request.attempt) == (500, 1)


async def test_pictures_stay_when_nobody_knows_whether_their_result_was_written(
    empty_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit fails after it has reached the log. The second try finds the request ended, and deletes its own images
    only.
    """
    finish = empty_house.store.finish
    calls = 0

    async def broken(*args: Any, **ending: Any) -> bool:
        nonlocal calls
        calls += 1
        held = await finish(*args, **ending)
        if calls == 1:
            raise StoreError("disk I/O error")
        return held

    monkeypatch.setattr(empty_house.store, "finish", broken)
    request_id = await empty_house.submit()
    async with scripted_runner(empty_house) as runner:
        runner.done(await runner.assigned())
        _, result = await empty_house.ended(request_id)
        await empty_house.until(lambda: not empty_house.dispatcher.runners[0].busy)
        assert calls == 2
        assert empty_house.file_bytes(result) == [b"\x89PNG"]


async def test_a_final_failure_is_the_result(empty_house: House) -> None:
    request_id = await empty_house.submit()
    async with scripted_runner(empty_house) as runner:
        runner.say(failed(await runner.assigned(), status=500, retryable=False))
        request, result = await empty_house.ended(request_id)
        assert (request.outcome, request.http_status, request.error) == (Outcome.ERROR, 500, "no luck")
        assert result.payload["detail"] == "no luck"
        assert result.headers == {"X-Fal-Retryable": "true"}


async def test_a_second_done_and_a_stale_one_change_nothing(empty_house: House) -> None:
    request_id = await empty_house.submit()
    async with scripted_runner(empty_house) as runner:
        assign = await runner.assigned()
        runner.done(assign, lease="an-old-lease", data=b"stale")
        runner.done(assign)
        runner.done(assign)
        _, result = await empty_house.ended(request_id)
        other = await empty_house.submit()
        runner.done(await runner.assigned())
        await empty_house.ended(other)
        assert empty_house.store.result(request_id) == result
        assert empty_house.file_bytes(result) == [b"\x89PNG"]
        assert empty_house.blobs_on_disk() == 2


async def test_what_a_runner_said_before_it_left_still_counts(empty_house: House) -> None:
    request_id = await empty_house.submit()
    async with scripted_runner(empty_house) as runner:
        assign = await runner.assigned()
        runner.say(
            m.Log(request_id=request_id, lease=assign.lease, timestamp="2026-01-01T00:00:00", message="last words")
        )
        runner.done(assign)
        runner.leave()
    request, _ = await empty_house.ended(request_id)
    assert (request.outcome, request.attempt) == (Outcome.OK, 1)
    assert empty_house.messages(request_id) == ["last words"]


async def test_pictures_whose_write_takes_longer_than_a_lease_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(make_settings(tmp_path, lease_seconds=2.0, beat_seconds=0.2), runners=0) as house:
        put = house.blobs.put

        def slow(data: bytes, **options: str) -> str:
            time.sleep(5.0)
            return put(data, **options)

        monkeypatch.setattr(house.blobs, "put", slow)
        request_id = await house.submit()
        async with scripted_runner(house) as runner:
            runner.done(await runner.assigned())
            request, result = await house.ended(request_id)
            assert (request.outcome, request.attempt, request.crash_count) == (Outcome.OK, 1, 0)
            assert house.file_bytes(result) == [b"\x89PNG"]


async def test_a_late_write_leaves_the_newer_work_of_its_request_alone(
    empty_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is lost while the pictures are written; the same runner gets the request again meanwhile."""
    put, go_on = empty_house.blobs.put, threading.Event()

    def slow(data: bytes, **options: str) -> str:
        if data == b"first":
            go_on.wait(PATIENCE)
        return put(data, **options)

    monkeypatch.setattr(empty_house.blobs, "put", slow)
    request_id = await empty_house.submit()
    async with scripted_runner(empty_house) as runner:
        first = await runner.assigned()
        runner.done(first, data=b"first")
        await empty_house.store.requeue(request_id, first.lease, crashed=False, drain=True, reason="the test took it")
        runner.say(m.Beat(leases={request_id: first.lease}))
        second = await runner.assigned()
        go_on.set()
        runner.done(second)
        _, result = await empty_house.ended(request_id)
        assert empty_house.file_bytes(result) == [b"\x89PNG"]


async def test_a_beat_with_a_lost_lease_is_answered_lost_and_frees_the_slot(empty_house: House) -> None:
    request_id = await empty_house.submit()
    async with scripted_runner(empty_house) as runner:
        first = await runner.assigned()
        await empty_house.store.requeue(request_id, first.lease, crashed=False, drain=True, reason="the test took it")
        runner.say(m.Beat(leases={request_id: first.lease}))
        lost = await runner.hear(m.Lost)
        assert lost == m.Lost(request_id=request_id, lease=first.lease)
        second = await runner.assigned()
        assert second.lease != first.lease
        runner.done(first, data=b"stale")
        runner.done(second)
        request, result = await empty_house.ended(request_id)
        assert request.outcome is Outcome.OK
        assert empty_house.file_bytes(result) == [b"\x89PNG"]
        assert empty_house.blobs_on_disk() == 1


async def test_a_beat_tells_a_cancel_too(empty_house: House) -> None:
    request_id = await empty_house.submit()
    async with scripted_runner(empty_house) as runner:
        assign = await runner.assigned()
        await empty_house.store.cancel(request_id)
        assert await runner.hear(m.Cancel) == m.Cancel(request_id=request_id, lease=assign.lease)
        runner.say(m.Beat(leases={request_id: assign.lease}))
        runner.say(m.Released(request_id=request_id, lease=assign.lease))
        request, _ = await empty_house.ended(request_id)
        assert request.outcome is Outcome.CANCELLED, "a cancelled request that comes back is not drawn again"


async def test_a_runner_that_left_between_claim_and_assign_costs_nothing(empty_house: House) -> None:
    """Two runners leave and come while work waits; every request is drawn in its first attempt or given back."""
    ids = [await empty_house.submit(str(number)) for number in range(4)]
    for life in range(4):
        async with scripted_runner(empty_house, f"life-{life}", slots=1) as runner:
            runner.done(await runner.assigned())
            await empty_house.until(
                lambda life=life: sum(empty_house.request(i).outcome is Outcome.OK for i in ids) >= life + 1
            )
    assert {empty_house.request(request_id).outcome for request_id in ids} == {Outcome.OK}


async def test_low_priority_reaches_the_engines_scheduler(empty_house: House) -> None:
    request = await empty_house.store.submit(
        NewRequest(
            request_id="low", endpoint="fal-ai/flux-pro", input={"prompt": "x"}, seed=1, base_url=BASE_URL, priority=1
        )
    )
    (claimed,) = await empty_house.store.claim(endpoints=[request.endpoint], runner_id="r", limit=1, lease_seconds=9)
    assert w.prepare(claimed, endpoints=Endpoints(), model="impasto-mini").job.priority == 1


async def test_a_drain_is_told_and_stops_the_claims(empty_house: House) -> None:
    async with scripted_runner(empty_house) as runner:
        draining = asyncio.create_task(empty_house.dispatcher.drain(5.0))
        assert await runner.hear(m.Drain) == m.Drain(seconds=5.0)
        request_id = await empty_house.submit()
        runner.leave()
        await draining
        assert empty_house.request(request_id).status is Status.IN_QUEUE
