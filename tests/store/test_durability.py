"""Submitted means durable: what was acknowledged is there after kill -9; a disk that fails is said so, at once."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import impasto
from impasto.errors import StoreError
from impasto.store.records import NewRequest, Outcome, Result, Status
from impasto.store.sqlite import SqliteStore
from impasto.store.writer import MAX_BATCH, Transaction

SUBMITTER = """
import asyncio, sys, uuid
from impasto.store.records import NewRequest, Outcome, Result
from impasto.store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1])
    async def client(number):
        while True:
            request_id = str(uuid.uuid4())
            new = NewRequest(request_id=request_id, endpoint="e", input={"n": number}, seed=1, base_url="b")
            await store.submit(new)
            print("submitted", request_id, flush=True)
            if number % 2:
                for request in await store.claim(endpoints=["e"], runner_id=str(number), limit=1, lease_seconds=15):
                    result = Result(200, {"of": request.request_id})
                    if await store.finish(request.request_id, request.lease, outcome=Outcome.OK, result=result):
                        print("finished", request.request_id, flush=True)
    await asyncio.gather(*[client(number) for number in range(8)])

asyncio.run(main())
"""

FULL_DISK = """
import asyncio, os, resource, sys
from impasto.errors import StoreError
from impasto.store.records import NewRequest
from impasto.store.sqlite import SqliteStore

def new(request_id, size=10):
    return NewRequest(request_id=request_id, endpoint="e", input={"p": "x" * size}, seed=1, base_url="b")

