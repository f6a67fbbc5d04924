"""A real store, a deliverer over it, and receivers on loopback that do as they are told."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from impasto.settings import ServerSettings, Settings, WebhookSettings
from impasto.store.records import Delivery, DeliveryAttempt, DeliveryState, NewRequest, Outcome, Result
from impasto.store.sqlite import SqliteStore
from impasto.webhooks.delivery import Deliverer
from impasto.webhooks.verify import verify

PATIENCE = 60.0


@dataclass(frozen=True)
class Got:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def webhook(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """Answers each POST with the next of `script`: a status, "late" (200 at `release`), "hang", "reset", or bytes.

    When the script is over: 200.
    """

    script: list[Any] = field(default_factory=list)
    got: list[Got] = field(default_factory=list)
    url: str = ""
    open: int = 0
    most_open: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    on_arrival: Callable[[Got], None] = lambda got: None
    serving: set[Any] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.serving.discard(asyncio.current_task())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers["Content-Length"]))
        assert first.split()[0] == "POST"
        got = Got(first.split()[1], headers, body)
        answer = self.script.pop(0) if self.script else 200
        self.on_arrival(got)
        async with self.arrived:
            self.got.append(got)
            self.arrived.notify_all()
        if answer in {"hang", "late"}:
            await self.release.wait()
            if answer == "hang":
                return
            answer = 200
        if answer == "reset":
            writer.transport.abort()
            return
        if isinstance(answer, int):
            answer = f"HTTP/1.1 {answer} X\r\nContent-Length: 0\r\n\r\n".encode()
        writer.write(answer)
        await writer.drain()

    async def count(self, number: int) -> None:
        """Wait until so many webhooks came."""
        async with asyncio.timeout(PATIENCE), self.arrived:
            await self.arrived.wait_for(lambda: len(self.got) >= number)


@pytest.fixture
async def receive() -> AsyncIterator[Callable[..., Awaitable[Receiver]]]:
    made: list[tuple[Receiver, asyncio.Server]] = []

    async def start(*script: Any) -> Receiver:
        receiver = Receiver(list(script))
        server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        made.append((receiver, server))
        return receiver

    yield start
    for receiver, server in made:
        receiver.release.set()
        server.close()
        await asyncio.gather(*receiver.serving, return_exceptions=True)
        await server.wait_closed()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "impasto.sqlite3")
    yield opened
    await opened.close()


def settings(*, server: dict[str, Any] | None = None, **webhooks: Any) -> Settings:
    return Settings(server=ServerSettings(**(server or {})), webhooks=WebhookSettings(**webhooks))


@pytest.fixture
def deliverer(store: SqliteStore) -> Callable[..., Deliverer]:
    """A deliverer that tries again at once, unless told otherwise."""

    def make(**webhooks: Any) -> Deliverer:
        return Deliverer(settings=settings(**({"retry_after": (0,) * 10} | webhooks)), store=store)

    return make


@pytest.fixture
def finish(store: SqliteStore) -> Callable[..., Awaitable[str]]:
    """A request that is completed with `payload`; → its id."""

    async def end(
        url: str, payload: Any = None, *, status: int = 200, outcome: Outcome = Outcome.OK, **changes: Any
    ) -> str:
        request_id = str(uuid.uuid4())
        values = {"endpoint": "e", "input": {"prompt": "a heron"}, "seed": 1, "base_url": "http://127.0.0.1"}
        await store.submit(NewRequest(request_id=request_id, webhook_url=url, **(values | changes)))
        (request,) = await store.claim(endpoints=["e"], runner_id="r", limit=1)
        result = Result(status, {"images": [], "seed": 1} if payload is None else payload)
        assert await store.finish(request_id, request.lease or "", outcome=outcome, result=result)
        return request_id

    return end


@pytest.fixture
def settled(store: SqliteStore) -> Callable[..., Awaitable[tuple[Delivery, list[DeliveryAttempt]]]]:
    """Waits until a delivery has so many lines in its log, or is over; → (delivery, log)."""

    async def wait(request_id: str, attempts: int | None = None) -> tuple[Delivery, list[DeliveryAttempt]]:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = store.delivery(request_id)
                assert found is not None
                delivery, log = found
                over = delivery.state is not DeliveryState.DUE
                if over if attempts is None else len(log) >= attempts:
                    return delivery, log
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def genuine(store: SqliteStore) -> Callable[[Got], None]:
    """Fails unless a published key signed what was received."""

    def check(got: Got) -> None:
        verify(got.headers, got.body, [key.public for key in store.signing_keys()])

    return check
