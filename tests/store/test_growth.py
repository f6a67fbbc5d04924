"""What one call costs does not grow with the queues of others: counted in statements and rows, not in seconds."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from impasto.errors import StoreError
from impasto.store import fairness
from impasto.store.fairness import FairOrder, Lines, Turns
from impasto.store.migrate import migrate
from impasto.store.positions import EXACT, Positions, Snapshot
from impasto.store.queries import load
from impasto.store.records import Status
from impasto.store.sqlite import SqliteStore
from impasto.store.writer import Transaction

QUERIES = load("queries.sql")


class Queue:
    """A real table of waiting requests, filled without the store, and one claim after another over it."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        migrate(self.connection, QUERIES)
        self.lines = Lines(Turns())
        self.statements = 0
        self.connection.execute("PRAGMA synchronous = OFF")
        self.connection.set_trace_callback(self._count)

    def _count(self, _: str) -> None:
        self.statements += 1

    def fill(self, *, keys: int, endpoints: int, each: int = 1) -> None:
        self.connection.execute("BEGIN")
        self.connection.executemany(
            "INSERT INTO requests (request_id, endpoint, key_id, priority, seed, base_url, no_retry, store_io, "
            "max_attempts, boot, created_at, input) VALUES (?, ?, ?, 0, '7', '', 0, 1, 10, 'b', 0, '{}')",
            [
                (f"{key}-{endpoint}-{n}", f"e{endpoint}", f"k{key}")
                for n in range(each)
                for key in range(keys)
                for endpoint in range(endpoints)
            ],
        )
        self.connection.execute("COMMIT")

    def claim(self, *, endpoints: int, limit: int = 4) -> list[str]:
        """Return the keys of the claimed requests."""
        tx = Transaction(self.connection, QUERIES)
        names = [f"e{n}" for n in range(endpoints)]
        order = FairOrder(tx, self.lines, endpoints=names, now=1.0, monotonic=1.0, most=0, busy=None)
        found: list[str] = []
        for _ in range(limit):
            seq = order.next()
            if seq is not None:
                row = tx.rows(
                    "request_claim", seq=seq, lease=f"l{seq}", lease_until=9, boot="b", runner_id="r", now=1, alone=True
                )[0]
                order.took(seq)
                found.append(row["key_id"])
        order.close()
        return found


@pytest.mark.parametrize(("keys", "endpoints"), [(10, 1), (3_000, 1), (300, 47)])
def test_a_claim_reads_as_much_however_many_keys_and_endpoints_wait(tmp_path, keys, endpoints):
    queue = Queue(tmp_path / "db")
    queue.fill(keys=keys, endpoints=endpoints)
    served = queue.claim(endpoints=endpoints)  # reads the lines once
    queue.statements = 0
    served += queue.claim(endpoints=endpoints)
    assert queue.statements <= 1 + 3 * 4, "one look for changes; for each request at most a head, a claim, a correction"
    assert len(served) == len(set(served)) == 8, "eight keys, one turn each"


def test_every_key_has_its_turn_before_one_has_two(tmp_path):
    queue = Queue(tmp_path / "db")
    queue.fill(keys=200, endpoints=5, each=2)
    served = [key for _ in range(100) for key in queue.claim(endpoints=5)]
    assert len(set(served[:200])) == 200
    assert len(set(served[200:])) == 200


async def test_a_claim_that_was_rolled_back_leaves_its_requests_claimable(database, new):
    store = await SqliteStore.open(database)
    for _ in range(3):
        await store.submit(new())

    def fails(tx: Transaction) -> None:
        store._moves.claim(tx, endpoints=["fal-ai/flux-pro"], runner_id="r", limit=3, lease_seconds=15, idle=True)
        raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        await store._writer.run(fails)
    assert len(await store.claim(endpoints=["fal-ai/flux-pro"], runner_id="r", limit=9)) == 3
    await store.close()


async def test_what_another_process_submits_and_cancels_is_seen(database, new):
    ours, theirs = await SqliteStore.open(database), await SqliteStore.open(database)
    wanted = {"endpoints": ["fal-ai/flux-pro"], "runner_id": "r", "limit": 9}
    assert await ours.claim(**wanted) == []
    gone = await theirs.submit(new(key_id="a"))
    kept = await theirs.submit(new(key_id="b"))
    await theirs.cancel(gone.request_id)
    assert [request.request_id for request in await ours.claim(**wanted)] == [kept.request_id]
    await ours.close()
    await theirs.close()


def rows_of(keys: int, each: int) -> list[tuple[str, int, int]]:
    return [(f"k{seq % keys}", 0, seq) for seq in range(keys * each)]


def test_places_of_a_snapshot_are_the_order_of_the_turns():
    turns = Turns()
    turns.take("k1", 1)
    turns.charge(1, 250)
    turns.take("k0", 2)
    snapshot = Snapshot.of(rows_of(3, 4), turns, version=1, began=0)
    order = sorted(
        (turns.of(key) + index * turns.cost(key), seq, key)
        for key in ("k0", "k1", "k2")
        for index, seq in enumerate(seq for other, _, seq in rows_of(3, 4) if other == key)
    )
    assert [snapshot.ahead(key, 0, seq, turns) for _, seq, key in order] == list(range(12))