async def main():
    store = await SqliteStore.open(sys.argv[1])
    await store.submit(new("before"))
    used = os.path.getsize(sys.argv[1] + "-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (used + 20_000, resource.RLIM_INFINITY))
    submits = store.submit(new("large", 200_000)), store.submit(new("beside"))
    outcomes = await asyncio.gather(*submits, return_exceptions=True)
    print([type(outcome).__name__ for outcome in outcomes], store.healthy)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        await store.submit(new("after"))
    except StoreError as error:
        print("refused", "broken" in str(error))
    print(store.get("before").status.value)
    await store.close()

asyncio.run(main())
"""


def python(program: str, database: Path) -> list[str]:
    return [sys.executable, "-c", program, str(database)]


@pytest.fixture
def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(impasto.__file__).parent.parent)}


def acknowledged_before_kill(count: int, database: Path, environment: dict[str, str]) -> list[list[str]]:
    """What a busy process said was done, up to the moment it was killed."""
    with subprocess.Popen(python(SUBMITTER, database), env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(count)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    return [line.split() for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("count", [1, 40, 150])
async def test_what_was_acknowledged_is_there_after_kill_9(database, environment, count):
    said = await asyncio.to_thread(acknowledged_before_kill, count, database, environment)
    assert len(said) >= count

    store = await SqliteStore.open(database)
    try:
        for what, request_id in said:
            request = store.get(request_id)
            assert request is not None, request_id
            if what == "finished":
                assert request.status == Status.COMPLETED
                assert store.result(request_id) == Result(200, {"of": request_id})
        await store.recover()
        submitted = [request_id for what, request_id in said if what == "submitted"]
        assert all(store.get(request_id).status != Status.IN_PROGRESS for request_id in submitted)
    finally:
        await store.close()
    connection = sqlite3.connect(database)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    completed, results = connection.execute(
        "SELECT (SELECT count(*) FROM requests WHERE status = 'COMPLETED'), (SELECT count(*) FROM results)"
    ).fetchone()
    connection.close()
    assert completed == results


def on_a_failing_disk(database: Path, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        python(FULL_DISK, database), env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def test_a_write_error_fails_the_batch_and_marks_the_store_broken(database, environment):
    """A real one: the kernel refuses to let the log grow."""
    said = on_a_failing_disk(database, environment)
    assert said == ["['StoreError', 'StoreError'] False", "refused True", "IN_QUEUE"]


async def test_after_a_write_error_the_acknowledged_is_there_and_the_refused_is_not(database, environment):
    await asyncio.to_thread(on_a_failing_disk, database, environment)
    store = await SqliteStore.open(database)
    assert store.get("before") is not None
    assert [store.get(name) for name in ("large", "beside", "after")] == [None, None, None]
    assert store.healthy
    await store.close()


async def test_what_waits_when_the_store_breaks_is_refused_too(store, new):
    """More than one batch: after a failed sync the next one may succeed, and says nothing about what is on the disk."""
    writer, gate = store._writer, threading.Event()

    def fail(_: Transaction) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    held = asyncio.create_task(writer.run(lambda tx: gate.wait(60)))
    await asyncio.sleep(0.1)  # the writer has it, and all that follows waits
    requests = [new() for _ in range(2 * MAX_BATCH)]
    waiting = [asyncio.create_task(each) for each in (writer.run(fail), *map(store.submit, requests))]
    while len(writer._waiting) <= 2 * MAX_BATCH:  # noqa: ASYNC110 - it rings no bell
        await asyncio.sleep(0.01)
    gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreError}
    assert "broken" in str(outcomes[-1])
    await held
    assert not store.healthy
    assert [request for request in requests if store.get(request.request_id)] == []


async def test_a_full_disk_refuses_and_recovers(store, new):
    """SQLite's own page limit stands in for the disk: the error code is the same."""
    await store.submit(new())

    def limit(pages: int) -> int:
        return store._writer._connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()[0]

    await store._writer.run(lambda tx: limit(1))
    with pytest.raises(StoreError, match="full"):
        await store.submit(new(input={"prompt": "x" * 100_000}))
    assert store.healthy
    await store._writer.run(lambda tx: limit(1_000_000))
    large = await store.submit(new(input={"prompt": "x" * 100_000}))
    assert store.get(large.request_id) == large


async def test_the_writing_connection_syncs_every_commit(store):
    connection = store._writer._connection

    def read(pragma: str) -> object:
        return connection.execute(f"PRAGMA {pragma}").fetchone()[0]

    values = await store._writer.run(
        lambda tx: [read(name) for name in ("journal_mode", "synchronous", "foreign_keys")]
    )
    assert values == ["wal", 2, 1], "2 is FULL"


async def test_commits_are_shared_under_load_and_not_when_alone(store, new):
    await asyncio.gather(*[store.submit(new()) for _ in range(500)])
    assert store.counters["operations"] == 500
    assert store.counters["commits"] <= 100
    before = store.counters["commits"]
    for _ in range(5):
        await store.submit(new())
    assert store.counters["commits"] == before + 5


async def test_one_operations_error_does_not_spoil_its_batch(store, new):
    twin = await store.submit(new())
    requests: list[NewRequest] = [new() for _ in range(40)]
    requests[10] = requests[20] = new(request_id=twin.request_id)
    outcomes = await asyncio.gather(*[store.submit(request) for request in requests], return_exceptions=True)
    assert [index for index, outcome in enumerate(outcomes) if isinstance(outcome, StoreError)] == [10, 20]
    assert store.queued() == 1 + 38
    assert store.counters["commits"] < 41, "they did share transactions"


async def test_the_outcome_is_recorded_although_the_awaiting_task_is_cancelled(store, new):
    request = await store.submit(new())
    (claimed,) = await store.claim(endpoints=[request.endpoint], runner_id="gpu", limit=1, lease_seconds=15)
    task = asyncio.ensure_future(
        store.finish(claimed.request_id, claimed.lease, outcome=Outcome.OK, result=Result(200, {}))
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.sweep()
    assert store.get(request.request_id).status == Status.COMPLETED


async def test_close_finishes_what_waits_and_then_refuses(open_store, new):
    store = await open_store()
    submits = [asyncio.ensure_future(store.submit(new())) for _ in range(200)]
    await asyncio.sleep(0)
    await store.close()
    requests = await asyncio.gather(*submits)
    with pytest.raises(StoreError, match="closed"):
        await store.submit(new())
    again = await open_store()
    assert all(again.get(request.request_id) is not None for request in requests)
    await store.close()


async def test_verbs_work_from_several_event_loops_and_reads_from_several_threads(store, new):
    def elsewhere() -> list[str]:
        async def submits() -> list[str]:
            return [(await store.submit(new())).request_id for _ in range(20)]

        ids = asyncio.run(submits())
        assert all(store.get(request_id) is not None for request_id in ids)
        return ids

    ids = await asyncio.gather(*[asyncio.to_thread(elsewhere) for _ in range(4)])
    assert store.queued() == len({request_id for each in ids for request_id in each}) == 80


async def test_a_write_lock_held_by_another_process_for_too_long_is_an_error_that_passes(
    open_store, new, database, monkeypatch
):
    monkeypatch.setattr("impasto.store.sqlite.BUSY_SECONDS", 0.05)
    store = await open_store()
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        await store.submit(new())
    other.execute("ROLLBACK")
    other.close()
    assert store.healthy
    await store.submit(new())


ERASER = """
import asyncio, sys
from impasto.store.records import NewRequest, Outcome, Result
from impasto.store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1])
    for number in range(3):
        prompt = {"prompt": "a secret heron"}
        request = NewRequest(request_id=f"r{number}", endpoint="e", input=prompt, seed=1, base_url="b")
        await store.submit(request)
        (claimed,) = await store.claim(endpoints=["e"], runner_id="r", limit=1)
        await store.finish(f"r{number}", claimed.lease, outcome=Outcome.OK, result=Result(200, prompt))
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(3):
        await store.erase_payloads(f"r{number}")
    print("erased", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def words_left(database: Path) -> list[str]:
    return [file.name for file in database.parent.iterdir() if b"secret heron" in file.read_bytes()]


@pytest.mark.parametrize("reader_in_the_way", [False, True])
async def test_what_was_answered_as_erased_is_in_no_file_after_kill_9_and_a_start(
    database, environment, reader_in_the_way
):
    database.parent.mkdir(parents=True)
    child = await asyncio.create_subprocess_exec(
        *python(ERASER, database), env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert await child.stdout.readline() == b"ready\n"
    assert words_left(database)
    reader = sqlite3.connect(database)
    if reader_in_the_way:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM requests").fetchone()
    child.stdin.write(b"go\n")
    assert await child.stdout.readline() == b"erased\n"
    child.kill()
    await child.wait()
    left = words_left(database)
    reader.close()
    assert reader_in_the_way or left == []
    store = await SqliteStore.open(database)
    try:
        await store.recover()
        assert words_left(database) == []
    finally:
        await store.close()
    assert words_left(database) == []
