"""What a prompt costs that has been read before: the cache beside the text encoders, and beside diffusers.

    python benchmarks/prompts.py [--repeats 15]

A FLUX.1 in small (`small.py`: T5 and CLIP, 512 tokens) and the embedded model, through the runner's own pipeline. The
peer is diffusers' `encode_prompt` with the same weights, which reads every time. One thread, CPU milliseconds, least of
interleaved repeats; what comes out of the cache must be equal, bit for bit, to what the encoder says.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import small
import torch
from diffusers import FluxPipeline as Diffusers

from impasto.engine.flux import FluxPipeline
from impasto.engine.job import Job
from impasto.engine.loading import load_pipeline
from impasto.settings import ModelSettings

RESULTS = Path(__file__).parent / "results" / "prompts.json"
PROMPT = "two red apples and a blue boat on a lake"


def job(scope: str) -> Job:
    return Job(
        request_id="r", model="any", prompt=PROMPT, width=256, height=256, steps=1, guidance=3.5, seed=1, scope=scope
    )


def runs(pipeline: FluxPipeline) -> dict[str, Callable[[], Any]]:
    known, new = pipeline.encode(job("a")).value.text, pipeline.encode(job("")).value.text
    if not (torch.equal(known.txt, new.txt) and torch.equal(known.vec, new.vec)):
        raise SystemExit("the cache changes the states")
    return {"read": lambda: pipeline.encode(job("")), "cached": lambda: pipeline.encode(job("a"))}


def least(tasks: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.process_time()
            task()
            best[name] = min(best[name], 1000 * (time.process_time() - start))
    return {name: round(ms, 3) for name, ms in best.items()}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report: dict[str, Any] = {"unit": "CPU milliseconds a prompt, 1 thread, least of interleaved repeats"}
    with tempfile.TemporaryDirectory() as folder:
        small.write(Path(folder))
        peer = Diffusers.from_pretrained(folder, transformer=None, vae=None)
        torch.set_num_threads(1)
        for name in (folder, "impasto-mini"):
            pipeline = load_pipeline(ModelSettings(name=name, device="cpu", threads=1))
            assert isinstance(pipeline, FluxPipeline)
            tasks = runs(pipeline)
            if name == folder:
                tasks["diffusers"] = lambda: peer.encode_prompt(PROMPT, prompt_2=PROMPT, max_sequence_length=512)
            row = least(tasks, options.repeats) | {"bytes": pipeline.counters["prompt_cache_bytes"]}
            report["impasto-mini" if name != folder else "FLUX in small"] = row
            print(report["impasto-mini" if name != folder else "FLUX in small"], flush=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
