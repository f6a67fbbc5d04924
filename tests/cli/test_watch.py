"""`impasto watch`: a request followed from its queue to its pictures, by id and by URL."""

import io
import json
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from impasto.client.watch import watch

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


def test_a_url_names_the_server_unless_it_is_fal_s_or_an_option_says_another(
    start: Callable[..., Any], impasto: Impasto
) -> None:
    server = start()
    url = submit(server)["status_url"]
    elsewhere = {"IMPASTO_URL": "http://127.0.0.1:9"}
    assert impasto("watch", url, **elsewhere).returncode == 0
    fal = url.replace(f"{server.url}/queue", "https://queue.fal.run")
    assert fal.startswith("https://queue.fal.run/fal-ai/flux-pro/requests/")
    assert impasto("watch", fal, IMPASTO_URL=server.url).returncode == 0
    assert "http://127.0.0.1:9" in impasto("watch", fal, **elsewhere).stderr
    assert "http://127.0.0.1:9" in impasto("watch", url, "--url", "http://127.0.0.1:9").stderr
    assert impasto("watch", "ftp://here/x/y/requests/764cabcf-b745-4b3e-ae38-1200304cf45b").returncode == 2


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


class Flaky(BaseHTTPRequestHandler):
    """A status stream that breaks, a proxy's 502 while the server starts anew, and the stream again, all lines told."""

    answers: ClassVar[list[Callable[["Flaky"], None]]] = []

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if "/stream" in self.path:
            self.answers.pop(0)(self)
        else:
            self.send(200, b'{"images": [{"url": "http://here/files/b/x.png"}]}')

    def send(self, status: int, body: bytes, *, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


def told(status: str, *lines: str) -> bytes:
    entries = [{"message": line} for line in lines]
    state = {"status": status, "queue_position": 0, "logs": entries, "metrics": {"inference_time": 1.0}}
    return b"data: " + json.dumps(state).encode() + b"\n\n"


def test_a_server_that_starts_anew_is_waited_for_and_no_line_is_told_twice() -> None:
    Flaky.answers = [
        lambda one: one.send(200, told("IN_PROGRESS", "begun"), length=9999),
        lambda one: one.send(502, b'["bad gateway"]'),
        lambda one: one.send(200, told("IN_PROGRESS", "begun", "half done") + told("COMPLETED", "done")),
    ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    out, err = io.StringIO(), io.StringIO()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        where = f"{url}/queue/fal-ai/flux-pro/requests/764cabcf-b745-4b3e-ae38-1200304cf45b/status"
        assert watch(where, url=url, key=None, pictures=False, out=out, err=err) == 0
    finally:
        server.shutdown()
        server.server_close()
    assert out.getvalue() == "http://here/files/b/x.png\n"
    lines = err.getvalue().splitlines()
    assert [line for line in lines if line in {"begun", "half done", "done"}] == ["begun", "half done", "done"]
    assert "The server does not answer; once more." in lines


def test_connect_without_a_folder_to_write_to_says_so(impasto: Impasto, start: Callable[..., Any]) -> None:
    server = start()
    where = ("--url", server.url, "--data", "/dev/null/x")
    ended = impasto("exec", "--method", "connect", *where, "--", "true")
    assert ended.returncode != 0
    assert "cannot be written" in ended.stderr
    assert "Traceback" not in ended.stderr
