"""Who is blamed for a runner's end: the request that it worked on, for a while, and nobody else."""

import asyncio
import contextlib
import logging
import signal
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from impasto.endpoints.own import load_endpoints
from impasto.errors import StoreError
from impasto.fleet.crashes import Crashes
from impasto.fleet.marks import MarkFiles
from impasto.store.records import Held, NewRequest, Outcome, Result, Status
from impasto.store.sqlite import SqliteStore

from .conftest import BASE_URL, House, make_settings, open_house

HERE = Path(__file__).parent


@contextlib.asynccontextmanager
async def house_of_crashes(data: Path, *, step_seconds: float = 0.0, **queue: Any) -> AsyncIterator[House]:
    settings = make_settings(data, **queue)
    server = settings.server.model_copy(update={"endpoints": ("own_table:table",)})
    settings = settings.model_copy(update={"server": server})
    endpoints = load_endpoints(settings.server.endpoints)
    async with open_house(settings, step_seconds=step_seconds, endpoints=endpoints) as house:
        await house.until_ready()
        yield house


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)  # where own_table lies


async def submit(
    house: House, key_id: str, prompt: str, *, endpoint: str = "me/crashes", steps: int = 4, **more: Any
) -> str:
    request = await house.store.submit(
        NewRequest(
            request_id=str(uuid.uuid4()),
            endpoint=endpoint,
            input={"prompt": prompt, "num_inference_steps": steps},
            seed=7,
            base_url=BASE_URL,
            key_id=key_id,
            **more,
        )
    )
    return request.request_id


async def test_a_request_in_hand_at_three_ends_of_its_runner_is_drawn_when_it_caused_none(tmp_path: Path) -> None:
    async with house_of_crashes(tmp_path, step_seconds=0.05, slots=2, max_crashes=3) as house:
        innocent = await submit(house, "good", "a heron", endpoint="fal-ai/flux-pro", steps=40)
        for crash in range(3):
            await house.until_drawing(innocent, step=2)
            pid = house.dispatcher.runners[0].pid
            bad = await submit(house, f"bad-{crash}", f"poison {crash}")  # a key of its own: none is suspect yet
            await house.until(lambda bad=bad: house.request(bad).crash_count == 1)
            assert pid not in house.fleet.pids
            await house.store.cancel(bad)
        request, _ = await house.ended(innocent)
        assert (request.outcome, request.attempt, request.crash_count) == (Outcome.OK, 1, 0)


async def test_a_poison_request_ends_alone_with_a_503(tmp_path: Path) -> None:
    async with house_of_crashes(tmp_path, step_seconds=0.02, slots=2, max_crashes=3) as house:
        innocent = await submit(house, "good", "a heron", endpoint="fal-ai/flux-pro", steps=40)
        await house.until_drawing(innocent)
        poison = await submit(house, "bad", "poison")
        request, result = await house.ended(poison)
        assert (request.http_status, request.crash_count, request.attempt) == (503, 3, 3)
        assert result.payload["error_type"] == "runner_disconnected"
        request, _ = await house.ended(innocent)
        assert (request.outcome, request.crash_count) == (Outcome.OK, 0)


async def test_others_pay_no_pause_for_crashes_that_a_request_caused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "impasto.fleet")
    async with house_of_crashes(tmp_path, slots=1, max_crashes=1, max_crashes_per_hour=0) as house:
        for crash in range(4):
            assert (await house.ended(await submit(house, f"bad-{crash}", "poison")))[0].http_status == 503
        other = await submit(house, "good", "all is well")
        assert (await house.ended(other))[0].outcome is Outcome.OK
    pauses = [record.args[2] for record in caplog.records if "is started again in" in record.msg and record.args]  # type: ignore[index]
    assert pauses == [0.0] * 4


