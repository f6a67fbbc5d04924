"""How long an image of one key waits while another key is a bad neighbour (issue 15, items 17 and 21).

Starts `impasto serve` with test pictures and two keys. The good key draws one image after the other by the sync run;
meanwhile the bad key has, one case after the other,

    nothing; 200 queued image-to-image requests whose image_url sends a byte a second; 200 requests with such a LoRA
    URL; 8 requests whose first step ends the runner.

    python benchmarks/neighbours.py [--slow 200] [--crashing 8] [--seconds 60] [--only crashing] [--write NAME]

The server is that of the impasto which Python finds: set PYTHONPATH to the `src` of another version to compare.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results/neighbours.json"
CRASHING = """
import os, signal
from impasto.endpoints.custom import NumImages, Prompt, Steps, WireInput, derive

class Input(WireInput):
    prompt: Prompt
    num_inference_steps: Steps = 4
    num_images: NumImages = 1

class Crashing:
    def __init__(self, base):
        self.base = base
    def __getattr__(self, name):
        return getattr(self.base, name)
    def denoise(self, job, conditioning, *, index):
        for step in self.base.denoise(job, conditioning, index=index):
            yield step
            os.kill(os.getpid(), signal.SIGKILL)

def asks(input_):
    return {"prompt": input_.prompt, "image_size": {"width": 128, "height": 96}}

table = [derive("me/crashes", Input=Input, asks=asks, example={"prompt": "a heron"}, pipeline=Crashing)]
"""


def call(url: str, key: str, input_: dict[str, Any], *, timeout: float = 300.0) -> int:
    """POST an input; → the HTTP status."""
    request = urllib.request.Request(
        url,
        json.dumps(input_).encode(),
        {"Authorization": f"Key {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        error.read()
        return error.code


class Site:
    """A server that sends a byte a second, in a thread of its own."""

    def __init__(self) -> None:
        self.url = ""
        self._ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._ready.wait()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(1)


def ask_for(url: str, key: str, seconds: float) -> dict[str, Any]:
    """Seconds that each image of the good key took, one after the other; a last one that never came counts, too."""
    took: list[float] = []
    end = time.monotonic() + seconds
    failed = 0
    while time.monotonic() < end:
        began = time.monotonic()
        input_ = {"prompt": f"image {len(took)}", "image_size": {"width": 128, "height": 96}, "num_inference_steps": 4}
        try:
            failed += call(f"{url}/fal-ai/flux-pro", key, input_, timeout=max(seconds, 60.0)) != 200
        except TimeoutError:
            failed += 1
        took.append(time.monotonic() - began)
        time.sleep(0.2)
    took.sort()
    return {
        "images": len(took),
        "failed": failed,
        "p50, s": round(statistics.median(took), 3),
        "longest, s": round(took[-1], 3),
    }


def measure(case: Callable[[str, str], None], seconds: float, folder: Path) -> dict[str, Any]:
    """One case on a server of its own."""
    data = folder / "data"
    environment = os.environ | {
        "IMPASTO_MODEL_PIPELINE": "fake",
        "IMPASTO_MODEL_FAKE_STEP_SECONDS": "0.02",
        "IMPASTO_AUTH_MODE": "keys",
        "IMPASTO_FETCH_ALLOW": "127.0.0.0/8",
        "IMPASTO_SERVER_ENDPOINTS": "crashing:table",
    }
    (folder / "crashing.py").write_text(CRASHING)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "impasto.cli"]
    keys: list[str] = []
    for alias in ("good", "bad"):
        made = subprocess.run(
            [*command, "keys", "create", "--data", str(data), alias],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = re.search(r"[\w-]+:[\w-]{20,}", made.stdout)
        assert found, made.stdout
        keys.append(found[0])
    server = subprocess.Popen(
        [*command, "serve", "--port", "0", "--data", str(data)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        url = next(found[1] for line in server.stdout if (found := re.search(r"serving (http://\S+)", line)))
        threading.Thread(target=server.stdout.read, daemon=True).start()
        good, bad = keys
        call(f"{url}/fal-ai/flux-pro", good, {"prompt": "the first one waits for the start"})
        case(url, bad)
        return ask_for(url, good, seconds)
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--crashing", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    parser.add_argument("--write", metavar="NAME", help="note the figures under this name in the results")
    arguments = parser.parse_args()
    site = Site()

    def images(url: str, key: str) -> None:
        for number in range(arguments.slow):
            input_ = {"prompt": "a heron", "image_url": f"{site.url}/{number}.png"}
            call(f"{url}/queue/fal-ai/flux/dev/image-to-image", key, input_)

    def loras(url: str, key: str) -> None:
        for number in range(arguments.slow):
            input_ = {"prompt": "a heron", "loras": [{"path": f"{site.url}/{number}.safetensors"}]}
            call(f"{url}/queue/fal-ai/flux-lora", key, input_)

    def crashing(url: str, key: str) -> None:
        for number in range(arguments.crashing):
            call(f"{url}/queue/me/crashes", key, {"prompt": f"poison {number}"})

    cases: dict[str, Callable[[str, str], None]] = {
        "alone": lambda url, key: None,
        f"{arguments.slow} slow image URLs": images,
        f"{arguments.slow} slow LoRA URLs": loras,
        f"{arguments.crashing} crashing requests": crashing,
    }
    found: dict[str, Any] = {}
    for name, case in cases.items():
        if arguments.only not in name:
            continue
        seconds = arguments.seconds if name != "alone" else min(arguments.seconds, 10.0)
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(case, seconds, Path(folder))
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    if arguments.write:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[arguments.write] = found
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
