"""A disk without room: new work is refused at once, /readyz says why, and no sync run waits for a retry."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from impasto.api.run import RECHECK
from impasto.files.space import Space

RUN, QUEUE = "/fal-ai/flux-pro", "/queue/fal-ai/flux-pro"


def more_than_free(folder: Path) -> int:
    """MiB that no disk of this machine has: the reserve is not there, as on a full disk."""
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize // 2**20 + 1024


@pytest.fixture
async def full(build: Any, tmp_path: Path) -> Any:
    return await build(min_free_mb=more_than_free(tmp_path))


@pytest.mark.parametrize("path", [RUN, QUEUE, RUN + "/stream", "/openai/v1/images/generations"])
async def test_new_work_is_503_at_once_with_the_reason(full: Any, path: str) -> None:
    async with full.client() as client:
        answer = await client.post(path, json={"prompt": "a heron"})
    assert answer.status_code == 503
    assert "disk" in answer.text
    assert "server.min_free_mb" in answer.text
    assert full.store.queued() == 0


async def test_readyz_says_why_and_healthz_is_200(full: Any) -> None:
    async with full.client() as client:
        ready, health = await client.get("/readyz"), await client.get("/healthz")
    assert (ready.status_code, health.status_code) == (503, 200)
    assert "server.min_free_mb" in ready.json()["reason"]


async def test_an_upload_leaves_the_last_bytes_to_the_store(full: Any) -> None:
    async with full.client() as client:
        answer = await client.post("/files/upload", content=b"x" * 10, headers={"Content-Type": "text/plain"})
    assert answer.status_code == 507


class Filling(Space):
    """A disk that fills while somebody waits: a real folder, and what the test says is free."""

    left: int | None = 2**40

    @property
    def free(self) -> int | None:
        return self.left


@pytest.mark.parametrize("path", [RUN, RUN + "/stream"])
async def test_who_waits_while_the_disk_fills_is_not_kept_waiting(
    build: Any, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impasto.api.app.Space", Filling)
    monkeypatch.setattr(Filling, "left", 2**40)
    server = await build()
    async with server.client() as client:
        waiting = asyncio.create_task(client.post(path, json={"prompt": "a heron"}, timeout=60))
        while not server.store.queued():  # noqa: ASYNC110 - the store rings no bell for a test
            await asyncio.sleep(0.01)
        taken = await server.worker.take()
        monkeypatch.setattr(Filling, "left", 2**22)  # little, but enough for what is being drawn
        await asyncio.sleep(RECHECK + 0.1)
        assert not waiting.done()
        await server.store.requeue(taken.request_id, taken.lease or "", crashed=False, reason="no room")
        answer = await waiting
    assert "server.min_free_mb" in answer.text
    assert answer.status_code == 503 or '"runner_scheduling_failure"' in answer.text
    request = server.store.get(taken.request_id)
    assert request is not None
    assert request.error_type == "client_cancelled"


def test_room_is_looked_at_once_a_second_and_a_folder_to_come_has_none_to_tell(tmp_path: Path) -> None:
    now = [0.0]
    space = Space(tmp_path / "later", reserve=2**30, clock=lambda: now[0])
    assert (space.free, space.reason, space.exhausted) == (None, "", False)
    (tmp_path / "later").mkdir()
    assert space.free is None
    now[0] = 1.0
    assert (space.free or 0) > 0
    assert Space(tmp_path, reserve=0).reason == ""