async def test_a_key_that_ends_too_many_runners_is_answered_with_the_reason(tmp_path: Path) -> None:
    """For the endpoint in question; its other work and everybody else's is drawn."""
    async with house_of_crashes(tmp_path, slots=1, max_crashes=1, max_crashes_per_hour=2) as house:
        for crash in range(2):
            await house.ended(await submit(house, "bad", f"poison {crash}"))
        await house.until_ready()
        pids = house.fleet.pids
        request, result = await house.ended(await submit(house, "bad", "poison 3"))
        assert (request.http_status, request.crash_count) == (503, 0)
        assert "ended their runner 2 times within an hour" in result.payload["detail"]
        assert "queue.max_crashes_per_hour" in result.payload["detail"]
        for key_id, endpoint in (("bad", "me/crashes-too"), ("good", "me/crashes")):
            request, _ = await house.ended(await submit(house, key_id, "all is well", endpoint=endpoint))
            assert request.outcome is Outcome.OK
        assert house.fleet.pids == pids


def test_what_is_drawn_well_alone_is_free_of_blame_and_an_hour_ends_the_rest() -> None:
    now = [0.0]
    crashes = Crashes(2, lambda: now[0])
    crashes.blame("k", "e", "a")
    now[0] = 1000.0
    crashes.blame("k", "e", "b")
    assert crashes.pause("k", "e") == 2600
    assert (crashes.pause("k", "another"), crashes.pause("other", "e")) == (0, 0)
    crashes.forgive("k", "e", "b")
    assert crashes.pause("k", "e") == 0
    crashes.blame("k", "e", "c")
    assert crashes.pause("k", "e") > 0
    now[0] = 3601.0
    assert crashes.pause("k", "e") == 0
    for _ in range(10):
        crashes.blame("", "e", "d")
    assert crashes.pause("", "e") == 0, "callers without a key have no limit"


def test_a_lane_that_ended_a_runner_rests_and_is_suspect_until_it_was_drawn_well_alone() -> None:
    now = [0.0]
    crashes = Crashes(0, lambda: now[0])
    crashes.blame("k", "e", "a")
    assert (crashes.suspects, crashes.resting) == ({("k", "e")}, {("k", "e")})
    now[0] = 2.0
    assert (crashes.suspects, crashes.resting) == ({("k", "e")}, frozenset())
    crashes.blame("k", "e", "a")
    now[0] = 5.9
    assert crashes.resting, "twice as long after the second crash"
    now[0] = 6.0
    assert not crashes.resting
    crashes.forgive("k", "e", "b")
    assert not crashes.suspects
    crashes.blame("k", "e", "a")
    now[0] = 66.0
    assert not crashes.suspects, "not for ever: others may never leave the runner idle"
    for _ in range(1_100):
        crashes.blame("k", "e", "a")
    now[0] = 66.0 + 30.0
    assert not crashes.resting, "30 s at most"


async def test_fresh_requests_of_a_key_that_ended_a_runner_take_no_neighbour_with_them(tmp_path: Path) -> None:
    """The second poison has never crashed; it waits until it can be alone, and what another key draws is not lost."""
    async with house_of_crashes(tmp_path, step_seconds=0.02, slots=2, max_crashes=1) as house:
        first = await submit(house, "bad", "poison 1")
        assert (await house.ended(first))[0].http_status == 503
        await house.until_ready()
        neighbour = await submit(house, "good", "a heron", endpoint="fal-ai/flux-pro", steps=50)
        await house.until_drawing(neighbour)
        pids = house.fleet.pids
        second = await submit(house, "bad", "poison 2")
        assert (await house.ended(neighbour))[0].outcome is Outcome.OK
        assert house.fleet.pids == pids
        assert (await house.ended(second))[0].http_status == 503


