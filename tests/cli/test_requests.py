"""`impasto requests`: over the store of a server that runs, and of one that does not."""

import asyncio
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from impasto.serve import open_store
from impasto.settings import Settings
from impasto.store.records import NewRequest, Outcome, Result

from .conftest import IMPASTO, environment

SLOW = """
import time
import uuid
from impasto.endpoints.custom import Prompt, WireInput, derive

class Input(WireInput):
    prompt: Prompt

class Slow:
    def __init__(self, base):
        self.base = base

    def __getattr__(self, name):
        return getattr(self.base, name)

    def denoise(self, job, conditioning, *, index):
        for step in self.base.denoise(job, conditioning, index=index):
            time.sleep(0.5)
            yield step

asks = lambda x: {"prompt": x.prompt, "num_inference_steps": 50}
table = derive("me/slow", Input=Input, asks=asks, example={"prompt": "x"}, pipeline=Slow)
"""


def test_list_show_and_cancel_beside_a_running_server(start: Callable[..., Any], impasto: Callable[..., Any], tmp_path):
    data = str(tmp_path / "data")
    server = start(IMPASTO_MODEL_SERVE="flux-dev=nobody")
    server.until_ready()
    _, drawn = server.get("/fal-ai/flux-pro", body={"prompt": "a red apple", "image_size": "square", "sync_mode": True})
    assert drawn["images"]
    _, waits = server.get("/queue/fal-ai/flux/dev", body={"prompt": "x"})
    waiting = waits["request_id"]

    listed = impasto("requests", "list", "--data", data).stdout.splitlines()
    assert listed[0].split()[0] == waiting, "newest first"
    assert len(listed) == 2
    assert "IN_QUEUE" in listed[0]
    assert "COMPLETED    200" in listed[1]
    done = listed[1].split()[0]
    older = impasto("requests", "list", "--data", data, "--before", waiting).stdout.splitlines()
    assert [line.split()[0] for line in older] == [done]
    for option in (("--status", "IN_QUEUE"), ("--endpoint", "fal-ai/flux/dev"), ("--limit", "1")):
        only = impasto("requests", "list", "--data", data, *option).stdout.splitlines()
        assert [line.split()[0] for line in only] == [waiting], option
    assert impasto("requests", "list", "--data", data, "--key", "nobody").stdout == ""

    shown = impasto("requests", "show", done, "--data", data).stdout
    for words in ("outcome    OK (200)", '"prompt": "a red apple"', "Drawing 1 image of 512x512", "characters)"):
        assert words in shown, words
    assert max(map(len, shown.splitlines())) < 400, "data URIs are cut"

    assert "cancellation requested" in impasto("requests", "cancel", waiting, "--data", data).stdout
    status, body = server.get(waits["status_url"].removeprefix(server.url))
    assert (status, body["status"]) == (200, "COMPLETED")
    assert server.get(waits["response_url"].removeprefix(server.url))[0] == 499
    assert "already completed" in impasto("requests", "cancel", waiting, "--data", data).stdout


def test_a_running_picture_is_cancelled_from_the_command_line(start: Callable[..., Any], impasto, tmp_path: Path):
    (tmp_path / "slow.py").write_text(SLOW)
    server = start(IMPASTO_QUEUE_BEAT_SECONDS="0.2", IMPASTO_SERVER_ENDPOINTS="slow:table", PYTHONPATH=str(tmp_path))
    server.until_ready()
    _, body = server.get("/queue/me/slow", body={"prompt": "x"})
    path = body["status_url"].removeprefix(server.url)
    while server.get(path)[1]["status"] == "IN_QUEUE":
        time.sleep(0.02)
    assert (
        "cancellation requested"
        in impasto("requests", "cancel", body["request_id"], "--data", str(tmp_path / "data")).stdout
    )
    while server.get(path)[1]["status"] != "COMPLETED":
        time.sleep(0.02)
    assert server.get(path.removesuffix("/status"))[0] == 499


def test_an_unknown_request_is_said_with_the_remedy(impasto: Callable[..., Any], refused, tmp_path: Path):
    impasto("keys", "create", "--data", str(tmp_path))
    for verb in ("show", "cancel"):
        assert "`impasto requests list` shows them" in refused("requests", verb, "no-such-id", "--data", str(tmp_path))


READING = (
    ("requests", "list"),
    ("requests", "show", "x"),
    ("requests", "cancel", "x"),
    ("keys", "list"),
    ("keys", "revoke", "x"),
    ("webhooks", "keys"),
    ("webhooks", "rotate-key"),
)


def test_in_a_folder_without_data_every_reading_command_says_so_and_makes_none(impasto: Callable[..., Any], tmp_path):
    for command in READING:
        ended = impasto(*command, cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (1, ""), command
        assert f"no data in {tmp_path / 'impasto-data'}" in ended.stderr
        assert "--data" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_empty_list_says_so_in_a_terminal_only(impasto: Callable[..., Any], tmp_path: Path):
    settings = Settings(data=tmp_path)
    asyncio.run(empty(settings))
    for command, words in {("requests", "list"): "no requests yet", ("keys", "list"): "no keys yet"}.items():
        ended = impasto(*command, "--data", str(tmp_path))
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        assert words in in_a_terminal(*command, "--data", str(tmp_path))
    narrowed = ("requests", "list", "--endpoint", "me/nothing", "--data", str(tmp_path))
    assert "no such requests" in in_a_terminal(*narrowed)


async def empty(settings: Settings) -> None:
    await (await open_store(settings)).close()


def in_a_terminal(*arguments: str) -> str:
    """What a person sees on standard error."""
    ours, theirs = os.openpty()
    ended = subprocess.run(
        [*IMPASTO, *arguments], env=environment(), stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True
    )
    os.close(theirs)
    with open(ours, "rb") as terminal:
        return terminal.read1(10_000).decode() if not ended.stdout else ""


def test_other_peoples_text_moves_no_cursor_and_begins_no_line(impasto: Callable[..., Any], tmp_path: Path):
    forged = "x\nkey        admin\r\x1b[2J\x9b31m\u202ecod.exe"
    data = tmp_path / "data"

    async def fill() -> str:
        store = await open_store(Settings(data=data))
        try:
            await store.create_key(alias=forged, scopes=["API"])
            request = NewRequest(
                request_id=str(uuid.uuid4()),
                endpoint="fal-ai/flux-pro",
                input={"prompt": forged},
                seed=1,
                base_url="http://x",
            )
            await store.submit(request)
            (claimed,) = await store.claim(endpoints=["fal-ai/flux-pro"], runner_id="r", limit=1)
            payload = {"detail": forged}
            result = Result(http_status=422, headers={}, payload=payload)
            await store.finish(
                claimed.request_id,
                claimed.lease or "",
                outcome=Outcome.ERROR,
                result=result,
                error=forged,
                error_type="t",
            )
            return request.request_id
        finally:
            await store.close()

    request_id = asyncio.run(fill())
    for command in (("requests", "show", request_id), ("requests", "list"), ("keys", "list")):
        shown = impasto(*command, "--data", str(data)).stdout
        assert all(line.isprintable() for line in shown.split("\n")), command
        assert not any(line.startswith("key        admin") for line in shown.split("\n")), command
