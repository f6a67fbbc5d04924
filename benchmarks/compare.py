"""One step and one decoding of a small FLUX on a CPU: ours beside diffusers eager, in its default and its best layout.

    python benchmarks/compare.py --repeats 3

The configuration is a FLUX.1 in small: hidden 512, 2 + 4 blocks, 512 text tokens, 1024x768, an autoencoder of a quarter
of the published width. Same random weights, same dtype, one thread. CPU time (`time.process_time`), least of
interleaved repeats, so that other work on the machine counts little. `ours + LoRA` has one of rank 16 on every layer of
the blocks. bf16 is measured only where the processor multiplies it: elsewhere torch emulates it, slower than float32.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import twins
from diffusers import AutoencoderKL
from torch import Tensor, nn

from impasto.flux import adapters, keys, latents, precision
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.linear import attached
from impasto.flux.models import AutoencoderParams, TransformerParams
from impasto.flux.transformer import Flux

RESULTS = Path(__file__).parent / "results" / "compare.json"
PARAMS = TransformerParams(
    in_channels=64, out_channels=64, vec_in_dim=256, context_in_dim=512, hidden_size=512, mlp_ratio=4.0, num_heads=4,
    depth=2, depth_single_blocks=4, axes_dim=(16, 56, 56), theta=10_000, qkv_bias=True, guidance_embed=True,
)  # fmt: skip
CODER = AutoencoderParams(
    in_channels=3, ch=32, out_ch=3, ch_mult=(1, 2, 4, 4), num_res_blocks=2, z_channels=16, scale_factor=0.3611,
    shift_factor=0.1159,
)  # fmt: skip
TEXT, RANK = 512, 16
Runs = dict[str, Callable[[], Any]]


def steps(dtype: torch.dtype, height: int, width: int) -> Runs:
    ours = Flux(PARAMS).eval().requires_grad_(False)
    theirs = twins.transformer(PARAMS)
    theirs.load_state_dict(keys.to_diffusers(ours.state_dict(), keys.transformer_rows(PARAMS)))
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    img = torch.randn(1, latents.token_count(height, width), 64)
    txt, vec = torch.randn(1, TEXT, 512, dtype=dtype), torch.randn(1, 256, dtype=dtype)
    image_ids, text_ids = latents.image_ids(height, width), latents.text_ids(TEXT)
    time_, guidance = torch.tensor([0.7]), torch.tensor([3.5])
    # As the pipeline does: once a request.
    words, pe = ours.context(txt), ours.positions(text_ids, image_ids)
    mods = ours.modulate(ours.vector(time_, vec, guidance))

    def peer() -> Tensor:
        return theirs(
            hidden_states=img.to(dtype), encoder_hidden_states=txt, pooled_projections=vec, timestep=time_,
            guidance=guidance, img_ids=image_ids, txt_ids=text_ids, return_dict=False,
        )[0]  # fmt: skip

    def with_lora(sides: adapters.Sides = lora(ours)) -> Tensor:  # noqa: B008 - made once
        with attached(ours, sides):
            return ours.velocity(img, words, pe, mods)

    return {"diffusers": peer, "ours": lambda: ours.velocity(img, words, pe, mods), "ours + LoRA": with_lora}


def lora(model: Flux) -> adapters.Sides:
    """Small random weights for every layer of the blocks that runs in a step."""
    dtype = next(model.parameters()).dtype
    branches: list[adapters.Branch] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "_blocks" in name and "mod" not in name:
            out, width = layer.out_features, layer.in_features
            place = adapters.Place(name, slice(0, out), (out, width))
            down, up = (torch.randn(*shape, dtype=dtype) * 0.01 for shape in ((RANK, width), (out, RANK)))
            branches.append(adapters.Branch(place, down, up))
    return adapters.combine([(adapters.Adapter(tuple(branches)), 1.0)])


def decodings(dtype: torch.dtype, height: int, width: int) -> Runs:
    ours = Autoencoder(CODER).eval().requires_grad_(False)

    def peer() -> AutoencoderKL:
        model = twins.autoencoder(CODER)
        model.load_state_dict(keys.to_diffusers(ours.state_dict(), keys.autoencoder_rows(CODER)))
        return model.to(dtype)

    default, best = peer(), peer().to(memory_format=torch.channels_last)
    coder = Autoencoder(CODER).eval()
    coder.load_state_dict(ours.state_dict())
    coder = coder.to(dtype).channels_last()
    z = torch.randn(1, 16, height // 8, width // 8, dtype=dtype)
    z_last = z.contiguous(memory_format=torch.channels_last)
    return {
        "diffusers": lambda: default.decode(z, return_dict=False),
        "diffusers channels_last": lambda: best.decode(z_last, return_dict=False),
        "ours": lambda: coder.decode(z),
    }


def least(runs: Runs, repeats: int) -> dict[str, float]:
    """CPU milliseconds of the cheapest run of each; they alternate."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], 1000 * (time.process_time() - start))
    return best


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 768), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    width, height = options.size
    torch.set_num_threads(1)
    torch.manual_seed(0)
    native = precision.choose_dtype("cpu")
    report: dict[str, Any] = {
        "machine": platform.machine(),
        "features": sorted(precision.cpu_features()),
        "torch": torch.__version__,
        "size": [width, height],
        "repeats": options.repeats,
        "unit": "CPU milliseconds, 1 thread, least of interleaved repeats",
        "rows": [],
    }
    print(f"{'what':<8} {'dtype':<9} {'run':<24} {'CPU ms':>9} {'diffusers / it':>15}")
    for dtype in dict.fromkeys((torch.float32, native)):
        for what, make in (("step", steps), ("decode", decodings)):
            found = least(make(dtype, height, width), options.repeats)
            for run, ms in found.items():
                ratio = found["diffusers"] / ms
                row = {"what": what, "dtype": str(dtype).removeprefix("torch."), "run": run, "ms": ms, "ratio": ratio}
                report["rows"].append(row)
                print(f"{what:<8} {row['dtype']:<9} {run:<24} {ms:>9.1f} {ratio:>15.2f}", flush=True)
            options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
