"""The model page's own JavaScript, cut out of a copy of the page and run as it stands there."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

PAGE = (Path(__file__).parent / "fixtures" / "flux-pro-api-page.txt").read_text()
IMPORT = 'import { fal } from "@fal-ai/client";'
REQUEST_ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"


def snippets() -> list[str]:
    """Every code block of the page: the import, an empty line, statements up to the next empty line."""
    found = []
    for piece in PAGE.split(IMPORT)[1:]:
        statements = piece.strip("\n").partition("\n\n")[0]
        found.append(f"{IMPORT}\n\n{statements}\n")
    return found


def snippet(call: str) -> str:
    (one,) = [text for text in snippets() if call in text]
    return one


Run = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def run(execute: Callable[..., Any], node_program: Callable[[str], Path]) -> Run:
    return lambda source: execute("node", str(node_program(source)))


def test_the_page_has_the_snippets_that_we_know() -> None:
    calls = [
        "fal.subscribe(",
        "fal.config(",
        "fal.queue.submit(",
        "fal.queue.status(",
        "fal.queue.result(",
        "fal.storage.",
    ]
    assert len(snippets()) == len(calls)
    assert all(call in text for call, text in zip(calls, snippets(), strict=True))


def test_subscribe(run: Run, picture: Callable[..., Any], check_output: Callable[..., None]) -> None:
    source = snippet("fal.subscribe(")
    done = run(source)
    assert done.returncode == 0, done.stderr
    assert "images: [" in done.stdout
    assert len(done.stdout.splitlines()[-1]) == 36  # console.log(result.requestId)
    done = run(source + "\nconsole.log(JSON.stringify(result.data));")
    output = json.loads(done.stdout.splitlines()[-1])
    check_output(output, prompt=json.loads(source.partition("prompt: ")[2].partition("\n")[0]))
    assert picture(output["images"][0]).size == (1024, 768)


def test_config(run: Run) -> None:
    done = run(snippet("fal.config("))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_submit(run: Run) -> None:
    done = run(snippet("fal.queue.submit(") + "\nconsole.log(request_id);")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) == 36


@pytest.mark.parametrize("call", ["fal.queue.status(", "fal.queue.result("])
def test_the_pages_request_id_is_unknown_here(run: Run, call: str) -> None:
    """The page names a request of somebody else's: a program that asks for it gets fal's answer for that."""
    done = run(snippet(call))
    assert done.returncode == 1
    assert "ApiError: Not Found" in done.stderr
    assert "status: 404" in done.stderr


def test_status_and_result_of_a_request_of_ones_own(run: Run, check_output: Callable[..., None]) -> None:
    """The page's three snippets in a row, with the request id that the first one got in the place of the page's."""
    submit = snippet("fal.queue.submit(")
    mine = run(submit + "\nconsole.log(request_id);").stdout.strip()
    done = run(snippet("fal.queue.status(").replace(REQUEST_ID, mine) + "\nconsole.log(JSON.stringify(status));")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["request_id"] == mine
    assert status["status"] in {"IN_QUEUE", "IN_PROGRESS", "COMPLETED"}
    until = "for (;;) { const { status } = await fal.queue.status('fal-ai/flux-pro', { requestId: '%s' });"
    until += " if (status === 'COMPLETED') break; await new Promise((go) => setTimeout(go, 50)); }"
    source = snippet("fal.queue.result(").replace(REQUEST_ID, mine) + "\nconsole.log(JSON.stringify(result.data));"
    done = run(source.replace("const result", f"{until % mine}\nconst result"))
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout.splitlines()[-1])
    check_output(output, prompt=json.loads(submit.partition("prompt: ")[2].partition("\n")[0]))
    assert mine in done.stdout.splitlines()


def test_upload(run: Run) -> None:
    done = run(snippet("fal.storage.") + "\nconsole.log(url);")
    assert done.returncode == 0, done.stderr
    answer = httpx.get(done.stdout.strip())
    assert answer.text == "Hello, World!"
    assert answer.headers["content-type"].partition(";")[0] == "text/plain"


def test_the_pages_example_input_draws_what_it_says(
    server: Any, picture: Callable[..., Any], check_output: Callable[..., None]
) -> None:
    example, _ = json.JSONDecoder().raw_decode(PAGE, PAGE.index('{\n  "prompt": "Extreme'))
    answer = httpx.post(f"{server.url}/fal-ai/flux-pro", json=example, timeout=60)
    assert answer.status_code == 200
    check_output(answer.json(), prompt=example["prompt"])
    assert picture(answer.json()["images"][0]).size == (1024, 768)
