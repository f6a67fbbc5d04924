"""A server process for the tests of the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

IMPASTO = [sys.executable, "-P", "-m", "impasto.cli"]  # -P: as the installed program, which imports nothing from here


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("IMPASTO_")} | {
        "IMPASTO_MODEL_PIPELINE": "fake",
        **more,
    }


class Server:
    """One `impasto serve` with the fake pipeline; stopped with SIGTERM at the end."""

    def __init__(self, folder: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> None:
        self.process = subprocess.Popen(
            [*IMPASTO, "serve", "--port", "0", "--data", str(folder), *arguments],
            env=environment(**variables),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self._url()

    def _url(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"serving (http://\S+)", line):
                return found[1]
        assert self.process.stderr is not None
        raise AssertionError(f"no URL printed; stderr:\n{self.process.stderr.read()}")

    def get(self, path: str, *, body: dict[str, object] | None = None, key: str = "local:local") -> tuple[int, dict]:
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Key {key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.get("/readyz")[0] == 200:
                return
            time.sleep(0.05)
        raise AssertionError("never ready")

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(*arguments: str, folder: Path | None = None, cwd: Path | None = None, **variables: str) -> Server:
        servers.append(Server(folder or tmp_path / "data", *arguments, cwd=cwd, **variables))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            server.stop()
        for stream in (server.process.stdout, server.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def impasto() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command to its end: `impasto("keys", "list")`."""

    def run(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*IMPASTO, *arguments],
            env=environment(**variables),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def refused(impasto: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """stderr of a start that must fail with exit status 2."""

    def run(*arguments: str, **variables: str) -> str:
        ended = impasto(*arguments, **variables)
        assert ended.returncode == 2, ended
        assert "Traceback" not in ended.stderr
        return ended.stderr

    return run
