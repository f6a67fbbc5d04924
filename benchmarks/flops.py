"""Count the floating-point operations of one pass of each FLUX.1 model, of decoding and of reading a prompt.

    python benchmarks/flops.py

torch's `FlopCounterMode` counts matrix products, convolutions and attention of our own modules at full size on the meta
device, so that no weights are needed. A multiplication with its addition counts as two. `benchmarks/results/flops.json`
also holds the share of the matrix-product rate that the measured passes of `gpu.json` reached.
"""

import json
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from impasto.flux.autoencoder import Autoencoder
from impasto.flux.encoders import T5, Clip
from impasto.flux.models import (
    FLUX1_CANNY,
    FLUX1_DEV,
    FLUX1_FILL,
    FLUX1_KONTEXT,
    FLUX1_SCHNELL,
    ClipParams,
    ModelSpec,
    T5Params,
)
from impasto.flux.transformer import Flux

RESULTS = Path(__file__).parent / "results"
SIDE = 1024  # pixels
LATENT = SIDE // 8
TOKENS = (LATENT // 2) ** 2
TERA = 1e12
MATRIX_PRODUCTS = 790.0  # TFLOP/s in bf16 on the H200 of gpu.json, measured by hand before check.py printed the rate


def counted(module: nn.Module, *values: torch.Tensor | None) -> int:
    """Return the floating-point operations of `module(*values)`."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(*values)
    return counter.get_total_flops()


def transformer(spec: ModelSpec, *, image_tokens: int) -> int:
    """Return the operations of one pass over `image_tokens` and the model's text tokens."""
    params, text = spec.transformer, spec.max_text_tokens
    model = Flux(params)
    return counted(
        model,
        torch.empty(1, image_tokens, params.in_channels),
        torch.empty(image_tokens, 3),
        torch.empty(1, text, params.context_in_dim),
        torch.empty(text, 3),
        torch.empty(1),
        torch.empty(1, params.vec_in_dim),
        torch.empty(1) if params.guidance_embed else None,
    )


def decoder() -> int:
    return counted(Autoencoder(FLUX1_DEV.autoencoder).decoder, torch.empty(1, 16, LATENT, LATENT))


def prompt(tokens: int) -> int:
    t5 = counted(T5(T5Params()), torch.zeros(1, tokens, dtype=torch.long))
    return t5 + counted(Clip(ClipParams()), torch.zeros(1, 77, dtype=torch.long))


def main() -> None:
    passes: dict[str, float] = {}
    with torch.device("meta"):
        for spec in (FLUX1_DEV, FLUX1_SCHNELL, FLUX1_FILL, FLUX1_CANNY, FLUX1_KONTEXT):
            # Kontext reads an image of the same size behind the tokens that it draws
            tokens = TOKENS * (2 if spec is FLUX1_KONTEXT else 1)
            passes[spec.name] = transformer(spec, image_tokens=tokens) / TERA
        rows = {"decode": decoder() / TERA, "read_prompt": prompt(FLUX1_DEV.max_text_tokens) / TERA}
    step = json.loads((RESULTS / "gpu.json").read_text())["step"]
    floor = passes[FLUX1_DEV.name] / step.get("matrix_product_tflops", MATRIX_PRODUCTS) * 1e3
    result = {
        "size": SIDE,
        "tflop_a_pass": {name: round(value, 2) for name, value in passes.items()},
        "tflop": {name: round(value, 2) for name, value in rows.items()},
        "floor_ms_h200": round(floor, 1),
        "share_of_the_matrix_product_rate": {
            name: round(floor / step[name], 2) for name in ("chosen_attention_ms", "compiled_ms")
        },
    }
    print(json.dumps(result, indent=2))
    (RESULTS / "flops.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
