"""Puts the rooms together: socket → store → blobs → dispatcher → runner process → HTTP → webhooks. START READING HERE.

In: the settings tree. Out: a process that answers until SIGINT or SIGTERM, then drains: no new work is taken, running
pictures get `server.drain_seconds` to finish, the rest goes back to the queue without costing an attempt.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Generator
from pathlib import Path

import click
import uvicorn
from starlette.types import ASGIApp

from impasto import __version__, telemetry
from impasto.api.app import SECRET_FILE, create_app
from impasto.api.connection import protocols
from impasto.api.signing import load_secret
from impasto.api.warden import Warden
from impasto.endpoints.own import load_endpoints
from impasto.endpoints.table import Endpoints
from impasto.errors import ConfigError, StoreError
from impasto.files.blobs import BlobStore
from impasto.fleet.dispatcher import Dispatcher
from impasto.fleet.local import LocalFleet
from impasto.fleet.marks import MarkFiles
from impasto.settings import Settings
from impasto.store.sqlite import SqliteStore
from impasto.web import pages
from impasto.webhooks.delivery import Deliverer

log = logging.getLogger("impasto")

DATABASE, BLOBS = "impasto.sqlite3", "files"  # in the data folder
FILES = 512  # open files besides the clients' connections: database, blobs, runners, modules


def run(settings: Settings) -> int:
    """Serve until told to stop; → exit status. Raises `ConfigError` when the start is impossible."""
    telemetry.configure(settings.server.log_level)
    _allow_files(2 * settings.server.max_connections + FILES)
    endpoints = load_endpoints(settings.server.endpoints)
    listener = _listen(settings)
    with contextlib.closing(listener), _only_server(settings.data), asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(_serve(settings, endpoints, listener))


async def open_store(settings: Settings, *, make: bool = True) -> SqliteStore:
    """The store of the data folder, made on first use; `impasto keys` works on it beside a running server.

    `make`: whether it may be made; else raises `StoreError` when there is none.
    """
    if make:
        _make_folder(settings.data)
    return await SqliteStore.open(
        settings.data / DATABASE if make else data_of(settings),
        lease_seconds=settings.queue.lease_seconds,
        max_attempts=settings.queue.max_attempts,
        max_crashes=settings.queue.max_crashes,
        max_running=settings.queue.max_running,
        key_input_bytes=settings.queue.max_key_input_mb * 2**20,
        all_input_bytes=settings.queue.max_input_mb * 2**20,
        retention_seconds=settings.queue.retention_hours * 3600,
    )


def data_of(settings: Settings) -> Path:
    """The database file of a data folder that a server has used. Raises `StoreError`: there is none."""
    database = settings.data / DATABASE
    if not database.is_file():
        raise StoreError(
            f"no data in {settings.data.absolute()}: there is no {DATABASE}. Name the server's folder with --data, or "
            "start in the folder that the server was started in."
        )
    return database


async def _serve(settings: Settings, endpoints: Endpoints, listener: socket.socket) -> int:
    store = await open_store(settings)
    try:
        _require_key(settings, store)
        blamed = await asyncio.to_thread(MarkFiles(settings.data).collect)
        if requeued := await store.recover(blamed=blamed):
            log.info("%d requests of the former process go on", requeued)
        blobs = BlobStore(settings.data / BLOBS)
        blobs.delete_drafts(older_than=0)  # this folder is ours alone: what is half-written is a former process's
        secret = load_secret(settings.data / SECRET_FILE)
        async with Dispatcher(
            settings=settings, store=store, blobs=blobs, endpoints=endpoints, secret=secret
        ) as dispatcher:
            app = create_app(
                settings=settings,
                store=store,
                dispatcher=dispatcher,
                blobs=blobs,
                endpoints=endpoints,
                secret=secret,
                pages=pages.routes(),
                error_pages=pages.ErrorPages,
            )
            # Webhooks last: who receives one may ask for its result, and for the key that signed it.
            deliverer = Deliverer(settings=settings, store=store)
            async with LocalFleet(settings, dispatcher), _Http(app, settings, listener), deliverer:
                _print_welcome(settings, listener)
                await _until_told_to_stop(store)
                log.info("Stopping: running pictures get up to %.0f s", settings.server.drain_seconds)
                # HTTP still answers meanwhile: whoever polls or waits for a running picture gets it.
                await dispatcher.drain(settings.server.drain_seconds)
        return 0 if store.healthy else 1
    finally:
        await store.close()


async def _until_told_to_stop(store: SqliteStore) -> None:
    """Returns at SIGINT or SIGTERM, or when the database's disk fails: a restart beats answering wrongly."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    while not told.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(told.wait(), timeout=1.0)
        if not store.healthy:
            log.error(
                "The database cannot be written any more; the server ends. Look at the disk, then start it again."
            )
            return
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.remove_signal_handler(number)  # a second Ctrl-C ends at once


