"""The clients that judge us, unmodified, against `impasto serve` as a person starts it.

Programs run under `impasto exec`, in processes of their own, and print JSON. Nothing here knows impasto's Python.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from io import BytesIO
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # --import-mode=importlib: neighbours are not importable by themselves
import matrix

HERE = Path(__file__).parent
NODE = HERE / "node"
OLD_CLIENTS = HERE / ".venv-clients"  # ignored by git, as .venv* is
IMPASTO = [sys.executable, "-m", "impasto.cli"]
PATIENCE = 120

Program = Callable[..., Any]
seen = matrix.Seen()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-matrix", action="store_true", help="write docs/reference/clients.md from this run")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "matrix(client, verb): the cell of docs/reference/clients.md that a test proves")


def pytest_deselected(items: list[pytest.Item]) -> None:
    if any(True for item in items for _ in item.iter_markers("matrix")):
        seen.whole = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen.expected |= {mark.args for item in items for mark in item.iter_markers("matrix")}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    cells = {mark.args for mark in item.iter_markers("matrix")}
    if report.failed:
        seen.failed |= cells
    elif report.when == "call" and report.passed:
        seen.passed |= cells
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    sent: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if sent is None:
        matrix.judge(session, seen)
    else:  # a worker of pytest-xdist sees a share only: tests/conftest.py judges the whole
        sent["matrix"] = seen.dump()


def environment(**more: str) -> dict[str, str]:
    """Ours without any key and setting of the developer's."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("IMPASTO_", "FAL_"))} | more


