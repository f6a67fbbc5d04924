"""A whole house but for HTTP: a real SQLite file, real blobs, a real socket, runners as real processes."""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from impasto.files.blobs import BlobStore
from impasto.fleet.dispatcher import Dispatcher
from impasto.fleet.local import LocalFleet
from impasto.settings import ModelSettings, QueueSettings, SafetySettings, ServerSettings, Settings
from impasto.store.records import NewRequest, Request, Result, Status
from impasto.store.sqlite import SqliteStore

PATIENCE = 60.0  # seconds until a test gives up; never a measure of speed
BASE_URL = "http://127.0.0.1:8000"


@dataclass
class House:
    settings: Settings
    store: SqliteStore
    blobs: BlobStore
    dispatcher: Dispatcher
    fleet: LocalFleet

    async def submit(self, prompt: str = "a red apple", *, endpoint: str = "fal-ai/flux-pro", **input_: Any) -> str:
        """Without safety and small, unless the input says otherwise; the seed is always 7."""
        no_retry = input_.pop("no_retry", False)
        key_id = input_.pop("key_id", "")
        request = await self.store.submit(
            NewRequest(
                request_id=str(uuid.uuid4()),
                endpoint=endpoint,
                input={"prompt": prompt, "image_size": {"width": 128, "height": 96}, **input_},
                seed=7,
                base_url=BASE_URL,
                no_retry=no_retry,
                key_id=key_id,
            )
        )
        return request.request_id

    async def until(self, truth: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not truth():  # noqa: ASYNC110 – what is waited for rings no bell in this process
                await asyncio.sleep(0.01)

    async def until_ready(self) -> None:
        await self.until(lambda: self.dispatcher.ready)

    async def until_drawing(self, request_id: str, *, step: int = 1) -> None:
        """It has made at least `step` steps."""

        def drawing() -> bool:
            progress = self.dispatcher.progress(request_id)
            return progress is not None and progress.step >= step

        await self.until(drawing)

    async def ended(self, request_id: str) -> tuple[Request, Result]:
        await self.until(lambda: self.request(request_id).status is Status.COMPLETED)
        result = self.store.result(request_id)
        assert result is not None
        return self.request(request_id), result

    def request(self, request_id: str) -> Request:
        request = self.store.get(request_id)
        assert request is not None
        return request

    def messages(self, request_id: str) -> list[str]:
        return [line.message for line in self.store.logs(request_id)]

    def file_bytes(self, result: Result) -> list[bytes]:
        """The pictures of an output, read back through their URLs' tokens."""
        found: list[bytes] = []
        for image in result.payload["images"]:
            token = image["url"].removeprefix(f"{BASE_URL}/files/")
            assert self.store.file(token) is not None, "the store knows every file that an output names"
            with self.blobs.open(token) as file:
                found.append(file.read())
        return found

    def sums(self, result: Result) -> list[str]:
        return [hashlib.sha256(data).hexdigest() for data in self.file_bytes(result)]

    def blobs_on_disk(self) -> int:
        return len([path for path in (self.settings.data / "files/b").glob("*/*") if path.is_file()])


def make_settings(data: Path, **queue: Any) -> Settings:
    return Settings(
        data=data,
        model=ModelSettings(pipeline="fake", threads=1),
        queue=QueueSettings(**{"lease_seconds": 10.0, "beat_seconds": 0.2, "slots": 2, **queue}),
        safety=SafetySettings(enabled=False),
        server=ServerSettings(drain_seconds=PATIENCE),
    )


@contextlib.asynccontextmanager
async def open_house(
    settings: Settings, *, runners: int = 1, step_seconds: float = 0.0, stall_seconds: float = 900.0, **dispatcher: Any
) -> AsyncIterator[House]:
    model = settings.model.model_copy(update={"fake_step_seconds": step_seconds})
    settings = settings.model_copy(update={"model": model})
    store = await SqliteStore.open(
        settings.data / "impasto.sqlite3",
        lease_seconds=settings.queue.lease_seconds,
        max_crashes=settings.queue.max_crashes,
    )
    blobs = BlobStore(settings.data / "files")
    try:
        async with (
            Dispatcher(settings=settings, store=store, blobs=blobs, **dispatcher) as dispatcher_,
            LocalFleet(settings, dispatcher_, runners=runners, stall_seconds=stall_seconds) as fleet,
        ):
            yield House(settings, store, blobs, dispatcher_, fleet)
    finally:
        await store.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """One fake runner, as fast as it can."""
    async with open_house(make_settings(tmp_path)) as house:
        await house.until_ready()
        yield house
