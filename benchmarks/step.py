"""One pass of the transformer and one decoding, ours against diffusers (eager): same weights, dtype, threads, run.

    python benchmarks/step.py [--threads 1 2] [--picture]

The shapes are the embedded model's for 1024x1024: 64 image and 32 text tokens, the guidance pair. Runs of the two sides
alternate and the fastest of each is compared: on a shared machine the minimum is what the code costs.
`--picture` also draws one whole 1024x768 picture in 28 steps with the shipped weights and prints its stages.
Prints a table and writes benchmarks/results/step.json. Needs `pip install diffusers`.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the runner has it
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
import twins

from impasto.engine.drawing import Finisher, draw
from impasto.engine.job import Job
from impasto.engine.loading import load_pipeline
from impasto.engine.safety import Safety
from impasto.files.images import encode
from impasto.flux import latents as lat
from impasto.flux import precision
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.keys import autoencoder_rows, to_diffusers, transformer_rows
from impasto.flux.models import IMPASTO_MINI
from impasto.flux.transformer import Flux
from impasto.settings import ModelSettings, SafetySettings

RESULTS = Path(__file__).parent / "results" / "step.json"
SIDE = 128  # native pixels
TEXT_TOKENS = 32


def transformers(dtype: torch.dtype) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(ours, theirs): one pass with guidance through two prompts."""
    params = IMPASTO_MINI.transformer
    ours = Flux(params).eval()
    theirs = twins.transformer(params)
    theirs.load_state_dict(to_diffusers(ours.state_dict(), transformer_rows(params)))
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    img = torch.randn(2, lat.token_count(SIDE, SIDE), params.in_channels, dtype=dtype)
    txt = torch.randn(2, TEXT_TOKENS, params.context_in_dim, dtype=dtype)
    vec = torch.randn(2, params.vec_in_dim, dtype=dtype)
    time_ = torch.full((2,), 0.5)
    img_ids, txt_ids = lat.image_ids(SIDE, SIDE), lat.text_ids(TEXT_TOKENS)
    return (
        lambda: ours(img, img_ids, txt, txt_ids, time_, vec),
        lambda: theirs(
            hidden_states=img,
            encoder_hidden_states=txt,
            pooled_projections=vec,
            timestep=time_.to(dtype),
            img_ids=img_ids,
            txt_ids=txt_ids,
            return_dict=False,
        ),
    )


def decoders(dtype: torch.dtype) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(ours, theirs): one decoding. diffusers runs as it comes, in NCHW; ours is channels_last."""
    params = IMPASTO_MINI.autoencoder
    ours = Autoencoder(params).eval()
    theirs = twins.autoencoder(params)
    theirs.load_state_dict(to_diffusers(ours.state_dict(), autoencoder_rows(params)))
    ours, theirs = ours.to(dtype).channels_last(), theirs.to(dtype)
    latents = torch.randn(1, params.z_channels, SIDE // 8, SIDE // 8, dtype=dtype)
    return lambda: ours.decode(latents), lambda: theirs.decode(latents, return_dict=False)


def fastest(ours: Callable[[], Any], theirs: Callable[[], Any], *, runs: int = 40) -> tuple[float, float]:
    """Milliseconds of the fastest run of each; the runs alternate."""
    best = [float("inf"), float("inf")]
    for _ in range(runs):
        for side, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            best[side] = min(best[side], 1000 * (time.perf_counter() - start))
    return best[0], best[1]


def picture(threads: int) -> dict[str, float]:
    """Seconds of each stage of one picture with the shipped weights; the model was loaded and warmed up before."""
    pipeline = load_pipeline(ModelSettings(threads=threads))
    finisher = Finisher(Safety.load(SafetySettings()), encode)
    job = Job(
        request_id="benchmark",
        model=IMPASTO_MINI.name,
        prompt="a red apple",
        width=1024,
        height=768,
        steps=28,
        guidance=3.5,
        seed=7,
    )
    draw(job, pipeline=pipeline, finisher=finisher)
    pipeline.free_memory()  # the prompt is read anew
    return draw(job, pipeline=pipeline, finisher=finisher).timings


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--picture", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    report: dict[str, Any] = {
        "machine": platform.machine(),
        "features": sorted(precision.cpu_features()),
        "torch": torch.__version__,
        "rows": [],
    }
    print(f"{'what':<12} {'dtype':<9} {'threads':>7} {'ours ms':>9} {'diffusers ms':>13} {'ratio':>6}")
    for name, make in (("transformer", transformers), ("decode", decoders)):
        for dtype in (torch.float32, torch.bfloat16):
            ours, theirs = make(dtype)
            for threads in options.threads:
                torch.set_num_threads(threads)
                mine, peer = fastest(ours, theirs)
                label = str(dtype).removeprefix("torch.")
                row = {"what": name, "dtype": label, "threads": threads, "ours_ms": mine, "diffusers_ms": peer}
                report["rows"].append(row)
                print(f"{name:<12} {label:<9} {threads:>7} {mine:>9.1f} {peer:>13.1f} {peer / mine:>6.2f}")
    if options.picture:
        report["picture_seconds"] = {str(threads): picture(threads) for threads in options.threads}
        for threads, stages in report["picture_seconds"].items():
            print(f"1024x768, 28 steps, {threads} thread(s):", ", ".join(f"{k} {v:.2f} s" for k, v in stages.items()))
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
