"""Webhooks end to end: fal's clients ask for them, programs that verify as fal documents it receive them, and a server
that is killed in between loses none. The receivers are those of examples/webhook-receiver, as they stand there.
"""

import json
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from impasto.webhooks.signature import signed_headers
from impasto.webhooks.verify import InvalidSignature, Verifier

EXAMPLES = Path(__file__).parents[2] / "examples" / "webhook-receiver"
APP = "fal-ai/flux-pro"
PATIENCE = 120
INPUT = {"prompt": "a red apple", "image_size": "square"}


class Receiver:
    """One of the examples; `url` is what it prints, `got` the genuine webhooks that it prints later."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first.startswith("listening on http://"), first
        self.url = first.split()[-1] + "/hook?x=1"
        self.got: queue.Queue[dict[str, Any]] = queue.Queue()
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2].partition("/")[0]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.got.put(json.loads(line))

    def next(self) -> dict[str, Any]:
        return self.got.get(timeout=PATIENCE)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.reading.join(PATIENCE)
        assert not self.reading.is_alive(), "something else holds the receiver's output open"
        assert self.process.stdout is not None
        self.process.stdout.close()


def python_receiver(jwks: str, port: str = "0") -> Receiver:
    return Receiver(sys.executable, str(EXAMPLES / "receiver.py"), "--port", port, "--jwks", jwks)


@pytest.fixture
def start_receiver(server: Any, node_modules: Path, tmp_path: Path) -> Iterator[Callable[[str], Receiver]]:
    made: list[Receiver] = []
    jwks = f"{server.url}/.well-known/jwks.json"

    def start(language: str) -> Receiver:
        if language == "python":
            made.append(python_receiver(jwks))
        else:
            program = tmp_path / "receiver.mjs"
            shutil.copy(EXAMPLES / "receiver.mjs", program)
            modules = tmp_path / "node_modules"
            if not modules.exists():
                modules.symlink_to(node_modules)
            made.append(Receiver("node", str(program), "0", jwks))
        return made[-1]

    yield start
    for receiver in made:
        receiver.stop()


def log_of(server: Any, request_id: str) -> dict[str, Any]:
    return httpx.get(f"{server.url}/queue/{APP}/requests/{request_id}/webhook").raise_for_status().json()


def wait_for(server: Any, request_id: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while (log := log_of(server, request_id))["state"] != state:
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
    return log


class TestClients:
    @pytest.mark.parametrize("verb", ["fal_client.submit", "asyncio_submit"])
    def test_fal_client_submit_with_webhook_url(self, server, python, start_receiver, verb):
        receiver = start_receiver("python")
        call = f"({APP!r}, arguments={INPUT!r}, webhook_url={receiver.url!r})"
        call = f"asyncio.run(fal_client.submit_async{call})" if verb == "asyncio_submit" else f"fal_client.submit{call}"
        request_id = python(f"import asyncio, fal_client\nout({call}.request_id)")
        webhook = receiver.next()
        assert (webhook["request_id"], webhook["gateway_request_id"]) == (request_id, request_id)
        assert (webhook["status"], webhook["payload"]["prompt"]) == ("OK", INPUT["prompt"])
        assert httpx.get(webhook["payload"]["images"][0]["url"]).content[:3] == b"\xff\xd8\xff"
        assert wait_for(server, request_id, "DELIVERED")["attempts"][0]["http_status"] == 200

    def test_fal_js_queue_submit_with_webhook_url(self, server, node, start_receiver):
        receiver = start_receiver("node")
        asked = {"input": INPUT, "webhookUrl": receiver.url}
        answer = node(f"out(await fal.queue.submit({json.dumps(APP)}, {json.dumps(asked)}));")
        webhook = receiver.next()
        assert webhook["request_id"] == answer["request_id"] == answer["gateway_request_id"]
        assert (webhook["status"], webhook["payload"]["has_nsfw_concepts"]) == ("OK", [False])
        assert wait_for(server, answer["request_id"], "DELIVERED")["attempts"][0]["http_status"] == 200

    def test_a_receiver_with_fals_key_set_built_in_needs_no_change_under_exec(self, server, python, node):
        keys = httpx.get(f"{server.url}/.well-known/jwks.json").json()
        url = "https://rest.fal.ai/.well-known/jwks.json"
        assert python(f"import requests\nout(requests.get({url!r}, timeout=10).json())") == keys
        assert node(f"out(await (await fetch({json.dumps(url)})).json());") == keys

    @pytest.mark.parametrize("language", ["python", "node"])
    def test_a_bad_input_is_told_as_fal_tells_it(self, server, start_receiver, language):
        receiver = start_receiver(language)
        answer = httpx.post(f"{server.url}/queue/{APP}", params={"fal_webhook": receiver.url}, json={})
        request_id = answer.raise_for_status().json()["request_id"]
        webhook = receiver.next()
        assert list(webhook) == ["request_id", "gateway_request_id", "status", "error", "payload"]
        assert (webhook["request_id"], webhook["status"]) == (request_id, "ERROR")
        assert webhook["error"] == "Invalid status code: 422"
        assert webhook["payload"]["detail"][0]["loc"] == ["body", "prompt"]
        result = httpx.get(f"{server.url}/queue/{APP}/requests/{request_id}")
        assert (result.status_code, result.json()) == (422, webhook["payload"])

    def test_sync_mode_sends_the_picture_itself(self, server, start_receiver):
        receiver = start_receiver("python")
        httpx.post(
            f"{server.url}/queue/{APP}", params={"fal_webhook": receiver.url}, json=INPUT | {"sync_mode": True}
        ).raise_for_status()
        assert receiver.next()["payload"]["images"][0]["url"].startswith("data:image/jpeg;base64,")


class TestForgery:
    """S14: whatever was touched on the way is refused by fal's own recipe, and by the helper that is shipped."""

    @pytest.fixture
    def genuine(self, server) -> tuple[dict[str, str], bytes]:
        """The headers and body of a real webhook of the server, caught on the way."""
        import http.server

        caught: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

        class Catcher(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept = {name: value for name, value in self.headers.items() if name.startswith("X-Fal-")}
                self.send_response(204)
                self.end_headers()
                caught.put((kept, body))

            def log_message(self, *_: object) -> None:
                pass

        catcher = http.server.HTTPServer(("127.0.0.1", 0), Catcher)
        thread = threading.Thread(target=catcher.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{catcher.server_port}/"
        httpx.post(f"{server.url}/queue/{APP}", params={"fal_webhook": url}, json=INPUT).raise_for_status()
        found = caught.get(timeout=PATIENCE)
        thread.join()
        catcher.server_close()
        return found

    @pytest.mark.parametrize("language", ["python", "node"])
    def test_only_the_untouched_one_is_believed(self, server, start_receiver, genuine, language):
        receiver = start_receiver(language)
        verifier = Verifier(f"{server.url}/.well-known/jwks.json")
        headers, body = genuine
        now = str(int(time.time()))
        stranger = Ed25519PrivateKey.generate().private_bytes_raw()
        signature = headers["X-Fal-Webhook-Signature"]
        forged = signed_headers(
            private=stranger,
            request_id=headers["X-Fal-Webhook-Request-Id"],
            user_id="local",
            timestamp=int(now),
            body=body,
        )
        touched = [
            (headers, body.replace(b"OK", b"KO")),
            (headers, body + b" "),
            (headers, b""),
            (headers | {"X-Fal-Webhook-Timestamp": str(int(headers["X-Fal-Webhook-Timestamp"]) + 1)}, body),
            (headers | {"X-Fal-Webhook-Timestamp": str(int(now) - 301)}, body),
            (headers | {"X-Fal-Webhook-Timestamp": "soon"}, body),
            (headers | {"X-Fal-Webhook-Request-Id": "another"}, body),
            (headers | {"X-Fal-Webhook-User-Id": "another"}, body),
            (headers | {"X-Fal-Webhook-Signature": "00" * 64}, body),
            (headers | {"X-Fal-Webhook-Signature": signature[:-2]}, body),
            (headers | {"X-Fal-Webhook-Signature": "not hexadecimal"}, body),
            ({name: value for name, value in headers.items() if name != "X-Fal-Webhook-Signature"}, body),
            ({}, body),
            (forged, body),  # signed, but by a key that is not in the set
        ]
        for number, (head, content) in enumerate(touched):
            assert httpx.post(receiver.url, headers=head, content=content).status_code == 401, number
            with pytest.raises(InvalidSignature):
                verifier.verify(head, content)
        assert receiver.got.empty()
        assert httpx.post(receiver.url, headers=headers, content=body).status_code == 200
        verifier.verify(headers, body)
        assert receiver.next() == json.loads(body)


class TestSurvival:
    def test_a_server_that_is_killed_delivers_after_its_restart(self, start_server):
        """The receiver is away, the server is killed, both come back: the webhook arrives, signed by the same key."""
        settings = {"IMPASTO_WEBHOOKS_RETRY_AFTER": ",".join(["1"] * 60)}
        first = start_server(**settings)
        away = python_receiver(f"{first.url}/.well-known/jwks.json")
        away.stop()
        answer = httpx.post(f"{first.url}/queue/{APP}", params={"fal_webhook": away.url}, json=INPUT)
        request_id = answer.raise_for_status().json()["request_id"]
        deadline = time.monotonic() + PATIENCE
        while not log_of(first, request_id)["attempts"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        keys = httpx.get(f"{first.url}/.well-known/jwks.json").json()
        first.process.kill()
        first.stop()
        second = start_server(**settings)
        back = python_receiver(f"{second.url}/.well-known/jwks.json", away.port)
        try:
            assert back.next()["request_id"] == request_id
            log = wait_for(second, request_id, "DELIVERED")
        finally:
            back.stop()
        assert log["attempts"][0]["error"].startswith("No connection")
        assert log["attempts"][-1]["http_status"] == 200
        assert httpx.get(f"{second.url}/.well-known/jwks.json").json() == keys
        assert httpx.post(f"{second.url}/queue/{APP}/requests/{request_id}/webhook/redeliver").status_code == 202


class TestKeys:
    def test_a_key_is_rotated_beside_a_running_server(self, server, impasto):
        def published() -> list[str]:
            return [key["kid"] for key in httpx.get(f"{server.url}/.well-known/jwks.json").json()["keys"]]

        before = published()
        new = impasto("webhooks", "rotate-key").split()[0]
        assert published() == [*before, new]
        lines = impasto("webhooks", "keys").splitlines()
        assert [line.split()[0] for line in lines] == published()
        assert "published until" in lines[0]
