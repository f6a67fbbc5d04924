"""Every check that awaits a GPU, in one call: parity, repeatability, a step at full size, training throughput.

    python benchmarks/gpu/check.py --minutes 8 --out benchmarks/results/gpu.json

Parts run in the order of the list, each only while time is left; the JSON is rewritten after each. On a machine without
CUDA it ends with status 1 and says so: it never reports numbers of a CPU.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from impasto.flux import latents as lat
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.models import MODELS, TransformerParams
from impasto.flux.transformer import Flux

CUDA = torch.device("cuda")
GPU_RECIPE = {"hidden_size": 384, "num_heads": 6, "depth": 3, "depth_single_blocks": 7}


def inputs(params: TransformerParams, *, height: int, width: int, tokens: int, batch: int = 1) -> dict[str, Any]:
    """Seeded inputs of `Flux.forward` on the CPU, float32."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "img": normal(batch, lat.token_count(height, width), params.in_channels),
        "img_ids": lat.image_ids(height, width),
        "txt": normal(batch, tokens, params.context_in_dim),
        "txt_ids": lat.text_ids(tokens),
        "timesteps": torch.full((batch,), 0.7),
        "y": normal(batch, params.vec_in_dim),
        "guidance": torch.full((batch,), 3.5) if params.guidance_embed else None,
    }


def moved(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v if v is None else v.to(device) for k, v in values.items()}


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative: norm of the difference over the norm of what is wanted."""
    return float((found.float().cpu() - wanted).norm() / wanted.norm())


@torch.inference_mode()
def parity() -> dict[str, Any]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    spec = MODELS["impasto-mini"]
    model, values = Flux(spec.transformer).eval(), inputs(spec.transformer, height=96, width=128, tokens=32)
    wanted = model(**values)
    coder, latents = Autoencoder(spec.autoencoder).eval(), torch.randn(1, spec.autoencoder.z_channels, 12, 16)
    pixels = coder.decode(latents)
    result: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        model, coder = model.to(CUDA, dtype), coder.to(CUDA, dtype)
        result[f"transformer_{name}"] = error(model(**moved(values, CUDA)), wanted)
        result[f"autoencoder_{name}"] = error(coder.decode(latents.to(CUDA)), pixels)
        model, coder = model.float(), coder.float()
    return result


@torch.inference_mode()
def repeat() -> dict[str, Any]:
    torch.manual_seed(0)
    params = MODELS["impasto-mini"].transformer
    model = Flux(params).eval().to(CUDA, torch.bfloat16)
    values = moved(inputs(params, height=96, width=128, tokens=32), CUDA)
    first = model(**values)
    return {"same_bits": all(torch.equal(first, model(**values)) for _ in range(20))}


@torch.inference_mode()
def step() -> dict[str, Any]:
    """Milliseconds of one pass of FLUX.1 [dev] at 1024x1024 with 512 text tokens, random bf16 weights."""
    params = MODELS["flux.1-dev"].transformer
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(CUDA):
        model = Flux(params).eval()
    torch.set_default_dtype(torch.float32)
    values = moved(inputs(params, height=1024, width=1024, tokens=512), CUDA)
    result: dict[str, Any] = {"eager_ms": milliseconds(lambda: model(**values))}
    for blocks in (model.double_blocks, model.single_blocks):
        for block in blocks:
            block.compile()
    result["compiled_blocks_ms"] = milliseconds(lambda: model(**values))
    result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def train() -> dict[str, Any]:
    """Samples a second of forward, backward and AdamW for the GPU recipe's transformer, 192 + 32 tokens."""
    params = replace(MODELS["impasto-mini"].transformer, **GPU_RECIPE)
    model = Flux(params).to(CUDA)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    result: dict[str, Any] = {}
    for batch in (256, 1024):
        values = moved(inputs(params, height=192, width=256, tokens=32, batch=batch), CUDA)

        def once(values: dict[str, Any] = values) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = (model(**values) - values["img"]).square().mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        result[f"samples_per_second_{batch}"] = 1000 * batch / milliseconds(once)
    return result


def milliseconds(run: Callable[[], Any], *, warm: int = 3, count: int = 10) -> float:
    """Median of `count` runs, each timed on the device."""
    for _ in range(warm):
        run()
    times: list[float] = []
    for _ in range(count):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here; nothing was checked", file=sys.stderr)
        return 1
    deadline = time.monotonic() + 60 * options.minutes
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for part in (parity, repeat, train, step):
        if time.monotonic() > deadline:
            report[part.__name__] = "no time left"
            continue
        try:
            report[part.__name__] = part()
        except (RuntimeError, ImportError) as problem:  # the other parts still count
            report[part.__name__] = f"failed: {problem}"
        torch.cuda.empty_cache()
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(part.__name__, report[part.__name__], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
