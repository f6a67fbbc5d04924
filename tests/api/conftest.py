"""A whole server in one process: real SQLite file, real blobs, a worker that plays the fleet on the store's verbs."""

import asyncio
import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette

from impasto.api.app import create_app
from impasto.endpoints.base import Endpoint
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.engine.job import JobResult, Picture
from impasto.engine.senses import Lack, Senses, everything, lack
from impasto.errors import WireError
from impasto.files.blobs import BlobStore
from impasto.fleet.link import RunnerFacts
from impasto.fleet.messages import Preview, Progress
from impasto.fleet.reading import NOWHERE
from impasto.settings import AuthSettings, PlatformSettings, QueueSettings, ServerSettings, Settings
from impasto.store.records import FileRecord, LogLine, Outcome, Request, Result
from impasto.store.sqlite import SqliteStore

ENDPOINTS = Endpoints()
APP = "fal-ai/flux-pro"
MEDIA = {"jpeg": "image/jpeg", "png": "image/png"}


def picture(format_: str, width: int, height: int) -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 40, 40)).save(buffer, format_)
    return Picture(
        data=buffer.getvalue(), media_type=MEDIA[format_], width=width, height=height, nsfw=False, nsfw_score=0.01
    )


def runner() -> RunnerFacts:
    return RunnerFacts(
        runner_id="w1",
        pid=0,
        models=("fake",),
        device="cpu",
        dtype="uint8",
        load_seconds=0.0,
        residency="weights in int8",
        slots=1,
        busy=0,
    )


@dataclass(kw_only=True)
class Worker:
    """The fleet's part, step by step: `take` a request, `log` about it, `draw` or `fail` it. Tells if it is ready."""

    store: SqliteStore
    blobs: BlobStore
    ready: bool = True
    reason: str = ""
    taken: list[str] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    steps: dict[str, Progress] = field(default_factory=dict)
    seen: dict[str, list[Preview]] = field(default_factory=dict)
    runners: list[RunnerFacts] = field(default_factory=lambda: [runner()])
    senses: Senses = field(default_factory=lambda: everything("fake"))

    @property
    def serving(self) -> object:
        return self.ready, self.senses, tuple(each.residency for each in self.runners)

    def served_by(self, endpoint: Endpoint) -> str | None:
        return "fake" if self.ready and self.lack(endpoint) is None else None

    def lack(self, endpoint: Endpoint) -> Lack | None:
        return lack(self.senses, endpoint.roles) if self.ready else None

    def want_previews(self, request_id: str, *, key_id: str = "") -> None:
        self.watched.append(request_id)

    def progress(self, request_id: str) -> Progress | None:
        return self.steps.get(request_id)

    def previews(self, request_id: str) -> list[Preview]:
        return self.seen.get(request_id, [])

    async def take(self) -> Request:
        await self._read()
        requests = await self.store.claim(endpoints=list(ENDPOINTS), runner_id="w1", limit=1, lease_seconds=60)
        assert requests, "nothing is waiting"
        self.taken.append(requests[0].request_id)
        return requests[0]

    async def _read(self) -> None:
        """Count what waiting requests name as read: no file is fetched here."""
        while (lane := self.store.reading_after(NOWHERE)) is not None:
            for request_id, _ in self.store.reading(lane, limit=100):
                await self.store.files_are_read(request_id)

    async def log(self, request: Request, *messages: str) -> None:
        lines = [LogLine("2024-12-20T15:37:17.120314", message) for message in messages]
        assert await self.store.progress(request.request_id, request.lease or "", lines)

    async def draw(self, request: Request) -> None:
        """What the dispatcher does with a taken request: validate, draw, keep the files, finish."""
        endpoint = ENDPOINTS[request.endpoint]
        try:
            input_ = validate(endpoint, request.input)
        except WireError as error:
            await self.fail(request, error)
            return
        job = endpoint.to_job(input_, request_id=request.request_id, seed=request.seed, model="fake")
        pictures = tuple(picture(job.format, job.width, job.height) for _ in range(job.num_images))
        tokens = [self.blobs.put(p.data, media_type=p.media_type) for p in pictures]
        files = [
            FileRecord(token=token, media_type=p.media_type, size=len(p.data), request_id=request.request_id)
            for token, p in zip(tokens, pictures, strict=True)
        ]
        result = JobResult(request_id=request.request_id, pictures=pictures, seed=job.seed, timings={"inference": 0.25})
        output = endpoint.to_output(input_, result, [f"{request.base_url}/files/{token}" for token in tokens])
        assert await self.store.finish(
            request.request_id,
            request.lease or "",
            outcome=Outcome.OK,
            result=Result(200, output),
            files=files,
            inference_time=0.25,
        )

    async def fail(self, request: Request, error: WireError) -> None:
        assert await self.store.finish(
            request.request_id,
            request.lease or "",
            outcome=Outcome.CANCELLED if error.error_type == "client_cancelled" else Outcome.ERROR,
            result=Result(error.status, error.body(), error.headers()),
            error=f"Invalid status code: {error.status}",
            error_type=error.error_type,
        )

    async def run(self) -> None:
        """Draw whatever comes, until cancelled."""
        while True:
            await self._read()
            waiting = await self.store.claim(endpoints=list(ENDPOINTS), runner_id="w1", limit=8, lease_seconds=60)
            for request in waiting:
                self.taken.append(request.request_id)
                await self.draw(request)
            if not waiting:
                await self.store.work_available(timeout=5)


