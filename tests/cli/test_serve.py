"""`impasto serve` as a person starts it: a real process, its output, its answers, its end."""

import base64
import json
import socket
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from impasto.files.images import encode


def test_a_start_prints_url_key_and_a_line_to_try_and_draws(start: Callable[..., Any]):
    server = start()
    assert server.get("/healthz")[0] == 200
    server.until_ready()
    status, output = server.get("/fal-ai/flux-pro", body={"prompt": "a red apple", "image_size": "square"})
    assert status == 200
    assert output["prompt"] == "a red apple"
    with urllib.request.urlopen(output["images"][0]["url"], timeout=10) as answer:
        assert answer.read()[:3] == b"\xff\xd8\xff"
    code, _ = server.stop()
    assert code == 0
    assert server.process.stdout is not None


def test_the_welcome_names_the_playground_which_a_browser_gets_there(start: Callable[..., Any]):
    server = start()
    welcome = [server.process.stdout.readline().split() for _ in range(3)]
    address = next(words[1] for words in welcome if words[0] == "open")
    assert address == f"{server.url}/"
    asked = urllib.request.Request(address, headers={"Accept": "text/html"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


def test_results_survive_a_restart_and_the_same_seed_gives_the_same_bytes(start: Callable[..., Any], tmp_path: Path):
    body: dict[str, object] = {"prompt": "x", "seed": 5, "image_size": "square", "sync_mode": True}
    first = start()
    first.until_ready()
    _, before = first.get("/fal-ai/flux-pro", body=body)
    _, queued = first.get("/queue/fal-ai/flux-pro", body=body)
    path = queued["response_url"].removeprefix(first.url)
    while first.get(path + "/status")[1]["status"] != "COMPLETED":
        time.sleep(0.02)
    assert first.stop()[0] == 0
    second = start()
    status, kept = second.get(path)
    assert status == 200
    assert kept["images"][0]["url"] == before["images"][0]["url"]
    second.until_ready()
    assert second.get("/fal-ai/flux-pro", body=body)[1]["images"] == before["images"]


def test_a_request_that_waits_at_a_stop_is_drawn_by_the_next_server(start: Callable[..., Any]):
    slow = {"IMPASTO_QUEUE_SLOTS": "1"}
    first = start(**slow)
    first.until_ready()
    urls = [
        first.get("/queue/fal-ai/flux-pro", body={"prompt": str(i), "num_images": 4, "num_inference_steps": 50})[1]
        for i in range(6)
    ]
    first.process.kill()
    first.process.wait()
    second = start(**slow)
    second.until_ready()
    for queued in urls:
        path = queued["response_url"].removeprefix(first.url)
        deadline = time.monotonic() + 60
        while second.get(path + "/status")[1]["status"] != "COMPLETED" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert second.get(path)[0] == 200


def test_a_caller_who_waits_at_a_stop_gets_an_answer_and_the_request_stays(start: Callable[..., Any]):
    """The model cannot be loaded, so the picture never comes; the stop must not leave the caller without an answer."""
    first = start(IMPASTO_MODEL_PIPELINE="flux", IMPASTO_MODEL_NAME="no-such-model")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.get, "/fal-ai/flux-pro", body={"prompt": "x", "image_size": "square"})
        while first.get("/queue/fal-ai/flux-pro", body={"prompt": "y"})[1]["queue_position"] == 0:
            time.sleep(0.02)
        assert first.get("/readyz")[0] == 503
        assert first.stop()[0] == 0
        status, answer = waiting.result(timeout=30)
    assert status == 503
    assert "after its restart" in answer["detail"]


def test_a_model_that_is_not_there_is_named_by_readyz(start: Callable[..., Any]):
    server = start(IMPASTO_MODEL_PIPELINE="flux", IMPASTO_MODEL_NAME="no-such-model")
    deadline = time.monotonic() + 60
    while "no-such-model" not in (reason := str(server.get("/readyz")[1])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.get("/readyz")[0] == 503
    assert "no-such-model" in reason
    assert server.get("/healthz")[0] == 200


OWN = """
from impasto.endpoints.custom import Prompt, WireInput, derive

class Input(WireInput):
    prompt: Prompt

def black(pixels, job):
    pixels[:] = 0
    return pixels

table = derive("me/black", Input=Input, asks=lambda x: {"prompt": x.prompt}, example={"prompt": "x"}, post=black)
"""
PIXEL = "data:image/png;base64," + base64.b64encode(encode(np.zeros((64, 64, 3), np.uint8), "png")[0]).decode()


def test_python_files_where_it_is_started_are_endpoints_when_named_and_never_the_standard_library(
    start: Callable[..., Any], tmp_path: Path
):
    here = tmp_path / "here"
    here.mkdir()
    for name in ("random", "json", "tempfile", "PIL"):
        (here / f"{name}.py").write_text("raise SystemExit('not the one that was meant')")
    (here / "mine.py").write_text(OWN)
    server = start("--endpoints", "mine:table", cwd=here)
    server.until_ready()
    assert server.get("/me/black", body={"prompt": "x"})[0] == 200
    status, answer = server.get("/fal-ai/flux/dev/image-to-image", body={"prompt": "x", "image_url": PIXEL})
    assert status == 200, answer


def test_a_taken_port_is_named_with_the_remedy(refused: Callable[..., str], tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused("serve", "--port", str(port), "--data", str(tmp_path))
    assert str(port) in message
    assert "--port" in message


def test_two_servers_never_share_a_data_folder(start: Callable[..., Any], refused: Callable[..., str], tmp_path: Path):
    start(folder=tmp_path)
    message = refused("serve", "--port", "0", "--data", str(tmp_path))
    assert str(tmp_path) in message
    assert "--data" in message


def test_off_loopback_a_key_is_needed_before_the_start_and_at_every_call(
    start: Callable[..., Any], impasto: Callable[..., Any], refused: Callable[..., str], tmp_path: Path
):
    folder = tmp_path / "data"
    message = refused("serve", "--host", "0.0.0.0", "--port", "0", "--data", str(folder))
    assert "impasto keys create" in message
    made = impasto("keys", "create", "ci", "--data", str(folder))
    key = made.stdout.strip()
    server = start(IMPASTO_AUTH_MODE="keys", folder=folder)
    server.until_ready()
    body: dict[str, object] = {"prompt": "x", "image_size": "square"}
    assert server.get("/fal-ai/flux-pro", body=body, key="wrong:key")[0] == 401
    assert server.get("/fal-ai/flux-pro", body=body, key=key)[0] == 200
    revoked = impasto("keys", "revoke", key.partition(":")[0], "--data", str(folder))
    assert "revoked" in revoked.stdout


def test_a_bad_setting_stops_the_start_and_names_it(refused: Callable[..., str]):
    message = refused("serve", IMPASTO_SERVER_PORT="many")
    assert "IMPASTO_SERVER_PORT" in message
    assert "many" in message


def test_what_is_not_to_be_stored_is_in_no_file_and_no_log_once_it_is_drawn(start: Callable[..., Any], tmp_path: Path):
    """X-Fal-Store-IO: 0; the member is one that no output repeats, so that only the input could hold it."""
    server = start(IMPASTO_SERVER_LOG_LEVEL="debug")
    server.until_ready()
    body: dict[str, object] = {"prompt": "x", "image_size": "square", "note": "canary-" + "in-the-input"}
    request = urllib.request.Request(
        f"{server.url}/queue/fal-ai/flux-pro",
        data=json.dumps(body).encode(),
        headers={"Authorization": "Key a:b", "X-Fal-Store-IO": "0", "Idempotency-Key": "once"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        path = json.loads(answer.read())["status_url"].removeprefix(server.url)
    while server.get(path)[1]["status"] != "COMPLETED":
        time.sleep(0.02)

    def found() -> list[Path]:
        files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        return [path for path in files if b"canary-in-the-input" in path.read_bytes()]

    deadline = time.monotonic() + 60
    while found() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found() == []
    assert server.get(path.removesuffix("/status"))[0] == 200, "the answer waits for its caller"
    _, log = server.stop()
    assert "canary" not in log
