"""`impasto backup`: what it made beside a running server is served, with the keys, results and pictures of before."""

import stat
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from impasto.backup import back_up
from impasto.files.blobs import BlobStore
from impasto.serve import open_store
from impasto.settings import Settings


def test_a_backup_made_beside_a_running_server_is_served_with_its_keys_and_pictures(
    start: Callable[..., Any], impasto: Callable[..., Any], tmp_path: Path
) -> None:
    data, copy = tmp_path / "data", tmp_path / "backup" / "monday"
    key = impasto("keys", "create", "ci", "--data", str(data)).stdout.strip()
    server = start(folder=data, IMPASTO_AUTH_MODE="keys")
    server.until_ready()
    status, queued = server.get("/queue/fal-ai/flux-pro", body={"prompt": "x", "image_size": "square"}, key=key)
    assert status == 200
    result = queued["response_url"].removeprefix(server.url)
    while server.get(f"{result}/status", key=key)[1]["status"] != "COMPLETED":
        time.sleep(0.02)
    picture = server.get(result, key=key)[1]["images"][0]["url"].removeprefix(server.url)

    made = impasto("backup", str(copy), "--data", str(data))
    assert (made.returncode, made.stderr) == (0, "")
    assert "1 files (1 as hard links)" in made.stdout
    secrets = (copy, copy / "impasto.sqlite3", copy / "impasto.sqlite3-pepper", copy / "upload.key")
    assert [oct(stat.S_IMODE(path.stat().st_mode) & 0o077) for path in secrets] == ["0o0"] * 4
    again = impasto("backup", str(copy), "--data", str(data))
    assert (again.returncode, "no empty folder" in again.stderr) == (2, True)
    server.stop()
    for path in (data / "files" / "b").glob("*/*"):
        path.unlink()
    webhook_keys = impasto("webhooks", "keys", "--data", str(data)).stdout

    restored = start(folder=copy, IMPASTO_AUTH_MODE="keys")
    restored.until_ready()
    assert restored.get(result, key=key)[0] == 200
    assert restored.get(result, key="wrong:key")[0] == 401
    with urllib.request.urlopen(restored.url + picture, timeout=10) as answer:
        assert answer.read()[:3] == b"\xff\xd8\xff"
    assert (copy / "upload.key").read_bytes() == (data / "upload.key").read_bytes()
    assert impasto("webhooks", "keys", "--data", str(copy)).stdout == webhook_keys != ""
    assert len(impasto("requests", "list", "--data", str(copy)).stdout.splitlines()) == 1


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


async def test_on_another_disk_files_are_copied(tmp_path: Path, other_disk: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    await (await open_store(settings)).close()
    token = BlobStore(settings.data / "files").put(b"bytes", media_type="image/png")
    assert "1 files (0 as hard links)" in back_up(settings, other_disk / "copy")
    assert (other_disk / "copy" / "files" / token).read_bytes() == b"bytes"


def test_a_folder_without_data_is_not_backed_up(impasto: Callable[..., Any], tmp_path: Path) -> None:
    ended = impasto("backup", str(tmp_path / "copy"), "--data", str(tmp_path / "nothing"))
    assert ended.returncode == 1
    assert f"no data in {tmp_path / 'nothing'}" in ended.stderr
    assert list(tmp_path.iterdir()) == []
