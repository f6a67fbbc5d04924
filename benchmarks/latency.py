"""Where the time of one request goes, from the first byte sent to the picture in hand, stage by stage.

    python benchmarks/latency.py [--repeats 10] [--size 256 256] [--steps 4]

A real `impasto serve` on loopback with a FLUX.1 in small (`small.py`); a client that runs one request after the other.
The peer, in turns with it, is diffusers' pipeline called directly in this process: same weights, size, steps, one
thread, and a JPEG at the end; no HTTP, no queue, no safety check, nothing kept. The stages' ends are clock readings of
client, database, request log and runner, so they add up to the whole. p50 and p95 in milliseconds; CPU seconds a
request of each process. Every prompt is new but those of the last rounds, which ask for the same words again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the runner has it
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import small
import torch
from diffusers import FluxPipeline
from server import Server

from impasto.flux import precision

RESULTS = Path(__file__).parent / "results" / "latency.json"
ENDPOINT = "/fal-ai/flux-pro"
STAGES = {
    "accept": "HTTP, the request's row on disk",
    "claim": "queue to dispatcher",
    "start": "input checked, message to the runner, prompt check",
    "text_encode": "prompt to text states",
    "denoise": "the steps",
    "decode": "latents to pixels",
    "safety": "the picture is judged",
    "encode": "pixels to JPEG",
    "engine": "the loop between them",
    "store": "file and result on disk",
    "answer": "to the waiting client",
    "fetch": "the file, by its URL",
}
DRAWING = ("text_encode", "denoise", "decode", "encode")
"""What the peer does, too."""


def request(server: Server, prompt: str, options: argparse.Namespace) -> dict[str, float]:
    """One sync run and the fetch of its file → milliseconds of every stage."""
    width, height = options.size
    body = {
        "prompt": prompt, "image_size": {"width": width, "height": height}, "num_inference_steps": options.steps,
        "seed": 7,
    }  # fmt: skip
    sent = time.time()
    status, headers, answer = server.get(ENDPOINT, body=body)
    answered = time.time()
    if status != 200:
        raise SystemExit(f"{status}: {answer!r}")
    server.get(urlsplit(json.loads(answer)["images"][0]["url"]).path)
    fetched = time.time()
    id_ = headers["x-fal-request-id"]
    server.until(lambda: server.find(rf"Request {id_}: inference") is not None)
    found = server.find(rf"Request {id_}: (inference.*) s$")
    assert found is not None
    own = {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([\d.]+)", found[1])}
    created, claimed, ended, began, done = _kept(server.data, id_)
    spent = {name: own[name] for name in ("text_encode", "denoise", "decode", "safety", "encode")}
    seconds = {
        "accept": created - sent, "claim": claimed - created, "start": began - claimed, **spent,
        "engine": done - began - sum(spent.values()), "store": ended - done, "answer": answered - ended,
        "fetch": fetched - answered, "whole": answered - sent,
    }  # fmt: skip
    return {name: value * 1000 for name, value in seconds.items()}


def _kept(data: Path, id_: str) -> tuple[float, float, float, float, float]:
    """Epoch seconds: created, claimed, ended; and of the runner's first and last line."""
    with sqlite3.connect(f"file:{data / 'impasto.sqlite3'}?mode=ro", uri=True) as database:
        row = database.execute(
            "SELECT created_at, started_at, finished_at FROM requests WHERE request_id = ?", (id_,)
        ).fetchone()
        lines = dict(database.execute("SELECT message, timestamp FROM logs WHERE request_id = ?", (id_,)).fetchall())
    began, done = (
        next(
            datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() for m, at in lines.items() if m.startswith(start)
        )
        for start in ("Drawing ", "Done in ")
    )
    return (*row, began, done)


def peer(folder: Path, options: argparse.Namespace) -> Callable[[str], None]:
    pipe = FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    width, height = options.size

    def draw(prompt: str) -> None:
        generator = torch.Generator().manual_seed(7)
        picture = pipe(
            prompt, width=width, height=height, num_inference_steps=options.steps, guidance_scale=3.5,
            max_sequence_length=512, generator=generator,
        ).images[0]  # fmt: skip
        picture.save(io.BytesIO(), "JPEG", quality=95, subsampling=0)

    return draw


def cuts(values: list[float]) -> dict[str, float]:
    p95 = statistics.quantiles(values, n=20, method="inclusive")[18]
    return {"p50": round(statistics.median(values), 2), "p95": round(p95, 2)}


def measure(server: Server, draw: Callable[[str], None], options: argparse.Namespace) -> dict[str, Any]:
    found: list[dict[str, float]] = []
    direct: list[float] = []
    cpu = {"gateway": 0.0, "runner": 0.0, "diffusers": 0.0}
    for number in range(-1, options.repeats):  # the first warms both up
        prompt = f"{number} red apples"
        before = server.cpu
        row = request(server, prompt, options)
        after = server.cpu
        clock, own = time.perf_counter(), time.process_time()
        draw(prompt)
        if number >= 0:
            found.append(row)
            direct.append((time.perf_counter() - clock) * 1000)
            cpu["diffusers"] += time.process_time() - own
            for name in after:
                cpu[name] += after[name] - before[name]
    again = [request(server, "0 red apples", options)["text_encode"] for _ in range(options.repeats)]
    whole, drawn = (statistics.median(row["whole"] for row in found), statistics.median(direct))
    serving = [sum(row[name] for name in STAGES if name not in (*DRAWING, "safety", "fetch")) for row in found]
    return {
        "stages": {name: cuts([row[name] for row in found]) for name in (*STAGES, "whole")},
        "text_encode_cached": cuts(again),
        "diffusers": cuts(direct),
        "serving_adds_ms": cuts(serving),
        "serving_adds_percent_of_diffusers": round(100 * statistics.median(serving) / drawn, 2),
        "whole_over_diffusers": round(whole / drawn, 3),
        "cpu_s": {name: round(seconds / options.repeats, 4) for name, seconds in cpu.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = small.write(Path(name) / "model")
        draw = peer(folder, options)
        settings = {"model_name": str(folder), "model_device": "cpu", "model_threads": "1", "server_log_level": "debug"}
        with Server(Path(name) / "data", **settings) as server:
            server.wait_for("/readyz")
            report = measure(server, draw, options)
    report = {
        "features": sorted(precision.cpu_features()), "load": os.getloadavg(), "repeats": options.repeats,
        "size": list(options.size), "steps": options.steps, "unit": "milliseconds, 1 thread", **report,
    }  # fmt: skip
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"{'stage':<12} {'p50 ms':>10} {'p95 ms':>10}")
    for name, cut in report["stages"].items():
        print(f"{name:<12} {cut['p50']:>10.2f} {cut['p95']:>10.2f}  {STAGES.get(name, '')}")
    for name in ("text_encode_cached", "diffusers", "serving_adds_ms"):
        print(f"{name:<20} {report[name]['p50']:>10.2f} {report[name]['p95']:>10.2f}")
    print(f"serving adds {report['serving_adds_percent_of_diffusers']} % of diffusers' whole picture")
    print(f"CPU seconds a request: {report['cpu_s']}")


if __name__ == "__main__":
    main()
