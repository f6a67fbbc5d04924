"""Step caching with the embedded model's trained weights: how far pictures move, and what it saves.

    python benchmarks/step_cache.py [--prompts 8] [--steps 28]

Every setting draws the same prompts and seeds as the exact way, 1024x768 asked, interleaved in one process on one
thread. PSNR over the pixels that the autoencoder decodes, against the exact picture (100 dB: the same); CPU time of all
steps, as a share of the exact way's. Prints a table and writes benchmarks/results/step_cache.json.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.flux import precision
from impasto.flux.conditioning import Conditioning
from impasto.flux.pipeline import Pipeline
from impasto.flux.step_cache import Threshold

RESULTS = Path(__file__).parent / "results" / "step_cache.json"
PROMPTS = (
    "a red apple", "a blue car", "two yellow cats", "a green tree and a house", "a woman with glasses", "a fox",
    "three bananas", "a rocket", "a cup of coffee", "a boat", "a black dog next to a red ball", "a sunflower",
)  # fmt: skip
SETTINGS = {
    "exact": None,
    "0.08": Threshold(0.08),
    "0.12": Threshold(0.12),
    "0.20": Threshold(0.2),
    "0.12, first steps too": Threshold(0.12, settled=0.0),
}
"""What is measured; the last one shows what it is worth that the first fifth is always whole."""


def draw(
    pipeline: Pipeline, conditioning: Conditioning, *, seed: int, steps: int, caching: Threshold | None
) -> tuple[Tensor, float, int]:
    """Decoded pixels in 0..1, CPU seconds of the steps, how many were reused."""
    start, reused, latents = time.process_time(), 0, torch.empty(0)
    for step in pipeline.denoise(
        conditioning, seed=seed, index=0, height=768, width=1024, steps=steps, guidance=3.5, caching=caching
    ):
        reused, latents = reused + step.reused, step.latents
    seconds = time.process_time() - start
    return pipeline._pixels(latents), seconds, reused


def psnr(found: Tensor, wanted: Tensor) -> float:
    error = float((found - wanted).square().mean())
    return 100.0 if error == 0 else min(100.0, -10 * torch.tensor(error).log10().item())


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    pipeline = Pipeline.load("impasto-mini", device="cpu", threads=1)
    found: dict[str, list[tuple[Tensor, float, int]]] = {name: [] for name in SETTINGS}
    for seed, prompt in enumerate(PROMPTS[: options.prompts]):
        read = pipeline.encode(prompt)
        for name, caching in SETTINGS.items():
            found[name].append(draw(pipeline, read, seed=seed, steps=options.steps, caching=caching))
    rows: list[dict[str, Any]] = []
    exact = sum(seconds for _, seconds, _ in found["exact"])
    print(f"{'threshold':<24} {'reused':>7} {'CPU':>6} {'PSNR mean':>10} {'median':>7} {'least':>6}")
    for name, drawn in found.items():
        apart = [psnr(pixels, wanted) for (pixels, _, _), (wanted, _, _) in zip(drawn, found["exact"], strict=True)]
        row = {
            "threshold": name,
            "reused_share": statistics.mean(reused for _, _, reused in drawn) / options.steps,
            "cpu_share": sum(seconds for _, seconds, _ in drawn) / exact,
            "psnr_mean": statistics.mean(apart),
            "psnr_median": statistics.median(apart),
            "psnr_least": min(apart),
        }
        rows.append(row)
        print(
            f"{name:<24} {row['reused_share']:>7.2f} {row['cpu_share']:>6.2f} {row['psnr_mean']:>10.1f} "
            f"{row['psnr_median']:>7.1f} {row['psnr_least']:>6.1f}"
        )
    report = {
        "machine": platform.machine(),
        "features": sorted(precision.cpu_features()),
        "torch": torch.__version__,
        "steps": options.steps,
        "prompts": PROMPTS[: options.prompts],
        "exact_cpu_seconds": exact / len(found["exact"]),
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