class Server:
    """`impasto serve` with the test pictures; `url` is what it prints."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.log = (folder / "server.log").open("w+")
        self.process = subprocess.Popen(
            [*IMPASTO, "serve", "--port", "0", "--data", str(folder)],
            env=environment(IMPASTO_MODEL_PIPELINE="fake", **variables),
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.url = self._printed_url()

    def _printed_url(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"serving (http://\S+)", line):
                return found[1]
        self.stop()
        raise AssertionError(f"impasto serve printed no URL; its log:\n{(self.folder / 'server.log').read_text()}")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return status


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"), IMPASTO_SERVER_DRAIN_SECONDS="1")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server that asks for keys, and a key of its own."""
    folder = tmp_path_factory.mktemp("locked")
    made = subprocess.run(
        [*IMPASTO, "keys", "create", "ci", "--data", str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    running = Server(folder, IMPASTO_AUTH_MODE="keys")
    yield running, made.stdout.strip()
    assert running.stop() == 0


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers on one data folder, one after the other; the last one is stopped."""
    started: list[Server] = []

    def start(**variables: str) -> Server:
        started.append(Server(tmp_path / "server", **variables))
        return started[-1]

    (tmp_path / "server").mkdir()
    yield start
    if started:
        assert started[-1].stop() == 0


@pytest.fixture
def impasto(server: Server) -> Callable[..., str]:
    """Runs `impasto ARGUMENTS` on the data folder of the running server; → what it prints."""

    def run(*arguments: str) -> str:
        command = [*IMPASTO, *arguments, "--data", str(server.folder)]
        return subprocess.check_output(command, env=environment(), text=True, timeout=PATIENCE).strip()

    return run


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="session")
def execute(server: Server, certificates: Path) -> Program:
    """Runs COMMAND under `impasto exec`, → the finished process."""

    def run(
        *command: str, url: str | None = None, method: str = "shim", variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        options = ["--url", url or server.url, "--method", method, "--data", str(certificates)]
        return subprocess.run(
            [*IMPASTO, "exec", *options, "--", *command],
            env=environment(**(variables or {})),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run


def printed(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON in the last line that the program printed."""
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def python(execute: Program) -> Program:
    """Runs a Python program under `impasto exec`; it calls `out(value)` once, at its end."""

    def run(source: str, *, client: str | None = None, interpreter: Path | None = None, **options: Any) -> Any:
        head = "import json\ndef out(value): print(json.dumps(value, default=vars))\n"
        if interpreter is not None:
            return printed(execute(str(interpreter), "-c", head + dedent(source), **options))
        if client is not None:
            options["variables"] = {"PYTHONPATH": str(_old_client(client)), **options.get("variables", {})}
        strictly = ["-W", "error"] if client is None else []  # older ones use what is deprecated today
        return printed(execute(sys.executable, *strictly, "-c", head + dedent(source), **options))

    return run


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The clients of package.json, installed as the lock file says."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.fail(
                f"{tool} is not installed; the conformance tests need Node.js 20 or later with npm", pytrace=False
            )
    modules = NODE / "node_modules"
    stamp = modules / ".package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < (NODE / "package-lock.json").stat().st_mtime:
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts"], cwd=NODE, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode != 0:
            pytest.fail(f"`npm ci` in {NODE} failed; it needs a package registry:\n{done.stderr}", pytrace=False)
    return modules


@pytest.fixture
def node_program(node_modules: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a program next to the installed clients."""
    (tmp_path / "node_modules").symlink_to(node_modules)

    def write(source: str, name: str = "app.mjs") -> Path:
        file = tmp_path / name
        file.write_text(source)
        return file

    return write


@pytest.fixture
def node(execute: Program, node_program: Callable[[str], Path]) -> Program:
    """Runs a Node.js program under `impasto exec`; it calls `out(value)` once, at its end."""

    def run(source: str, **options: Any) -> Any:
        head = "import { fal } from '@fal-ai/client';\nconst out = (value) => console.log(JSON.stringify(value));\n"
        return printed(execute("node", str(node_program(head + dedent(source))), **options))

    return run


def _old_client(version: str) -> Path:
    """fal-client of `version` in a folder of its own; what it needs else is there with the current one."""
    folder = OLD_CLIENTS / version
    if not folder.exists():
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder), f"fal-client=={version}"],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.fail(
                f"fal-client {version} cannot be installed; it needs a package index:\n{done.stderr}", pytrace=False
            )
    return folder


@pytest.fixture(scope="session")
def interpreter() -> Callable[[str], Path]:
    """The Python of an environment of its own with what `clients/NAME.txt` lists: packages that fit nobody else's."""

    def find(name: str) -> Path:
        folder, wanted = OLD_CLIENTS / name, HERE / "clients" / f"{name}.txt"
        stamp = folder / "installed.txt"
        if not stamp.exists() or stamp.read_text() != wanted.read_text():
            pip = [str(folder / "bin" / "pip"), "install", "-q", "--no-deps", "-r", str(wanted)]
            for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], pip):
                done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
                if done.returncode != 0:
                    message = f"{wanted} cannot be installed; it needs a package index:\n{done.stderr}"
                    pytest.fail(message, pytrace=False)
            stamp.write_text(wanted.read_text())
        return folder / "bin" / "python"

    return find


@pytest.fixture(scope="session")
def picture() -> Callable[[dict[str, Any]], Image.Image]:
    """Downloads and decodes one of `images`; its size and type are what the output says."""

    def read(image: dict[str, Any]) -> Image.Image:
        answer = httpx.get(image["url"])
        assert answer.status_code == 200
        assert answer.headers["content-type"] == image["content_type"]
        decoded = Image.open(BytesIO(answer.content))
        decoded.load()
        assert decoded.size == (image["width"], image["height"])
        assert f"image/{str(decoded.format).lower()}" == image["content_type"]
        return decoded

    return read


@pytest.fixture(scope="session")
def check_output() -> Callable[..., None]:
    """The output schema of the page: every member, its type, as many flags as pictures."""

    def check(output: dict[str, Any], *, prompt: str, count: int = 1) -> None:
        assert len(output["images"]) == count
        assert [type(flag) for flag in output["has_nsfw_concepts"]] == [bool] * count
        assert output["prompt"] == prompt
        assert type(output["seed"]) is int
        assert 0 <= output["seed"] < 2**53
        assert output["timings"]
        assert all(isinstance(seconds, float | int) and seconds >= 0 for seconds in output["timings"].values())

    return check