async def test_a_result_that_a_full_disk_does_not_take_is_kept_and_blames_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than a lease, which cannot be renewed either. Then there is room, and the same attempt's result."""
    async with open_house(make_settings(tmp_path, lease_seconds=1.0), step_seconds=0.02) as house:
        await house.until_ready()
        finish, renew, refused = house.store.finish, house.store.renew, 0
        full = True

        async def full_finish(*args: Any, **ending: Any) -> bool:
            nonlocal refused
            if full:
                refused += 1
                raise StoreError("database or disk is full")
            return await finish(*args, **ending)

        async def full_renew(*args: Any, **more: Any) -> Any:
            if full:
                raise StoreError("database or disk is full")
            return await renew(*args, **more)

        monkeypatch.setattr(house.store, "finish", full_finish)
        monkeypatch.setattr(house.store, "renew", full_renew)
        request_id = await house.submit(no_retry=True, num_inference_steps=2)
        await house.until(lambda: refused > 0)
        await asyncio.sleep(3.0)
        request = house.request(request_id)
        assert (request.status, request.attempt, request.crash_count) == (Status.IN_PROGRESS, 1, 0)
        full = False
        request, _ = await house.ended(request_id)
        assert (request.outcome, request.attempt, request.crash_count) == (Outcome.OK, 1, 0)
        await house.until(lambda: house.dispatcher.runners[0].busy == 0)


async def test_a_lease_that_runs_out_is_a_crash_only_for_what_was_at_work(tmp_path: Path) -> None:
    now = [1000.0]
    store = await SqliteStore.open(tmp_path / "s.sqlite3", clock=lambda: now[0], lease_seconds=10.0)
    for number in range(3):
        await store.submit(
            NewRequest(request_id=f"r{number}", endpoint="e", input={}, seed=1, base_url=BASE_URL, key_id="k")
        )
    claimed = {
        each.request_id: str(each.lease)
        for each in await store.claim(endpoints=["e"], runner_id="r", limit=3, lease_seconds=10.0)
    }
    now[0] += 11.0
    await store.sweep(held=Held(waiting={"r0": claimed["r0"]}, blamed=frozenset({claimed["r1"]})))
    found = [store.get(f"r{number}") for number in range(3)]
    assert [(each.status, each.crash_count) for each in found if each] == [
        (Status.IN_PROGRESS, 0),
        (Status.IN_QUEUE, 1),
        (Status.IN_QUEUE, 0),
    ]
    assert await store.finish("r0", claimed["r0"], outcome=Outcome.OK, result=Result(200, {}))
    await store.close()


@pytest.mark.parametrize("kills", [3])
async def test_a_server_that_is_killed_blames_what_was_at_work(tmp_path: Path, kills: int) -> None:
    for _ in range(kills):
        store = await SqliteStore.open(tmp_path / "s.sqlite3", max_crashes=3)
        if store.get("idle") is None:
            for name in ("idle", "at work"):
                await store.submit(
                    NewRequest(request_id=name, endpoint="e", input={}, seed=1, base_url=BASE_URL, key_id="k")
                )
        leases: dict[str, str] = {}
        for alone in (True, False):
            for each in await store.claim(endpoints=["e"], runner_id="r", limit=2, lease_seconds=10.0, idle=alone):
                leases[each.request_id] = str(each.lease)
        await store.recover(blamed=frozenset({leases.get("at work", "")}))
        await store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "s.sqlite3")) as connection:
        found = dict(connection.execute("SELECT request_id, crash_count FROM requests").fetchall())
    assert found["idle"] == 0
    assert found["at work"] > 0


async def test_marks_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    files = MarkFiles(tmp_path)
    path = files.make("runner-1.1-abc")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from impasto.fleet.marks import Marks\n"
        "mark = Marks(Path(sys.argv[1]))\n"
        "mark(0, 'a' * 32); mark(1, 'b' * 32); mark(2, 'c' * 32); mark(1, '')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
        str(path),
    )
    assert await child.wait() == -signal.SIGKILL
    assert files.read("runner-1.1-abc") == {"a" * 32, "c" * 32}
    assert files.read("another") is None
    assert files.read("../impasto.sqlite3") is None
    assert files.collect() == {"a" * 32, "c" * 32}
    assert files.collect() is None
