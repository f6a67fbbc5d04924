"""A small server that tells what reached it, and `impasto exec` as a person starts it."""

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from impasto.client import ca

VARIABLES = frozenset(
    [
        *("FAL_KEY", "FAL_KEY_ID", "FAL_KEY_SECRET", "FAL_AI_API_KEY", "PYTHONPATH", "NODE_OPTIONS"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "DENO_CERT"),
        *(f(f"{kind}_proxy") for kind in ("http", "https", "all", "no") for f in (str.lower, str.upper)),
    ]
)


class Echo(BaseHTTPRequestHandler):
    """Answers /healthz as impasto does, /slow in two pieces, everything else with what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/slow":
            return self.slow()
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        said = {"method": self.command, "path": self.path, "body": body, "name": self.server.name}  # type: ignore[attr-defined]
        said["headers"] = {key.lower(): value for key, value in self.headers.items()}
        if self.path == "/healthz":
            said = {"status": "ok", "version": "0"}
        answer = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PUT = do_GET

    def slow(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "6")
        self.end_headers()
        self.wfile.write(b"one")
        assert self.server.go_on.wait(30)  # type: ignore[attr-defined]
        self.wfile.write(b"two")

    def log_message(self, *_: object) -> None:
        pass


class EchoServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, name: str = "impasto", context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.name = name
        self.go_on = threading.Event()
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, *_: object) -> None:
        """A client that refuses our certificate is not this server's failure."""

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of the server that `exec` leads to."""
    echo = EchoServer()
    yield f"http://127.0.0.1:{echo.port}"
    echo.stop()


@pytest.fixture
def echo_server() -> Iterator[Callable[..., EchoServer]]:
    started: list[EchoServer] = []

    def start(name: str = "impasto", context: ssl.SSLContext | None = None) -> EchoServer:
        started.append(EchoServer(name, context))
        return started[-1]

    yield start
    for one in started:
        one.go_on.set()
        one.stop()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ca.Authority:
    return ca.ensure(tmp_path_factory.mktemp("authority") / "tls")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data folder for every `exec --method connect`: the authority is made once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def clean() -> dict[str, str]:
    """The environment of this process without what `exec` reads or sets."""
    return {k: v for k, v in os.environ.items() if k not in VARIABLES and not k.startswith("IMPASTO_")}


@pytest.fixture
def impasto_exec(server: str, data: Path, clean: dict[str, str]) -> Callable[..., list[str]]:
    """The command line of `impasto exec … -- COMMAND`."""

    def build(*command: str, method: str = "shim", url: str | None = None) -> list[str]:
        options = ["--url", url or server, "--method", method, "--data", str(data)]
        return [sys.executable, "-m", "impasto.cli", "exec", *options, "--", *command]

    return build


@pytest.fixture
def execute(
    impasto_exec: Callable[..., list[str]], clean: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `impasto exec -- COMMAND` to its end; `variables` are set for it."""

    def run(
        *command: str, input: str | None = None, variables: dict[str, str] | None = None, **options: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            impasto_exec(*command, **options),
            env={**clean, **(variables or {})},
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def python(execute: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., dict[str, object]]:
    """Runs Python source under exec and reads the JSON that it prints."""

    def run(source: str, **options: object) -> dict[str, object]:
        done = execute(sys.executable, "-c", source, **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits until a condition holds; fails after half a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        for _ in range(600):
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError("it never came true")

    return wait
