"""fal's own package `fal`: `fal.apps` runs, submits, streams and speaks HTTP over WebSocket, under `impasto exec`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Program = Callable[..., Any]
NAME = "fal 1.83.0 (fal.apps)"
PROMPT = "a lighthouse at night"
VERBS = ("run", "submit", "status", "result", "logs", "cancel", "stream", "realtime", "ws", "errors")

# The package writes what it hears on a socket to standard output: `out` comes last.
PROGRAM = """
import json, traceback
import fal.apps as f
import httpx
app, small, big = "fal-ai/flux-pro", {"prompt": PROMPT, "image_size": "square"}, BIG

def run(): return f.run(app, small)
def submit():
    handle = f.submit(app, small, path="/v1.1")
    return {"id": handle.request_id, "app": handle.app_id, "output": handle.get()}
def status():
    handle = f.submit(app, small)
    names = [type(event).__name__ for event in handle.iter_events(logs=True)]
    return [*names, type(handle.status()).__name__]
def result():
    handle = f.submit(app, small)
    handle.get()
    return handle.fetch_result()
def logs():
    handle = f.submit(app, small)
    for _ in handle.iter_events(): pass
    return [log["message"] for log in handle.status(logs=True).logs]
def cancel():
    busy = [f.submit(app, big) for _ in range(2)]
    handle = f.submit(app, small)
    handle.cancel()
    for one in busy: one.cancel()
    last = None
    while not isinstance(last, f.Completed): last = handle.status()
    try:
        handle.fetch_result()
    except httpx.HTTPStatusError as error:
        return [last.error_type, error.response.status_code]
def stream():
    lines = [line for line in f.stream(app, small, path="stream") if line.startswith("data:")]
    return json.loads(lines[-1][5:])
def realtime():
    with f._connect(app) as connection:
        answer = connection.run(small)
    return [sorted(answer), len(answer["images"][0]["content"])]
def ws():
    with f.ws(app) as connection:
        outputs = [json.loads(connection.run(small)) for _ in range(2)]
        connection.send({"prompt": PROMPT, "num_images": 99})
        return {"outputs": outputs, "refused": json.loads(b"".join(connection.stream()))}
def errors():
    handle = f.submit(app, {"prompt": PROMPT, "num_images": 99})
    try:
        handle.get()
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]

said = {}
for verb in VERBS:
    try: said[verb] = {"value": globals()[verb]()}
    except Exception: said[verb] = {"error": traceback.format_exc()}
out(said)
"""
BIG = {"prompt": PROMPT, "num_images": 4, "image_size": {"width": 2048, "height": 2048}, "num_inference_steps": 50}


@pytest.fixture(scope="session")
def said(python: Program, interpreter: Callable[[str], Path]) -> Callable[[str], dict[str, Any]]:
    """What the program printed under a method of exec; it is run once for each."""
    known: dict[str, dict[str, Any]] = {}

    def run(method: str) -> dict[str, Any]:
        if method not in known:
            head = f"PROMPT, BIG, VERBS = {PROMPT!r}, {BIG!r}, {VERBS!r}\n"
            known[method] = python(head + PROGRAM, interpreter=interpreter("fal"), method=method)
        return known[method]

    return run


@pytest.mark.parametrize(
    ("method", "verb"),
    [
        pytest.param(method, verb, marks=pytest.mark.matrix(NAME, verb))
        for method in ("shim", "connect")
        for verb in VERBS
    ],
)
def test_fal_apps(said: Callable[[str], dict[str, Any]], check_output: Program, method: str, verb: str) -> None:
    answer = said(method)[verb]
    assert "error" not in answer, answer["error"]
    value = answer["value"]
    match verb:
        case "run" | "result" | "stream":
            check_output(value, prompt=PROMPT)
        case "submit":
            assert len(value["id"]) == 36
            assert value["app"] == "fal-ai/flux-pro"
            check_output(value["output"], prompt=PROMPT)
        case "status":
            assert value[-1] == "Completed"
            assert set(value[:-1]) <= {"Queued", "InProgress"}
        case "logs":
            assert value[-1].startswith("Done in")
        case "cancel":
            assert value == ["client_cancelled", 499]
        case "realtime":
            assert {"images", "seed"} <= set(value[0])
            assert value[1] > 100
        case "ws":
            for output in value["outputs"]:
                check_output(output, prompt=PROMPT)
            assert value["refused"]["detail"][0]["loc"] == ["body", "num_images"]
        case "errors":
            assert value[0] == 422
            assert "num_images" in value[1]
        case _:
            raise AssertionError(f"nothing is known of {verb}")
