"""`impasto serve` as its users start it, for the benchmarks that ask it: started, watched, measured, ended."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 600.0  # seconds


class Server:
    """`with Server(data, name=value…)`: settings as their environment variables. `born`: when its process was."""

    def __init__(self, data: Path, **settings: str) -> None:
        variables = {f"IMPASTO_{name.upper()}": value for name, value in settings.items()}
        self.data = data
        self.lines: list[str] = []
        self.born = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "impasto.cli", "serve", "--port", "0", "--data", str(data)],
            env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        assert self._process.stdout is not None
        found = (re.search(r"serving (http://\S+)", line) for line in self._process.stdout)
        self.url = next(match[1] for match in found if match)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def get(self, path: str, *, body: dict[str, Any] | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body, over a connection of its own."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def wait_for(self, path: str) -> float:
        """→ epoch seconds at which it first answered 200."""
        return self.until(lambda: self._answers(path))

    def until(self, truth: Callable[[], bool]) -> float:
        end = time.monotonic() + PATIENCE
        while not truth():
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the server ended or hangs:\n" + "\n".join(self.lines[-20:]))
            time.sleep(0.005)
        return time.time()

    def find(self, pattern: str) -> re.Match[str] | None:
        """The latest line of its log that matches."""
        found = (re.search(pattern, line) for line in reversed(self.lines))
        return next((match for match in found if match), None)

    @property
    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of the gateway and of its runner."""
        spent = {"gateway": _cpu(self._process.pid)}
        for child in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            if b"impasto.fleet.runner" in Path(f"/proc/{child}/cmdline").read_bytes():
                spent["runner"] = _cpu(int(child))
        return spent

    def _answers(self, path: str) -> bool:
        try:
            return self.get(path)[0] == 200
        except OSError:
            return False

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip())


def _cpu(pid: int) -> float:
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
