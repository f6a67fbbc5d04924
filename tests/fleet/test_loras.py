"""A LoRA that a request names: four ways in, one copy on the disk, and fal's own 422 for whatever is wrong with it."""

import asyncio
import contextlib
import json
import os
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from impasto.endpoints.base import WantedLora
from impasto.engine.job import LoraInput
from impasto.errors import ModelError
from impasto.fleet import loras
from impasto.fleet.loras import LoraFiles
from impasto.settings import FetchSettings, LoraSettings, Settings


def safetensors(size: int = 100, fill: bytes = b"x") -> bytes:
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + fill * size


def content(lora: LoraInput) -> bytes:
    return Path(lora.path).read_bytes()


def is_there(lora: LoraInput) -> bool:
    return Path(lora.path).exists()


class Site:
    """A small server of files; counts what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []
        self.gate, self.reached = asyncio.Event(), asyncio.Event()
        self.gate.set()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.asked.append(path)
        self.reached.set()
        await self.gate.wait()
        body = self.files.get(path)
        status = "404 Not Found" if body is None else "200 OK"
        if path in self.redirects:
            status = f"302 Found\r\nLocation: {self.redirects[path]}"
        with contextlib.suppress(ConnectionError):
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body or b'')}\r\n\r\n".encode() + (body or b""))
            await writer.drain()
        writer.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    it = Site()
    server = await asyncio.start_server(it.answer, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield it
    server.close()


class Room:
    def __init__(self, data: Path, **lora: Any) -> None:
        settings = Settings(
            data=data, fetch=FetchSettings(allow=("127.0.0.0/8",)), lora=LoraSettings(**{"max_mb": 1, **lora})
        )
        self.own = data / "uploaded.bin"
        self.files = LoraFiles(settings=settings, own=self.find)
        self.kept = data / "loras"

    def find(self, url: str, base_url: str, *, field: str, reader: str) -> Path | None:
        assert (base_url, field, reader) == ("http://me", "loras", "k")
        return self.own if "/files/" in url else None

    async def bring(self, path: str, scale: float = 1.0) -> LoraInput:
        (one,) = await self.files.bring((WantedLora(path=path, scale=scale),), base_url="http://me", reader="k")
        return one

    async def refused(self, path: str) -> tuple[str, str]:
        with pytest.raises(ModelError) as caught:
            await self.bring(path)
        (item,) = caught.value.items
        assert caught.value.status == 422
        assert item["loc"] == ["body", "loras", "0", "path"]
        return item["type"], item["msg"]


async def test_a_url_is_fetched_once_and_kept_by_its_digest(site: Site, tmp_path: Path) -> None:
    room, data = Room(tmp_path), safetensors()
    site.files["/a.safetensors"] = data
    url = f"{site.url}/a.safetensors"
    one, other = await room.bring(url, 0.5), await room.bring(url, 2.0)
    assert content(one) == data
    assert (one.path, one.digest, one.name) == (other.path, other.digest, url)
    assert (one.scale, other.scale) == (0.5, 2.0)
    assert one.digest in one.path
    assert site.asked == ["/a.safetensors"]
    assert [path.name for path in room.kept.iterdir()] == [f"{one.digest}.safetensors"]


async def test_requests_at_once_share_a_download_and_one_that_leaves_does_not_end_it(
    site: Site, tmp_path: Path
) -> None:
    room = Room(tmp_path)
    site.files["/a.safetensors"] = safetensors()
    site.gate.clear()
    first, second = (asyncio.create_task(room.bring(f"{site.url}/a.safetensors")) for _ in range(2))
    await site.reached.wait()
    first.cancel()
    site.gate.set()
    assert (await second).digest
    assert len(site.asked) == 1


async def test_a_stale_one_is_fetched_again(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path, fresh_hours=0)
    site.files["/a.safetensors"] = safetensors()
    before = await room.bring(f"{site.url}/a.safetensors")
    site.files["/a.safetensors"] = safetensors(fill=b"y")
    assert (await room.bring(f"{site.url}/a.safetensors")).digest != before.digest


async def test_a_header_that_would_take_minutes_to_read_is_refused(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path, max_mb=20)
    site.files["/a.safetensors"] = (9 * loras.MIB).to_bytes(8, "little") + b"{" + b" " * (9 * loras.MIB)
    type_, message = await room.refused(f"{site.url}/a.safetensors")
    assert type_ == "value_error"
    assert "its header is larger than 8 MiB" in message


async def test_drafts_of_a_server_that_was_killed_are_swept(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.kept.mkdir()
    for name, age in (("old.part", 2 * loras.FORGOTTEN), ("young.part", 0)):
        (room.kept / name).write_bytes(b"x")
        os.utime(room.kept / name, (time.time() - age,) * 2)
    site.files["/a.safetensors"] = safetensors()
    await room.bring(f"{site.url}/a.safetensors")
    assert [path.name for path in room.kept.glob("*.part")] == ["young.part"]


async def test_few_are_downloaded_at_a_time(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path)
    site.gate.clear()
    names = [f"/{i}.safetensors" for i in range(loras.AT_A_TIME + 2)]
    site.files = {name: safetensors(fill=name[1:2].encode()) for name in names}
    coming = [asyncio.create_task(room.bring(site.url + name)) for name in names]
    await site.reached.wait()
    await asyncio.sleep(0.5)
    assert len(site.asked) == loras.AT_A_TIME
    site.gate.set()
    assert len({one.digest for one in await asyncio.gather(*coming)}) == len(names)


async def test_the_least_recently_used_are_deleted_first(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path, cache_mb=1)
    brought: list[LoraInput] = []
    for name in "abc":
        site.files[f"/{name}"] = safetensors(400_000, name.encode())
    for age, name in ((300, "a"), (200, "b")):
        brought.append(await room.bring(f"{site.url}/{name}"))
        os.utime(brought[-1].path, (age, age))
    await room.bring(f"{site.url}/a")  # used: now "b" is the oldest
    brought.append(await room.bring(f"{site.url}/c"))
    assert [is_there(each) for each in brought] == [True, False, True]


async def test_a_request_does_not_lose_its_own_nor_what_another_one_has_just_got(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path, cache_mb=1)
    site.files = {f"/{name}": safetensors(500_000, name.encode()) for name in "abcd"}
    named = [WantedLora(path=f"{site.url}/{name}", scale=1.0) for name in "ab"]
    first, second = named
    a = await room.bring(first.path)
    os.utime(a.path, (100, 100))
    both = asyncio.create_task(room.files.bring((first, second), base_url="http://me", reader="k"))
    site.gate.clear()
    site.reached.clear()
    await site.reached.wait()  # it has the first and waits for the second
    os.utime(a.path, (100, 100))  # for long
    other = asyncio.create_task(room.bring(f"{site.url}/c"))
    await asyncio.sleep(0.1)
    site.gate.set()
    assert [is_there(each) for each in (*await both, await other)] == [True, True, True]
    for path in room.kept.iterdir():
        os.utime(path, (100, 100))
    await room.bring(f"{site.url}/d")
    assert len(list(room.kept.iterdir())) == 2  # nobody needs the others any more


async def test_loras_of_a_request_that_are_more_than_is_kept_are_refused_at_once(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path, cache_mb=1)
    site.files = {f"/{name}": safetensors(700_000, name.encode()) for name in "ab"}
    wanted = [WantedLora(path=f"{site.url}/{name}", scale=1.0) for name in "aab"]
    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            await room.files.bring(wanted, base_url="http://me", reader="k")
        (item,) = caught.value.items
        assert (item["type"], item["loc"]) == ("file_too_large", ["body", "loras", "2", "path"])
        assert item["ctx"] == {"max_size": loras.MIB}
    assert site.asked == ["/a", "/b"]  # they stay for a while
    assert room.files._held == {}


async def test_the_hub_is_asked_by_owner_and_name(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path, hub=site.url)
    site.files["/someone/style/resolve/main/deep/b.safetensors"] = safetensors()
    assert (await room.bring("someone/style/deep/b.safetensors")).digest
    for repo, files in {"one": ["README.md", "x.safetensors"], "usual": ["a.safetensors", "b.safetensors"]}.items():
        files = [*files, "pytorch_lora_weights.safetensors"] if repo == "usual" else files
        listing = {"siblings": [{"rfilename": file} for file in files]}
        site.files[f"/api/models/someone/{repo}"] = json.dumps(listing).encode()
        site.files[f"/someone/{repo}/resolve/main/{files[-1]}"] = safetensors()
        assert (await room.bring(f"someone/{repo}")).name == f"someone/{repo}"
    site.files["/api/models/someone/many"] = json.dumps(
        {"siblings": [{"rfilename": f"{c}.safetensors"} for c in "ab"]}
    ).encode()
    assert "name one, as in someone/many/a.safetensors" in (await room.refused("someone/many"))[1]
    assert (await room.refused("someone/lost"))[0] == "file_download_error"
    site.asked.clear()
    assert (await Room(tmp_path, hub="").refused("someone/style"))[0] == "file_download_error"
    assert site.asked == []


async def test_a_repository_of_the_hub_is_asked_once(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path, hub=site.url)
    site.files["/api/models/someone/style"] = json.dumps({"siblings": [{"rfilename": "a.safetensors"}]}).encode()
    site.files["/someone/style/resolve/main/a.safetensors"] = safetensors()
    one = await room.bring("someone/style")
    assert (await room.bring("someone/style")).path == one.path
    assert (await room.bring("someone/style/a.safetensors")).path == one.path
    assert site.asked == ["/api/models/someone/style", "/someone/style/resolve/main/a.safetensors"]


async def test_of_several_the_wrong_one_is_told_by_its_place(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = safetensors()
    wanted = [WantedLora(path=f"{site.url}/{name}", scale=1.0) for name in ("a", "lost", "a.pt")]
    with pytest.raises(ModelError) as caught:
        await Room(tmp_path).files.bring(wanted, base_url="http://me", reader="k")
    assert [item["loc"] for item in caught.value.items] == [["body", "loras", "1", "path"]]


async def test_the_operator_may_name_any_file_and_others_may_not(site: Site, tmp_path: Path) -> None:
    mine, files = tmp_path / "mine.safetensors", Room(tmp_path / "room").files
    mine.write_bytes(safetensors())
    wanted = [WantedLora(path=str(path), scale=0.5) for path in (mine, tmp_path / "lost.safetensors")]
    (brought,) = await files.bring(wanted[:1], base_url="", reader="", any_file=True)
    assert (brought.path, brought.scale) == (str(mine), 0.5)
    with pytest.raises(ModelError) as caught:
        await files.bring(wanted, base_url="", reader="", any_file=True)
    assert caught.value.items[0]["loc"] == ["body", "loras", "1", "path"], "the second one is missing"
    with pytest.raises(ModelError) as caught:
        await files.bring(wanted, base_url="", reader="")
    assert caught.value.items[0]["loc"] == ["body", "loras", "0", "path"], "of no one else"


async def test_what_is_remembered_of_loras_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loras, "REMEMBERED", 3)
    files = Room(tmp_path).files
    paths = [tmp_path / f"{i}.safetensors" for i in range(5)]
    for path in paths:
        path.write_bytes(safetensors(fill=path.name[:1].encode()))
    wanted = [WantedLora(path=str(path), scale=1.0) for path in paths]
    brought = await files.bring(wanted, base_url="", reader="", any_file=True)
    assert len({each.digest for each in brought}) == 5
    assert [Path(name).name for name, *_ in files._digests] == [path.name for path in paths[2:]]
    assert await files.bring(wanted, base_url="", reader="", any_file=True) == brought


async def test_files_of_the_allowed_folder_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "allowed", tmp_path / "secret.safetensors"
    (inside / "deep").mkdir(parents=True)
    for path in (inside / "deep" / "a.safetensors", outside):
        path.write_bytes(safetensors())
    (inside / "link.safetensors").symlink_to(outside)
    room = Room(tmp_path, folder=inside, hub="")
    assert (await room.bring("deep/a.safetensors")).path == str(inside / "deep" / "a.safetensors")
    for name in (str(outside), "../secret.safetensors", "link.safetensors", "deep", "nothing.safetensors"):
        assert (await room.refused(name))[0] == "file_download_error"
    assert (await Room(tmp_path, hub="").refused("deep/a.safetensors"))[0] == "file_download_error"


async def test_an_uploaded_file_needs_no_network(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.own.write_bytes(safetensors())
    for name in ("x", "x.bin", "x.safetensors"):
        assert (await room.bring(f"http://me/files/b/{name}")).path == str(room.own)


@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "a.bin?download=true", "a.PTH"])
async def test_a_pickle_is_refused_by_name_before_it_is_fetched(site: Site, tmp_path: Path, name: str) -> None:
    type_, message = await Room(tmp_path).refused(f"{site.url}/{name}")
    assert (type_, site.asked) == ("value_error", [])
    assert "pickle" in message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04" + b"0" * 40, "pickle"),
        (b"\x80\x04" + b"0" * 40, "pickle"),
        (b"<html>not found</html>", "web page (HTML)"),
        (b"", "it is empty"),
        (safetensors()[:30], "not a complete safetensors"),
    ],
)
async def test_what_is_no_safetensors_file_is_refused(site: Site, tmp_path: Path, data: bytes, said: str) -> None:
    room = Room(tmp_path)
    site.files["/a"] = data
    assert said in (await room.refused(f"{site.url}/a"))[1]
    assert list(room.kept.iterdir()) == []


async def test_one_that_is_too_large_is_refused(site: Site, tmp_path: Path) -> None:
    room = Room(tmp_path)
    site.files["/a"] = safetensors(1_100_000)
    assert (await room.refused(f"{site.url}/a"))[0] == "file_too_large"
    room.own.write_bytes(safetensors(1_100_000))
    assert (await room.refused("http://me/files/b/x"))[0] == "file_too_large"
    assert list(room.kept.iterdir()) == []


@pytest.mark.parametrize("url", ["http://169.254.169.254/a.safetensors", "http://10.0.0.1/a.safetensors"])
async def test_private_addresses_are_refused(tmp_path: Path, url: str) -> None:
    assert (await Room(tmp_path).refused(url))[0] == "file_download_error"


NO_PATHS = {
    "NUL": "a\0b.safetensors",
    "a long name": "a" * 300 + ".safetensors",
    "a long path": "a/" * 3000 + "b.safetensors",
    "half a pair": "\ud800.safetensors",
    "a line end": "a\nb",
    "an unknown home": "~nobody-has-this-name/x.safetensors",
    "a bracket": "http://[",
    "a bracket without a scheme": "//[/a.safetensors",
    "a port": "http://h:99999999/a.safetensors",
    "half a pair in a URL": "http://127.0.0.1/\ud800.safetensors?\udfff",
    "nothing": "",
}


@pytest.mark.parametrize("name", NO_PATHS.values(), ids=NO_PATHS)
@pytest.mark.parametrize("any_file", [False, True])
async def test_a_name_that_no_file_can_have_is_refused_at_its_field(tmp_path: Path, name: str, any_file: bool) -> None:
    room = Room(tmp_path, folder=tmp_path)
    with pytest.raises(ModelError) as caught:
        await room.files.bring((WantedLora(path=name, scale=1.0),), base_url="http://me", reader="k", any_file=any_file)
    (item,) = caught.value.items
    assert (caught.value.status, item["loc"]) == (422, ["body", "loras", "0", "path"])


@pytest.mark.parametrize("location", ["http://[", "//[::1", "http://h:port/", "\\\\", "http://a\N{BIRD}/\N{BIRD}"])
async def test_a_redirect_to_no_url_is_refused_at_its_field(site: Site, tmp_path: Path, location: str) -> None:
    site.redirects["/a.safetensors"] = location
    kind, _ = await Room(tmp_path).refused(f"{site.url}/a.safetensors")
    assert kind == "file_download_error"
