"""What 8-bit weights change: error of the velocity, and of whole pictures, against the same weights in full.

    python benchmarks/quantise.py

Two models: a small FLUX.1 with random weights (hidden 512, 2 + 4 blocks), whose
weights are Gaussian, and the embedded model, whose weights are trained. **Neither is FLUX.1 [dev]**: its published
weights were not at hand, and trained outliers decide what rounding costs. fp8 stands for wide weights rounded to it;
a file that is stored in fp8 loses nothing by staying so. Error: norm of the difference over the norm, the same latents
at every step (teacher-forced). PSNR: of the final pictures, drawn to the end each on its own.
"""

import json
import math
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from impasto.flux import latents as lat
from impasto.flux import weights
from impasto.flux.checkpoint import Checkpoint, locate
from impasto.flux.conditioning import Conditioning
from impasto.flux.models import FLUX1_DEV
from impasto.flux.pipeline import Pipeline
from impasto.flux.placing import load_transformer
from impasto.flux.residency import Kept, Residency
from impasto.flux.run import Run
from impasto.flux.transformer import Flux

PROMPTS = ("a red fox in the snow", "a yellow car beside a tree", "two apples on a table", "a blue house at night")
KEPT: tuple[Kept, ...] = ("int8", "fp8")
SMALL = replace(
    FLUX1_DEV.transformer, hidden_size=512, num_heads=4, depth=2, depth_single_blocks=4, context_in_dim=512,
    vec_in_dim=256,
)  # fmt: skip


def random_checkpoint(folder: Path) -> Checkpoint:
    """Every parameter of the small configuration drawn anew, so that no zero bias hides a mistake."""
    torch.manual_seed(0)
    model = Flux(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save_file(model.state_dict(), folder / "flux1-dev.safetensors")
    return Checkpoint(replace(FLUX1_DEV, transformer=SMALL), folder, {}, file=folder / "flux1-dev.safetensors")


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@torch.inference_mode()
def velocities(models: dict[Kept, Flux], checkpoint: Checkpoint, conditioning: Conditioning, native: tuple[int, int],
               steps: int, seed: int) -> dict[Kept, list[float]]:  # fmt: skip
    """Errors by step; the full model's own way decides the latents."""
    spec = checkpoint.spec
    runs = {
        kept: Run(model, spec, conditioning, native=native, steps=steps, guidance=spec.default_guidance)
        for kept, model in models.items()
    }
    img, errors = lat.pack(lat.noise(seed, 0, *native, spec.autoencoder.z_channels)), {kept: [] for kept in KEPT}
    sigmas = runs["full"].sigmas
    for i in range(steps):
        wanted = runs["full"].velocity(i, img)
        for kept in KEPT:
            errors[kept].append(apart(runs[kept].velocity(i, img), wanted))
        img = img + wanted * (sigmas[i + 1] - sigmas[i])
    return errors


def models_of(checkpoint: Checkpoint) -> dict[Kept, Flux]:
    kinds: tuple[Kept, ...] = ("full", *KEPT)
    return {kept: load_transformer(checkpoint, weights.CPU, Residency(kept=kept)) for kept in kinds}


def random_model() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        checkpoint = random_checkpoint(Path(name))
        models, native, result = models_of(checkpoint), (256, 256), dict[str, Any]()
        errors: dict[Kept, list[float]] = {kept: [] for kept in KEPT}
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            words = Conditioning(
                txt=torch.randn(1, 64, SMALL.context_in_dim, generator=generator),
                vec=torch.randn(1, SMALL.vec_in_dim, generator=generator), tokens=64, truncated=False,
            )  # fmt: skip
            for kept, each in velocities(models, checkpoint, words, native, 8, seed).items():
                errors[kept] += each
        for kept in KEPT:
            result[kept] = summary(errors[kept])
        return result


def embedded_model() -> dict[str, Any]:
    checkpoint = locate("impasto-mini")
    models, spec, result = models_of(checkpoint), checkpoint.spec, dict[str, Any]()
    full = Pipeline.load("impasto-mini", device="cpu", dtype=torch.float32, threads=1)
    native = spec.native_size.native(512, 512)
    errors: dict[Kept, list[float]] = {kept: [] for kept in KEPT}
    for seed, prompt in enumerate(PROMPTS):
        for kept, each in velocities(models, checkpoint, full.encode(prompt), native, 8, seed).items():
            errors[kept] += each
    pictures = {"full": drawn(full)}
    for kept in KEPT:
        pipeline = Pipeline.load(
            "impasto-mini", device="cpu", dtype=torch.float32, threads=1, residency=Residency(kept=kept)
        )
        pictures[kept] = drawn(pipeline)
        values = [psnr(a, b) for a, b in zip(pictures[kept], pictures["full"], strict=True)]
        result[kept] = summary(errors[kept]) | {
            "psnr_db": round(statistics.mean(values), 1), "worst_psnr_db": round(min(values), 1)
        }  # fmt: skip
    return result


def drawn(pipeline: Pipeline) -> list[np.ndarray[Any, Any]]:
    found: list[np.ndarray[Any, Any]] = []
    for seed, prompt in enumerate(PROMPTS):
        words = pipeline.encode(prompt)
        *_, last = pipeline.denoise(words, seed=seed, index=0, height=512, width=512, steps=8)
        found.append(pipeline.decode(last.latents, height=512, width=512))
    return found


def psnr(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    error = float(np.square(a.astype(np.float64) - b.astype(np.float64)).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def summary(errors: list[float]) -> dict[str, float]:
    return {"velocity_error": round(statistics.mean(errors), 5), "worst_velocity_error": round(max(errors), 5)}


def main() -> None:
    torch.set_num_threads(1)
    results = {"small random FLUX.1": random_model(), "impasto-mini": embedded_model()}
    print(f"{'model':<20} {'weights':<8} {'velocity error':>14} {'worst':>8} {'PSNR':>9} {'worst':>9}")
    for name, kinds in results.items():
        for kept, row in kinds.items():
            pictures = [f"{row[key]:>6.1f} dB" if key in row else "" for key in ("psnr_db", "worst_psnr_db")]
            print(
                f"{name:<20} {kept:<8} {row['velocity_error']:>14.3%} {row['worst_velocity_error']:>8.3%} "
                f"{pictures[0]:>9} {pictures[1]:>9}"
            )
    Path(__file__).parent.joinpath("results", "quantise.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
