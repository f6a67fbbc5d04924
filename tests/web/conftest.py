"""The pages in a real browser, against `impasto serve` as a person starts it. Any request that leaves the server, any
line in the console and any failed load ends the test that caused it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Page,
    Request,
    Response,
    Route,
    expect,
    sync_playwright,
)

IMPASTO = [sys.executable, "-m", "impasto.cli"]
PATIENCE = 60_000  # milliseconds: other work may share the machine
STEP = "0.03"  # seconds: a picture of 28 steps takes long enough to watch

expect.set_options(timeout=PATIENCE)


class Server:
    """`impasto serve` with test pictures that take their time."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.variables = folder, variables
        self.start()

    def start(self, port: int = 0) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("IMPASTO_", "FAL_"))}
        self.process = subprocess.Popen(
            [*IMPASTO, "serve", "--port", str(port), "--data", str(self.folder)],
            env=environment
            | {"IMPASTO_MODEL_PIPELINE": "fake", "IMPASTO_MODEL_FAKE_STEP_SECONDS": STEP}
            | {"IMPASTO_SERVER_DRAIN_SECONDS": "1"}
            | self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = next(found[1] for line in self.process.stdout if (found := re.search(r"serving (http://\S+)", line)))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def restart(self) -> None:
        self.stop()
        self.start(int(self.url.rpartition(":")[2]))


@pytest.fixture(scope="session")
def serve() -> Callable[..., Server]:
    """Starts a server of a test's own; who starts it stops it."""
    return Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("pages"))
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")  # Playwright holds an event loop while it lives, and other rooms' tests need theirs
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking", "--disable-quic"]
        )
        yield browser
        browser.close()


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.fail("no Chromium is installed; scripts/test installs it", pytrace=False)


class Watched:
    """A page whose every complaint is written down."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page, self.origin = page, origin
        self.complaints: list[str] = []
        self.expected: set[int] = set()  # statuses that a test provokes
        page.set_default_timeout(PATIENCE)
        page.on("console", self._said)
        page.on("pageerror", self._broke)
        page.on("request", self._asked)
        page.on("response", self._answered)

    def _said(self, message: ConsoleMessage) -> None:
        provoked = message.text.startswith("Failed to load resource") and self.expected
        if message.type in {"error", "warning"} and not provoked:
            self.complaints.append(f"console {message.type}: {message.text}")

    def _broke(self, error: Error) -> None:
        self.complaints.append(f"uncaught: {error}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.complaints.append(f"left the machine: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.complaints.append(f"{response.status} {response.url}")


Open = Callable[..., Page]


@pytest.fixture
def visit(server: Server, browser: Browser) -> Iterator[Open]:
    """`visit("/path", width=390, dark=True)` → a page of a fresh browser profile, watched until the test ends."""
    opened: list[tuple[Any, Watched]] = []

    def visit(
        path: str = "/",
        *,
        width: int = 1280,
        dark: bool = False,
        expected: tuple[int, ...] = (),
        origin: str | None = None,
    ) -> Page:
        base = origin or server.url
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", base_url=base
        )
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=base)
        page = context.new_page()
        watched = Watched(page, base)
        watched.expected = set(expected)
        opened.append((context, watched))
        page.goto(path)
        return page

    yield visit
    for context, watched in opened:
        context.close()
        assert watched.complaints == []


class Held:
    """The page's calls of `path`, which wait until the test lets them go. A handler that sleeps would stop the test as
    well, and what the test does next would meet a page that went on in between.
    """

    def __init__(self, page: Page, path: str, *, times: int | None = None) -> None:
        self._page = page
        self._routes: list[Route] = []
        page.route(path, lambda route: self._routes.append(route), times=times)

    def next(self) -> Route:
        """The first one that waits. The page may have made it a moment before it is held."""
        for _ in range(PATIENCE // 20):
            if self._routes:
                return self._routes.pop(0)
            self._page.wait_for_timeout(20)
        raise AssertionError("the page made no such call")

    def __len__(self) -> int:
        return len(self._routes)


@pytest.fixture(scope="session")
def hold() -> Callable[..., Held]:
    """`hold(page, "**/path", times=1)`: that many calls wait, each for `.next().continue_()`."""
    return Held