class _Http:
    """uvicorn on a socket of ours, from entry to exit; signals are not its business here."""

    def __init__(self, app: ASGIApp, settings: Settings, listener: socket.socket) -> None:
        http, ws = protocols(Warden(settings.server))
        config = uvicorn.Config(
            app,
            http=http,
            ws=ws,
            ws_max_size=settings.server.max_body_mb * 1024 * 1024,
            ws_per_message_deflate=False,  # pictures do not get smaller, they only cost time
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            # longer than clients pool connections: who closes first races with the next call
            timeout_keep_alive=settings.server.idle_seconds,  # pyright: ignore[reportArgumentType] - any seconds do
            timeout_graceful_shutdown=3,
        )
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        # `_serve` and not `serve`: the latter would take the signal handlers.
        self._task = asyncio.create_task(self._server._serve(sockets=[self._listener]))  # pyright: ignore[reportPrivateUsage]
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _allow_files(count: int) -> None:
    """Many systems let a process open 1024 files unless it asks for more; a connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host}:{port} ({reason}). Choose another with --host or --port.") from None
    listener.setblocking(False)
    return listener


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"data = {folder}: cannot be made ({error.strerror}). Choose another with --data.") from None


@contextlib.contextmanager
def _only_server(folder: Path) -> Generator[None]:
    """Holds the data folder: two servers on one folder would give each other's work away."""
    _make_folder(folder)
    try:
        lock = (folder / "server.lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"data = {folder}: cannot be written ({error.strerror}). Choose another with --data."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"{folder} is in use by another server. Stop it, or choose another with --data."
            ) from None
        yield


def _require_key(settings: Settings, store: SqliteStore) -> None:
    live = any(key.revoked_at is None for key in store.keys())  # noqa: SIM118 - a store is no mapping
    if settings.keys_required and not live:
        raise ConfigError(
            "API keys are required, since other machines reach this server, and there is none yet. "
            'Create one with `impasto keys create NAME` (and the same --data), or set auth.mode = "open".'
        )


def _print_welcome(settings: Settings, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    url = settings.model_copy(update={"server": settings.server.model_copy(update={"port": port})}).local_url
    key = "YOUR_KEY" if settings.keys_required else "local:local"
    explained = "one that `impasto keys create` printed" if settings.keys_required else f"{key} (any key passes here)"
    model = "test pictures (model.pipeline = fake)" if settings.model.pipeline == "fake" else settings.model.name
    click.echo(
        f"""impasto {__version__}: serving {url}
  model  {model}
  data   {settings.data.resolve()}
  open   {url}/     (the playground)
  key    {explained}
  try    curl {url}/fal-ai/flux-pro -H "Authorization: Key {key}" -d '{{"prompt": "a red apple"}}'
         {_program()} exec --url {url} -- python app.py     (a program written for fal, unchanged)"""
    )


def _program() -> str:
    """How to call impasto from the same folder in another terminal."""
    started = Path(sys.argv[0])
    if shutil.which("impasto") or started.name != "impasto":
        return "impasto"
    return os.path.relpath(started)
