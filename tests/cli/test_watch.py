"""`impasto watch`: a request followed from its queue to its pictures, by id and by URL."""

import subprocess
from collections.abc import Callable
from typing import Any

Impasto = Callable[..., subprocess.CompletedProcess[str]]


def submit(server: Any, prompt: str = "a red apple", **more: Any) -> dict[str, Any]:
    status, body = server.get("/queue/fal-ai/flux-pro", body={"prompt": prompt, **more})
    assert status == 200
    return body


def test_a_url_is_followed_to_the_pictures(start: Callable[..., Any], impasto: Impasto) -> None:
    server = start(IMPASTO_MODEL_FAKE_STEP_SECONDS="0.05")
    submitted = submit(server, num_images=2)
    ended = impasto("watch", submitted["status_url"], "--url", server.url)
    assert ended.returncode == 0, ended.stderr
    assert [line.startswith(f"{server.url}/files/b/") for line in ended.stdout.splitlines()] == [True, True]
    assert "step 28/28" in ended.stderr
    assert "Done in" in ended.stderr


def test_an_id_is_enough(start: Callable[..., Any], impasto: Impasto) -> None:
    server = start()
    ended = impasto("watch", submit(server)["request_id"], "--url", server.url, "--preview")
    assert ended.returncode == 0, ended.stderr
    assert "▀" in ended.stderr


def test_a_failed_request_ends_with_its_error_and_status_one(start: Callable[..., Any], impasto: Impasto) -> None:
    server = start()
    ended = impasto("watch", submit(server, num_inference_steps=99)["status_url"], "--url", server.url)
    assert ended.returncode == 1
    assert "less than or equal to 50" in ended.stderr
    assert ended.stdout == ""


def test_what_is_no_request_and_no_server_is_said(start: Callable[..., Any], impasto: Impasto) -> None:
    server = start()
    assert "neither a request id nor the URL" in impasto("watch", "nothing", "--url", server.url).stderr
    unknown = impasto("watch", "764cabcf-b745-4b3e-ae38-1200304cf45b", "--url", server.url)
    assert unknown.returncode == 1
    assert "has no request" in unknown.stderr
    gone = impasto("watch", "764cabcf-b745-4b3e-ae38-1200304cf45b", "--url", "http://127.0.0.1:9")
    assert gone.returncode == 1
    assert "No server answers" in gone.stderr
