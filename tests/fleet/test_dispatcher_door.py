"""Who may dial the runners' socket, and what a runner that misbehaves can do: nothing to the others."""

import asyncio
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from impasto.files.blobs import BlobStore
from impasto.files.parts import Parts
from impasto.fleet import messages as m
from impasto.fleet.dispatcher import Dispatcher
from impasto.fleet.sweeper import collect, tidy
from impasto.store.records import FileRecord, Outcome
from impasto.store.sqlite import SqliteStore

from .conftest import PATIENCE, House, make_settings


async def says(house: House, *messages: m.Up | bytes) -> list[m.Down]:
    """What the gateway answers to somebody who says this, until it hangs up or is silent for a while."""
    reader, writer = await asyncio.open_unix_connection(str(house.dispatcher.socket_path))
    for message in messages:
        writer.write(message if isinstance(message, bytes) else m.encode(message))
    answers: list[m.Down] = []
    try:
        async with asyncio.timeout(1.0):
            while (frame := await m.read_frame(reader)) is not None:
                answers.append(m.decode_down(frame))
    except TimeoutError:
        pass
    writer.close()
    return answers


async def test_the_socket_is_its_owners_only(house: House) -> None:
    assert stat.S_IMODE(house.dispatcher.socket_path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "strange",
    [
        m.Hello(runner_id="x", pid=1, token="wrong"),
        m.Hello(runner_id="x", pid=1, protocol=99),
        m.Beat(leases={}),
        b"\x00\x00\x00\x05hello",
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ],
    ids=["wrong token", "another protocol", "no hello", "garbage", "http", "silence"],
)
async def test_strangers_are_shown_the_door_and_nobody_notices(house: House, strange: m.Up | bytes) -> None:
    assert await says(house, strange) == []
    assert [runner.runner_id.startswith("runner-1.") for runner in house.dispatcher.runners] == [True]
    request_id = await house.submit()
    assert (await house.ended(request_id))[0].outcome is Outcome.OK


async def test_a_runner_that_talks_nonsense_loses_its_work_to_another(house: House) -> None:
    hello = m.Hello(runner_id="odd", pid=1, token=house.dispatcher.token)
    ready = m.Ready(models=["impasto-mini"], slots=1, device="cpu", dtype="x", load_seconds=0)
    reader, writer = await asyncio.open_unix_connection(str(house.dispatcher.socket_path))
    writer.write(m.encode(hello) + m.encode(ready))
    ids = [await house.submit(str(number)) for number in range(6)]
    async with asyncio.timeout(PATIENCE):
        while not isinstance(assign := m.decode_down(await m.read_frame(reader) or b""), m.Assign):
            pass
    stranger = m.Done(
        request_id=ids[0], lease="not-its-lease", result=m.JobResult(request_id=ids[0], pictures=(), seed=0)
    )
    writer.write(m.encode(stranger))
    writer.write(b"\x00\x00\x00\x03abc")
    for request_id in ids:
        assert (await house.ended(request_id))[0].outcome is Outcome.OK
    assert house.request(assign.job.request_id).attempt == 2
    writer.close()


async def test_a_deep_data_folder_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    settings = make_settings(deep)
    store = await SqliteStore.open(deep / "impasto.sqlite3")
    async with Dispatcher(settings=settings, store=store, blobs=BlobStore(deep / "files")) as dispatcher:
        assert len(str(dispatcher.socket_path)) < 100
        assert dispatcher.socket_path.is_socket()
        path = dispatcher.socket_path
    assert not path.parent.exists(), "and takes it away again"
    await store.close()


async def test_what_is_served_no_more_is_deleted(tmp_path: Path) -> None:
    now = [1_000_000.0]
    store = await SqliteStore.open(tmp_path / "s.sqlite3", clock=lambda: now[0])
    blobs = BlobStore(tmp_path / "files", clock=lambda: now[0] + 10 * 365 * 86400 * 10)
    kept, expiring, orphan = (blobs.put(b"x", media_type="image/png") for _ in range(3))
    await store.add_file(FileRecord(token=kept, media_type="image/png", size=1))
    await store.add_file(FileRecord(token=expiring, media_type="image/png", size=1, expires_at=now[0] + 60))
    now[0] += 61
    await store.sweep()
    assert await collect(store, blobs) == 1
    assert not blobs.path(expiring).exists()
    assert await collect(store, blobs) == 0
    assert await tidy(store, blobs, Parts(tmp_path / "uploads")) == 1
    assert not blobs.path(orphan).exists(), "its process died between blob and row"
    assert blobs.path(kept).exists()
    await store.close()


def test_the_gateways_side_stays_light() -> None:
    """No torch, no transformers, no onnxruntime, no numpy: a server starts at once and stays small."""
    code = """
import sys
import impasto.fleet.dispatcher, impasto.fleet.local, impasto.fleet.messages, impasto.store.sqlite, impasto.telemetry
heavy = {"torch", "transformers", "onnxruntime", "numpy", "PIL", "safetensors", "tokenizers"} & set(sys.modules)
sys.exit(f"imported: {sorted(heavy)}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
