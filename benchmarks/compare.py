"""A step, a decoding and a request of a small FLUX on a CPU: ours beside diffusers, in its default and at its best.

    python benchmarks/compare.py --repeats 3 [--compiled]

The configuration is a FLUX.1 in small: hidden 512, 2 + 4 blocks, 512 text tokens, 1024x768, an autoencoder of a quarter
of the published width. Same random weights, same dtype, one thread. CPU time (`time.process_time`), least of
interleaved repeats, so that other work on the machine counts little. `ours + LoRA` has one of rank 16 on every layer of
the blocks. bf16 is measured only where the processor multiplies it: elsewhere torch emulates it, slower than float32.
`--compiled` adds torch.compile on both sides, which takes minutes: diffusers at its best is channels_last, with fused
QKV and compiled blocks. A request is 28 steps and a decoding, added up from the rows above it; no prompt is read.
Against diffusers' default (float32, NCHW) stands the last column.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import twins
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn

from impasto.flux import adapters, keys, latents, precision
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.compiled import Compiled
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
TEXT, RANK, STEPS = 512, 16, 28
Runs = dict[str, Callable[[], Any]]


def steps(dtype: torch.dtype, height: int, width: int, *, compiled: bool) -> Runs:
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

    def peer(model: FluxTransformer2DModel) -> Tensor:
        return model(
            hidden_states=img.to(dtype), encoder_hidden_states=txt, pooled_projections=vec, timestep=time_,
            guidance=guidance, img_ids=image_ids, txt_ids=text_ids, return_dict=False,
        )[0]  # fmt: skip

    def mine(model: Flux, sides: adapters.Sides) -> Tensor:
        with attached(model, sides):
            return model.velocity(img, words, pe, mods)

    runs: Runs = {
        "diffusers": partial(peer, theirs),
        "ours": partial(mine, ours, {}),
        "ours + LoRA": partial(mine, ours, lora(ours)),
    }
    if compiled:
        best, fast = copy.deepcopy(theirs), copy.deepcopy(ours)
        best.fuse_qkv_projections()
        best.compile_repeated_blocks()
        runs["diffusers best"] = partial(peer, best)
        if Compiled.of(fast, folder=Path(tempfile.gettempdir()) / "impasto-compare") is not None:
            runs["ours compiled"] = partial(mine, fast, {})
    return runs


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


def decodings(dtype: torch.dtype, height: int, width: int, *, compiled: bool) -> Runs:
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
    runs: Runs = {
        "diffusers": lambda: default.decode(z, return_dict=False),
        "diffusers channels_last": lambda: best.decode(z_last, return_dict=False),
        "ours": lambda: coder.decode(z),
    }
    if compiled:
        quick = peer().to(memory_format=torch.channels_last)
        quick.decoder.compile()
        runs["diffusers best"] = lambda: quick.decode(z_last, return_dict=False)
    return runs


def least(runs: Runs, repeats: int) -> dict[str, float]:
    """CPU milliseconds of the cheapest run of each; they alternate."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], 1000 * (time.process_time() - start))
    return best


def requests(step: dict[str, float], decode: dict[str, float]) -> dict[str, float]:
    """A request by each way: its steps and its decoding; ways that differ in one of them only share the other."""
    pairs = {
        "diffusers": ("diffusers", "diffusers"),
        "diffusers channels_last": ("diffusers", "diffusers channels_last"),
        "diffusers best": ("diffusers best", "diffusers best"),
        "ours": ("ours", "ours"),
        "ours compiled": ("ours compiled", "ours"),
    }
    return {
        run: STEPS * step[steps] + decode[decoding]
        for run, (steps, decoding) in pairs.items()
        if steps in step and decoding in decode
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 768), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile: minutes more")
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
    print(f"{'what':<8} {'dtype':<9} {'run':<24} {'CPU ms':>9} {'diffusers / it':>15} {'its default / it':>17}")
    default: dict[str, float] = {}
    for dtype in dict.fromkeys((torch.float32, native)):
        found: dict[str, dict[str, float]] = {}
        for what, make in (("step", steps), ("decode", decodings)):
            found[what] = least(make(dtype, height, width, compiled=options.compiled), options.repeats)
        found["request"] = requests(found["step"], found["decode"])
        for what, runs in found.items():
            default.setdefault(what, runs["diffusers"])  # float32 comes first
            for run, ms in runs.items():
                row = {
                    "what": what,
                    "dtype": str(dtype).removeprefix("torch."),
                    "run": run,
                    "ms": ms,
                    "ratio": runs["diffusers"] / ms,
                    "default_ratio": default[what] / ms,
                }
                report["rows"].append(row)
                ratios = f"{row['ratio']:>15.2f} {row['default_ratio']:>17.2f}"
                print(f"{what:<8} {row['dtype']:<9} {run:<24} {ms:>9.1f} {ratios}", flush=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
