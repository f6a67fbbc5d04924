"""From the start of a process to its first picture, stage by stage.

    python benchmarks/coldstart.py [--repeats 3]

Ours: `impasto serve` until it listens, answers /healthz, has loaded its model, and has drawn a 256x256 picture in 4
steps for a client; with the embedded model, and with a FLUX.1 in small (`small.py`). The peer loads the latter with
diffusers and draws the same picture, without a server. The floor is `import torch` alone. All in turns, one thread,
files in the page cache. Least of the repeats: wall seconds since the start, and CPU seconds of all its processes,
which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the runner has it
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from server import Server

RESULTS = Path(__file__).parent / "results" / "coldstart.json"
BODY = {
    "prompt": "a red apple", "image_size": {"width": 256, "height": 256}, "num_inference_steps": 4, "seed": 7
}  # fmt: skip
TORCH = "import torch"
DIFFUSERS = """
import sys, torch
from diffusers import FluxPipeline
torch.set_num_threads(1)
pipe = FluxPipeline.from_pretrained(sys.argv[1])
pipe("a red apple", width=256, height=256, num_inference_steps=4, max_sequence_length=512).images[0].save(sys.argv[2])
"""
Row = dict[str, float]


def python(code: str, *arguments: str) -> Row:
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{code}\nended with {status}")
    return {"whole": time.perf_counter() - start, "CPU": usage.ru_utime + usage.ru_stime}


def ours(model: str) -> Row:
    with tempfile.TemporaryDirectory() as data:
        settings = {"model_name": model, "model_device": "cpu", "model_threads": "1", "server_log_level": "debug"}
        with Server(Path(data), **settings) as server:
            row = {"listening": time.time() - server.born}
            row["/healthz"] = server.wait_for("/healthz") - server.born
            row["/readyz"] = server.wait_for("/readyz") - server.born
            status, _, answer = server.get("/fal-ai/flux-pro", body=BODY)
            row["whole"] = time.time() - server.born
            if status != 200:
                raise SystemExit(f"{status}: {answer!r}")
            row["CPU"] = sum(server.cpu.values())
            stages = server.find(r"Start: (.*) s$")
            assert stages is not None
            for name, seconds in re.findall(r"([\w-]+) ([\d.]+)", stages[1]):
                row[f"runner: {name}"] = float(seconds)
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(
            [sys.executable, "-c", "import small, sys; from pathlib import Path; small.write(Path(sys.argv[1]))", name],
            cwd=Path(__file__).parent, check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        runs: dict[str, Callable[[], Row]] = {
            "import torch": lambda: python(TORCH),
            "diffusers, FLUX in small": lambda: python(DIFFUSERS, name, str(Path(name) / "out.jpeg")),
            "serve, FLUX in small": lambda: ours(name),
            "serve, impasto-mini": lambda: ours("impasto-mini"),
        }
        found: dict[str, list[Row]] = {what: [] for what in runs}
        for _ in range(options.repeats):
            for what, run in runs.items():
                found[what].append(run())
    report: dict[str, Any] = {
        "load": os.getloadavg(), "repeats": options.repeats, "unit": "seconds, 1 thread, least of the repeats",
        "rows": {
            what: {name: round(min(row[name] for row in rows), 3) for name in rows[0]} for what, rows in found.items()
        },
    }  # fmt: skip
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for what, row in report["rows"].items():
        print(what)
        for stage, seconds in row.items():
            print(f"    {stage:<20} {seconds:>8.2f}")


if __name__ == "__main__":
    main()
