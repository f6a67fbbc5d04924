"""What inputs name is read before their requests compete for a runner: a slow URL costs its own key's places only."""

import asyncio
import contextlib
import io
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from impasto.files.images import data_uri
from impasto.settings import FetchSettings, LoraSettings, Settings
from impasto.store.records import NewRequest, Outcome, Status

from .conftest import BASE_URL, PATIENCE, House, make_settings, open_house
from .test_loras import safetensors

IMAGE_TO_IMAGE = "fal-ai/flux/dev/image-to-image"


def png(side: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


class Site:
    """A server of files; /slow… sends a byte a second, /silent nothing at all, /head… a head that never ends."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            self.asked.append(path)
            self.open += 1
            try:
                await (reader.read() if path.startswith("/silent") else self._send(path, writer))
            finally:
                self.open -= 1
                writer.close()

    async def _send(self, path: str, writer: asyncio.StreamWriter) -> None:
        body = safetensors() if "safetensors" in path else png()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n".encode()
        if path.startswith("/head"):
            for byte in head * 100:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
        writer.write(head + b"\r\n")
        for byte in body if path.startswith("/slow") else b"":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)
        writer.write(body)
        await writer.drain()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    it = Site()
    server = await asyncio.start_server(it.answer, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield it
    server.close()
    for task in it.tasks:
        task.cancel()
    await asyncio.gather(*it.tasks)


def settings_of(data: Path, *, queue: dict[str, Any] | None = None, **fetch: Any) -> Settings:
    return make_settings(data, **(queue or {})).model_copy(
        update={
            "fetch": FetchSettings(**{"allow": ("127.0.0.0/8",), "seconds": 3600.0, "kib_per_second": 0.0, **fetch}),
            "lora": LoraSettings(seconds=3600.0),
        }
    )


async def submit(house: House, key_id: str, *, endpoint: str = "fal-ai/flux-pro", **input_: Any) -> str:
    """As the gateway does it: with a guess whether the input names files."""
    known = house.dispatcher._endpoints[endpoint]
    given = {"prompt": "a heron", **input_}
    request = await house.store.submit(
        NewRequest(
            request_id=str(uuid.uuid4()),
            endpoint=endpoint,
            input=given,
            seed=7,
            base_url=BASE_URL,
            key_id=key_id,
            names_files=known.may_name_files(given),
        )
    )
    return request.request_id


async def of_image(house: House, key_id: str, url: str) -> str:
    return await submit(house, key_id, endpoint=IMAGE_TO_IMAGE, image_url=url)


async def until(house: House, truth: Callable[[], bool]) -> None:
    await house.until(truth)


async def test_slow_urls_of_one_key_hold_up_no_other_key(site: Site, tmp_path: Path) -> None:
    """Neither requests without files nor those with quick ones; and the runner's slots stay free."""
    async with open_house(settings_of(tmp_path, per_key=4)) as house:
        await house.until_ready()
        slow = [await of_image(house, "slow", f"{site.url}/slow/{n}.png") for n in range(30)]
        slow += [
            await submit(
                house, "slow", endpoint="fal-ai/flux-lora", loras=[{"path": f"{site.url}/slow/{n}.safetensors"}]
            )
            for n in range(30)
        ]
        await until(house, lambda: site.open == 4)
        plain = await submit(house, "other")
        quick = await of_image(house, "other", f"{site.url}/quick.png")
        lora = await submit(
            house, "other", endpoint="fal-ai/flux-lora", loras=[{"path": f"{site.url}/quick.safetensors"}]
        )
        for request_id in (plain, quick, lora):
            request, _ = await house.ended(request_id)
            assert (request.outcome, request.attempt) == (Outcome.OK, 1)
        assert {house.request(request_id).status for request_id in slow} == {Status.IN_QUEUE}
        assert len([path for path in site.asked if path.startswith("/slow")]) == 4, "its key has four places"
        assert house.dispatcher.runners[0].busy == 0


async def test_several_slow_keys_leave_a_place_for_one_more(site: Site, tmp_path: Path) -> None:
    async with open_house(settings_of(tmp_path, at_a_time=9, per_key=2)) as house:
        await house.until_ready()
        for key in ("a", "b", "c", "d"):
            for n in range(5):
                await of_image(house, key, f"{site.url}/slow/{key}{n}.png")
        await until(house, lambda: site.open == 8)
        quick = await of_image(house, "e", f"{site.url}/quick.png")
        assert (await house.ended(quick))[0].outcome is Outcome.OK
        assert site.open == 8


async def test_a_request_waits_in_the_queue_while_its_files_are_read_and_can_be_cancelled_there(
    site: Site, tmp_path: Path
) -> None:
    async with open_house(settings_of(tmp_path, per_key=1)) as house:
        await house.until_ready()
        request_id = await of_image(house, "k", f"{site.url}/silent")
        await until(house, lambda: site.open == 1)
        assert house.request(request_id).status is Status.IN_QUEUE
        await house.store.cancel(request_id)
        request, result = await house.ended(request_id)
        assert (request.outcome, result.http_status, request.attempt) == (Outcome.CANCELLED, 499, 0)
        await until(house, lambda: site.open == 0)
        after = await of_image(house, "k", f"{site.url}/quick.png")
        assert (await house.ended(after))[0].outcome is Outcome.OK, "its place is free again"


async def test_an_input_that_was_not_marked_is_given_back_once_and_costs_no_attempt(site: Site, tmp_path: Path) -> None:
    """As those of a database of an older version, and of endpoints whose fields have other names."""
    async with open_house(settings_of(tmp_path)) as house:
        await house.until_ready()
        request_id = await house.submit(
            endpoint=IMAGE_TO_IMAGE, image_url=f"{site.url}/quick.png", image_size=None, no_retry=True
        )
        request, _ = await house.ended(request_id)
        assert (request.outcome, request.attempt, len(site.asked)) == (Outcome.OK, 1, 1)


@pytest.mark.parametrize(
    ("path", "said"),
    [("/slow.png", "slower than 8 KiB a second"), ("/silent", "did not begin"), ("/head", "did not begin")],
)
async def test_what_comes_too_slowly_is_refused_with_the_reason(
    site: Site, tmp_path: Path, path: str, said: str
) -> None:
    settings = settings_of(tmp_path, pace_seconds=0.5, kib_per_second=8.0, seconds=1.5)
    async with open_house(settings) as house:
        await house.until_ready()
        image = await of_image(house, "k", site.url + path)
        lora = await submit(house, "k", endpoint="fal-ai/flux-lora", loras=[{"path": f"{site.url}{path}?safetensors"}])
        for request_id, field in ((image, "image_url"), (lora, "loras")):
            _, result = await house.ended(request_id)
            (item,) = result.payload["detail"]
            assert (result.http_status, item["loc"][1], item["type"]) == (422, field, "file_download_error")
            assert said in item["msg"] or (field == "image_url" and "no complete answer" in item["msg"])


async def test_a_server_that_is_killed_while_it_reads_loses_nothing(site: Site, tmp_path: Path) -> None:
    """And what it had read already is read again by the next one."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.fleet.test_reading import of_image, open_house, settings_of\n"
        "async def main():\n"
        "    data, url = Path(sys.argv[1]), sys.argv[2]\n"
        "    async with open_house(settings_of(data, queue={'slots': 1}), step_seconds=0.5) as house:\n"
        "        await house.until_ready()\n"
        "        for path in ('/silent/once', '/quick/1', '/quick/2', '/quick/3'):\n"
        "            print(await of_image(house, 'k', url + path), flush=True)\n"
        "        await house.until(lambda: house.dispatcher._reading.counts == (1, 2))\n"
        "        print('read', flush=True)\n"
        "        await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n",
        str(tmp_path),
        site.url,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    async with asyncio.timeout(PATIENCE):
        ids = [(await child.stdout.readline()).decode().strip() for _ in range(4)]
        assert (await child.stdout.readline()) == b"read\n"
    child.kill()
    await child.wait()
    asked = len(site.asked)
    async with open_house(settings_of(tmp_path)) as house:
        await house.store.recover()
        await house.until_ready()
        for request_id in ids[1:]:
            assert (await house.ended(request_id))[0].outcome is Outcome.OK
        await until(house, lambda: len(site.asked) == asked + 4)
        assert house.request(ids[0]).status is Status.IN_QUEUE


async def test_what_is_read_ahead_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Inputs of 3 MB each and a bound of 4 MiB: one after the other, and all are drawn in the end."""
    noise = Image.effect_noise((1000, 1000), 100).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    uri = data_uri(buffer.getvalue(), "image/png")
    assert len(uri) > 1_000_000
    async with open_house(settings_of(tmp_path, ahead_mb=4), step_seconds=0.02) as house:
        await house.until_ready()
        ids = [await of_image(house, "k", uri) for _ in range(6)]
        most = 0
        while any(house.request(request_id).status is not Status.COMPLETED for request_id in ids):
            most = max(most, sum(house.dispatcher._reading.counts))
            await asyncio.sleep(0.005)
        assert most == 1
        assert {house.request(request_id).outcome for request_id in ids} == {Outcome.OK}


async def test_hundreds_of_lanes_that_no_runner_serves_hold_up_nobody(tmp_path: Path, site: Site) -> None:
    """The search looks at 256 lanes at a time. It ends when it has been round, and others run in between."""
    settings = settings_of(tmp_path)
    model = settings.model.model_copy(update={"serve": {"flux-dev": "absent"}})
    async with open_house(settings.model_copy(update={"model": model})) as house:
        await house.until_ready()
        assert IMAGE_TO_IMAGE not in house.dispatcher._served()
        for number in range(300):
            await submit(house, f"key-{number:03}", endpoint=IMAGE_TO_IMAGE, image_url=f"{site.url}/{number}.png")
        last = await submit(house, "last", endpoint="fal-ai/flux-pro/v1.1/redux", image_url=f"{site.url}/last.png")
        assert (await house.ended(last))[0].outcome is Outcome.OK
        assert site.asked == ["/last.png"]
        before = time.process_time()
        await asyncio.sleep(1.0)
        assert time.process_time() - before < 0.7, "a search that has been round begins again with the next bell only"