@dataclass(kw_only=True)
class Server:
    settings: Settings
    store: SqliteStore
    blobs: BlobStore
    worker: Worker
    app: Starlette

    def client(self, *, key: str | None = None, base: str = "http://127.0.0.1:8000") -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url=base,
            headers={} if key is None else {"Authorization": f"Key {key}"},
        )


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Make a server: `await build(auth="keys", max_body_mb=1)`."""
    made: list[SqliteStore] = []

    async def make(
        *,
        auth: str = "open",
        origins: tuple[str, ...] = (),
        queue: dict[str, Any] | None = None,
        platform: PlatformSettings | None = None,
        **server: Any,
    ) -> Server:
        folder = tmp_path / str(len(made))
        settings = Settings(
            data=folder,
            auth=AuthSettings(mode=auth, origins=origins),
            queue=QueueSettings(**(queue or {})),
            server=ServerSettings(**server),
            platform=platform or PlatformSettings(),
        )
        store = await SqliteStore.open(folder / "impasto.sqlite3", max_running=settings.queue.max_running)
        made.append(store)
        blobs = BlobStore(folder / "files")
        worker = Worker(store=store, blobs=blobs)
        app = create_app(settings=settings, store=store, blobs=blobs, dispatcher=worker)
        return Server(settings=settings, store=store, blobs=blobs, worker=worker, app=app)

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def server(build: Callable[..., Any]) -> Server:
    """An open server, as on a loopback address."""
    return await build()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody without a key."""
    async with server.client() as client:
        yield client


@pytest.fixture
async def working(server: Server) -> AsyncIterator[Worker]:
    """The server's worker, drawing in the background."""
    task = asyncio.create_task(server.worker.run())
    yield server.worker
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def keyed(build: Callable[..., Any]) -> tuple[Server, str, str]:
    """A server that wants keys, and two of them."""
    server: Server = await build(auth="keys")
    _, alice = await server.store.create_key(alias="alice", scopes=["API"])
    _, bob = await server.store.create_key(alias="bob", scopes=["API"])
    return server, alice, bob


@contextmanager
def listening(app: Starlette, **options: Any) -> Iterator[str]:
    """The app behind a real uvicorn on a loopback port, in a thread of its own; → its base URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", **{"ws": "none"} | options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def listen() -> Callable[..., Any]:
    return listening
