"""Hostile uploads in a real browser (reliability 7: S9): opened, framed, embedded or included, none of them runs."""

from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from shutil import which
from threading import Thread
from typing import Any

import httpx
import pytest
from PIL import Image

RUN = "top.postMessage('ran', '*'); document.title = 'ran'"
SCRIPT = f"<script>{RUN}</script>".encode()


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    "HTML": (b"<!doctype html>" + SCRIPT, "text/html"),
    "HTML as PNG": (b"<!doctype html>" + SCRIPT, "image/png"),
    "HTML as text": (b"<!doctype html>" + SCRIPT, "text/plain"),
    "PNG with HTML behind it": (png() + b"<html>" + SCRIPT, "text/html"),
    "PNG that goes on as HTML": (png()[:16] + b"<html>" + SCRIPT, "image/png"),
    "SVG": (f'<svg xmlns="http://www.w3.org/2000/svg"><script>{RUN}</script></svg>'.encode(), "image/svg+xml"),
    "GIF that is JavaScript": (f"GIF89a=1;{RUN}//".encode(), "image/gif"),
    "JavaScript": (RUN.encode(), "text/javascript"),
    "JavaScript as JSON": (RUN.encode(), "application/json"),
    "a style sheet": (b"body { display: none }", "text/css"),
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is for its results."""


def test_nothing_that_was_uploaded_runs_in_chromium(server: Any, tmp_path: Path) -> None:
    from playwright.sync_api import Error, sync_playwright

    path = which("chromium") or which("google-chrome")
    if path is None:
        pytest.fail("Chromium is not installed; scripts/test installs it", pytrace=False)
    urls: dict[str, str] = {}
    for name, (data, type_) in FILES.items():
        answer = httpx.post(f"{server.url}/files/upload", content=data, headers={"Content-Type": type_})
        urls[name] = answer.json()["access_url"]
    for number, url in enumerate(urls.values()):
        (tmp_path / f"{number}.html").write_text(
            f"""<!doctype html><title>quiet</title><link rel=stylesheet href="{url}"><body>
            <script>window.said = []; addEventListener("message", (event) => said.push(event.data));</script>
            <script src="{url}"></script><script type=module src="{url}"></script>
            <iframe src="{url}"></iframe><object data="{url}"></object><embed src="{url}"><img src="{url}">"""
        )
    (tmp_path / "control.js").write_text(RUN)
    (tmp_path / "control.html").write_text((tmp_path / "0.html").read_text().replace(urls["HTML"], "control.js"))
    pages = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    Thread(target=pages.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{pages.server_port}"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])

            def outcome(name: str) -> list[Any]:
                page = browser.new_page()
                page.goto(f"{origin}/{name}.html")
                said = [page.title(), page.evaluate("said"), page.evaluate("getComputedStyle(document.body).display")]
                page.close()
                return said

            ran = outcome("control")
            assert ran[0] == "ran", "what we look for is seen when it happens"
            assert "ran" in ran[1]
            for number, name in enumerate(urls):
                assert outcome(str(number)) == ["quiet", [], "block"], name
            for name, url in urls.items():
                page = browser.new_page()
                with suppress(Error):  # a download is no navigation
                    page.goto(url)
                assert page.title() != "ran", name
                page.close()
            browser.close()
    finally:
        pages.shutdown()
        pages.server_close()