async def test_polls_of_a_long_queue_read_it_in_a_thread_and_once():
    reads: list[int | None] = []
    versions = iter(range(10**6))  # the queue changes all the time
    rows = rows_of(500, 4)

    def read(limit: int | None) -> list[tuple[str, int, int]]:
        reads.append(limit)
        return rows[:limit]

    positions = Positions(read, lambda: next(versions), Turns())
    polled = await asyncio.gather(*(positions.ahead(*row) for row in rows))
    assert sorted(polled) == list(range(2_000))
    assert reads == [EXACT + 1, None], "one bounded look in the event loop, one whole read beside it"
    positions.close()


class TestWork:
    """Turns count work: who asks for more of it is served less often."""

    def run(self, costs: dict[str, int], requests: int) -> list[str]:
        turns, served = Turns(), []
        for key in costs:
            turns.arrive(key)
        for seq in range(requests):
            key = min(costs, key=lambda key: (turns.of(key), key))
            turns.take(key, seq)
            turns.charge(seq, costs[key])
            served.append(key)
        return served

    def test_a_key_whose_requests_are_ten_times_as_large_is_served_a_tenth_as_often(self):
        served = self.run({"large": 1_000, "small": 100}, 110)
        assert served.count("large") == pytest.approx(10, abs=1)

    def test_a_request_that_was_not_drawn_costs_its_key_nothing(self):
        turns = Turns()
        turns.take("a", 1)
        turns.charge(1, 5_000)
        assert turns.of("a") == 5_000
        turns.settle(1, 0.25)
        assert turns.of("a") == 1_250
        turns.settle(1, 0.0)
        assert turns.of("a") == 1_250, "once"

    def test_a_pause_saves_nothing_up(self):
        turns = Turns()
        for seq in range(50):
            turns.take("busy", seq)
        turns.arrive("back")
        turns.arrive("busy")
        assert turns.of("busy") - turns.of("back") <= 2 * fairness.ORDINARY

    def test_what_is_kept_of_keys_is_bounded(self):
        turns = Turns()
        for seq in range(5 * fairness.MAX_KEYS):
            turns.take(f"k{seq}", seq)
            turns.charge(seq, 100)
            turns.settle(seq, 1.0)
            turns.now += 1_000
        assert len(turns._tags) <= 2 * fairness.MAX_KEYS + 1
        assert len(turns._charges) == 0


async def test_a_refund_brings_a_key_forward_at_once(store, new):
    for key in ("a", "b"):
        for _ in range(3):
            await store.submit(new(key_id=key))
    (large,) = await store.claim(endpoints=["fal-ai/flux-pro"], runner_id="r", limit=1, lease_seconds=15)
    store.charge(large, 64.0)
    for _ in range(2):
        (request,) = await store.claim(endpoints=["fal-ai/flux-pro"], runner_id="r", limit=1, lease_seconds=15)
        assert request.key_id == "b"
    await store.cancel(large.request_id)
    store.settle(large, 0.0)
    (request,) = await store.claim(endpoints=["fal-ai/flux-pro"], runner_id="r", limit=1, lease_seconds=15)
    assert request.key_id == "a"


async def test_a_guest_is_of_a_key_that_has_nothing_in_hand_and_comes_alone(store, new):
    for key in ("a", "a", "b", "b", "c"):
        await store.submit(new(key_id=key))
    guests = await store.claim(
        endpoints=["fal-ai/flux-pro"], runner_id="r", limit=9, lease_seconds=15, idle=False, busy={"a"}
    )
    assert [request.key_id for request in guests] == ["b", "c"]
    rest = await store.claim(endpoints=["fal-ai/flux-pro"], runner_id="r", limit=9, lease_seconds=15)
    assert [request.key_id for request in rest] == ["a", "a", "b"]


async def test_lists_by_status_read_what_they_show_and_not_the_history(database, new):
    store = await SqliteStore.open(database)
    running, waiting = await store.submit(new(key_id="a")), await store.submit(new(key_id="a"))
    (claimed,) = await store.claim(endpoints=["fal-ai/flux-pro"], runner_id="r", limit=1)
    connection = sqlite3.connect(database)
    with connection:
        connection.executemany(
            "INSERT INTO requests (request_id, endpoint, key_id, priority, status, outcome, http_status, finished_at, "
            "seed, base_url, no_retry, store_io, max_attempts, boot, created_at, input) "
            "VALUES (?, 'e', 'a', 0, 'COMPLETED', 'OK', ?, 1, '7', '', 0, 1, 1, 'b', 0, '{}')",
            [(f"d{n}", 500 if n in (3, 7) else 200) for n in range(20_000)],
        )
    connection.close()
    assert claimed.request_id == running.request_id
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    store._lister._connection.set_progress_handler(count, 100)  # at each 100 instructions of SQLite
    for key_id in (None, "a"):
        found = [
            store.requests(key_id=key_id, status=Status.IN_PROGRESS, limit=100),
            store.requests(key_id=key_id, status=Status.IN_QUEUE, limit=100),
            store.requests(key_id=key_id, status=Status.COMPLETED, http_status=(500, 599), limit=100),
        ]
        assert [[request.request_id for request in each] for each in found] == [
            [running.request_id],
            [waiting.request_id],
            ["d7", "d3"],
        ]
    assert store.queue_counts() == {"fal-ai/flux-pro": 1}
    assert steps < 100, "20,000 rows of history take some 400,000 instructions each time"
    await store.close()
