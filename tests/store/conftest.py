"""One suite over the protocol: every test that takes `store` runs once per dialect."""

import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from impasto.store.base import Store
from impasto.store.records import NewRequest, Outcome, Request, Result
from impasto.store.sqlite import SqliteStore

OPEN = Callable[..., Awaitable[Store]]


class Clock:
    """Unix seconds that move when told; leases and back-off are read on it, too."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "impasto.sqlite3"


@pytest.fixture(params=["sqlite"])
async def open_store(request: pytest.FixtureRequest, database: Path, clock: Clock) -> AsyncIterator[OPEN]:
    """Opens the database of this test, again and again if wanted; all are closed at the end."""
    opened: list[Store] = []

    async def open_(**options: Any) -> Store:
        store = await SqliteStore.open(database, **({"clock": clock} | options))
        opened.append(store)
        return store

    yield open_
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OPEN) -> Store:
    return await open_store()


@pytest.fixture
def new() -> Callable[..., NewRequest]:
    """A request to submit, with whatever the test wants different."""

    def build(**changes: Any) -> NewRequest:
        values: dict[str, Any] = {
            "request_id": str(uuid.uuid4()),
            "endpoint": "fal-ai/flux-pro",
            "input": {"prompt": "a heron"},
            "seed": 7,
            "base_url": "http://127.0.0.1:8000",
        }
        return NewRequest(**(values | changes))

    return build


@pytest.fixture
def running(store: Store, new: Callable[..., NewRequest]) -> Callable[..., Awaitable[Request]]:
    """Submit one request and claim it."""

    async def run(**changes: Any) -> Request:
        submitted = await store.submit(new(**changes))
        (claimed,) = await store.claim(
            endpoints=[submitted.endpoint], runner_id="runner-1", limit=1, lease_seconds=15.0
        )
        assert claimed.request_id == submitted.request_id
        return claimed

    return run


@pytest.fixture
def finished(store: Store, running: Callable[..., Awaitable[Request]]) -> Callable[..., Awaitable[Request]]:
    """Submit, claim and finish one request; the record as it was claimed, lease included."""

    async def finish(**changes: Any) -> Request:
        claimed = await running(**changes)
        assert claimed.lease is not None
        assert await store.finish(
            claimed.request_id, claimed.lease, outcome=Outcome.OK, result=Result(200, {"images": []})
        )
        return claimed

    return finish


@pytest.fixture
def table(database: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The rows of a table, read by a stranger: what is really in the file."""

    def read(name: str) -> list[dict[str, Any]]:
        connection = sqlite3.connect(database)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(f"SELECT * FROM {name}")]
        finally:
            connection.close()

    return read
