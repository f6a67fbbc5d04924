"""Every check that awaits a GPU, in one call: parity, repeatability, LoRAs, a step at full size, training throughput.

    python benchmarks/gpu/check.py --minutes 8 --out benchmarks/results/gpu.json
    python benchmarks/gpu/check.py --rehearse --out /tmp/rehearsal.json

Parts run in the order of the list, each only while time is left; the JSON is rewritten after each. On a machine without
CUDA it ends with status 1 and says so: it never reports numbers of a CPU. `--rehearse` runs every part on the CPU with
small shapes, to see that the script itself works; its file says so and holds no times.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).parent))

import passes

from impasto.flux import footprint, keys, offload, placing, quantise
from impasto.flux import latents as lat
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.encoders import T5
from impasto.flux.linear import Side, Up, attached, merged
from impasto.flux.models import MODELS, T5Params, TransformerParams
from impasto.flux.residency import Residency
from impasto.flux.stored import InMemory
from impasto.flux.transformer import Flux
from impasto.flux.weights import Target

DEVICE = torch.device("cuda" if torch.cuda.is_available() and "--rehearse" not in sys.argv else "cpu")
REHEARSAL = "--rehearse" in sys.argv
FULL = "flux.1-dev"
GPU_RECIPE = {"hidden_size": 384, "num_heads": 6, "depth": 2, "depth_single_blocks": 6}


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


class Found(dict[str, Any]):
    """What a part finds; every number is on disk at once, so that a lease that ends early loses none."""

    def __init__(self, save: Callable[[], None]) -> None:
        super().__init__()
        self._save = save

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        print(f"  {key}: {value}", flush=True)
        self._save()


@torch.inference_mode()
def parity(result: Found) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    spec = MODELS["impasto-mini"]
    model, values = Flux(spec.transformer).eval(), inputs(spec.transformer, height=96, width=128, tokens=32)
    wanted = model(**values)
    coder, latents = Autoencoder(spec.autoencoder).eval(), torch.randn(1, spec.autoencoder.z_channels, 12, 16)
    pixels = coder.decode(latents)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        model, coder = model.to(DEVICE, dtype), coder.to(DEVICE, dtype)
        result[f"transformer_{name}"] = error(model(**moved(values, DEVICE)), wanted)
        result[f"autoencoder_{name}"] = error(coder.decode(latents.to(DEVICE)), pixels)
        model, coder = model.float(), coder.float()


@torch.inference_mode()
def repeat(result: Found) -> None:
    torch.manual_seed(0)
    params = MODELS["impasto-mini"].transformer
    model = Flux(params).eval().to(DEVICE, torch.float32 if REHEARSAL else torch.bfloat16)
    values = moved(inputs(params, height=96, width=128, tokens=32), DEVICE)
    first = model(**values)
    result["same_bits"] = all(torch.equal(first, model(**values)) for _ in range(1 if REHEARSAL else 20))


@torch.inference_mode()
def lora(result: Found) -> None:
    """A LoRA attached and taken away on the device: the plain result comes back bit for bit; error of the changed one
    against the same weights merged, float32.
    """
    torch.manual_seed(0)
    params = MODELS["impasto-mini"].transformer
    model, values = Flux(params).eval().to(DEVICE), moved(inputs(params, height=96, width=128, tokens=32), DEVICE)
    before, sides = model(**values), side_branches(model)
    with attached(model, sides):
        changed = model(**values)
    after = model(**values)
    for name, side in sides.items():
        layer = model.get_submodule(name)
        layer.weight = torch.nn.Parameter(merged(layer.weight, side), requires_grad=False)
    result["restored_bits"] = torch.equal(before, after)
    result["against_merged"] = error(changed, model(**values).float().cpu())


@torch.inference_mode()
def memory(result: Found) -> None:
    """FLUX.1 [dev] at full size with random weights: a step by how many blocks visit and by their bits, against the
    resident model to the bit; bytes that were in use against those that are counted.
    """
    spec = MODELS[FULL]
    params, size, tokens = spec.transformer, 1024, 512
    if REHEARSAL:
        params, size, tokens = replace(params, hidden_size=256, num_heads=2, depth=1, depth_single_blocks=2), 128, 16
    values = moved(inputs(params, height=size, width=size, tokens=tokens), DEVICE)
    model = filled(params, {}, Residency())
    weights = {name: parameter.to("cpu", copy=True) for name, parameter in model.state_dict().items()}
    wanted = model(**values)
    result["resident_ms"] = milliseconds(lambda model=model: model(**values))
    del model
    blocks = params.depth + params.depth_single_blocks
    for kept, count in (("full", blocks // 4), ("full", blocks // 2), ("full", blocks), ("int8", 0), ("fp8", 0)):
        residency = Residency(kept=kept, streamed=count, modulation_on_host=count > 0)
        peak_reset()
        model = filled(params, weights, residency)
        name = f"{kept}_{count}_away"
        found = model(**values)
        result[f"{name}_same_bits"] = torch.equal(found, wanted)
        result[f"{name}_apart"] = error(found, wanted.float().cpu())
        result[f"{name}_ms"] = milliseconds(lambda model=model: model(**values))
        narrow = quantise.layers(InMemory(weights), kept)
        counted = footprint.transformer(params, itemsize=2, narrow=narrow).near(residency)
        counted += footprint.step(params, tokens=tokens + lat.token_count(size, size), itemsize=2)
        result[f"{name}_counted_gib"], result[f"{name}_peak_gib"] = counted / 2**30, peak()
        del model
    reading(result)
    decoding(result)


def reading(result: Found) -> None:
    """A prompt of 512 tokens through T5-XXL in bf16: on the device, from the host layer by layer (the same bits?), and
    on the CPU; bytes in use against those that are counted.
    """
    params, tokens = T5Params(), 512
    if REHEARSAL:
        params, tokens = T5Params(d_model=64, d_ff=128, d_kv=16, num_heads=4, num_layers=3, vocab_size=99), 16
    torch.set_default_dtype(torch.bfloat16)
    with DEVICE:
        model = T5(params).eval().requires_grad_(requires_grad=False)
    torch.set_default_dtype(torch.float32)
    model.encoder.embed_tokens.weight = model.shared.weight
    ids = torch.arange(tokens)[None] % params.vocab_size
    near = ids.to(DEVICE)
    wanted = model(near)
    result["t5_resident_ms"] = milliseconds(lambda: model(near))
    model.to("cpu")
    result["t5_on_cpu_ms"] = milliseconds(lambda: model(ids), warm=1, count=2)
    away = offload.text_away(model)
    for name, parameter in model.named_parameters():
        if name in away and not REHEARSAL:
            parameter.data = placing.page_locked(parameter.data)
        elif name not in away:
            parameter.data = parameter.data.to(DEVICE)
    offload.install_text(model, DEVICE)
    peak_reset()
    result["t5_visiting_same_bits"] = torch.equal(model(ids), wanted)
    result["t5_visiting_ms"] = milliseconds(lambda: model(ids))
    result["t5_counted_gib"] = footprint.text(params, tokens=tokens, itemsize=2)[1] / 2**30
    result["t5_peak_gib"] = peak()


def decoding(result: Found) -> None:
    """Bytes in use while pictures are decoded, against those that are counted."""
    params = MODELS[FULL].autoencoder
    if REHEARSAL:
        params = replace(params, ch=32)
    model = Autoencoder(params).to(DEVICE, torch.bfloat16).eval().channels_last()
    held = sum(parameter.nbytes for parameter in model.parameters())
    for side in (64,) if REHEARSAL else (1024, 2048):
        peak_reset()
        model.decode(torch.randn(1, params.z_channels, side // 8, side // 8, device=DEVICE))
        result[f"decode_{side}_counted_gib"] = (held + footprint.decoding(params, (side, side), 2)) / 2**30
        result[f"decode_{side}_peak_gib"] = peak()


def filled(params: TransformerParams, weights: dict[str, torch.Tensor], residency: Residency) -> Flux:
    """A transformer in bf16, arranged as the loader does it; of random weights when there are none."""
    if not weights:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with DEVICE:
            model = Flux(params).eval()
        torch.set_default_dtype(torch.float32)
        return model
    return placing.arranged(InMemory(weights), params, Target(DEVICE, torch.bfloat16), residency, name="random")


def peak_reset() -> None:
    if not REHEARSAL:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> float | None:
    return None if REHEARSAL else torch.cuda.max_memory_allocated() / 2**30


def side_branches(model: Flux, rank: int = 16) -> dict[str, Side]:
    """A small random LoRA for every layer of the blocks that runs in a step."""
    found: dict[str, Side] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and "_blocks" in name and "mod" not in name:
            down = torch.randn(rank, layer.in_features).to(layer.weight) * 0.01
            up = torch.randn(layer.out_features, rank).to(layer.weight) * 0.01
            found[name] = Side(down, (Up(slice(0, layer.out_features), slice(0, rank), up),))
    return found


@torch.inference_mode()
def step(result: Found) -> None:
    """Milliseconds of one pass of FLUX.1 [dev] at 1024x1024 with 512 text tokens, random bf16 weights, by every way;
    then of whole requests.
    """
    params = MODELS[FULL].transformer
    size, tokens = 1024, 512
    if REHEARSAL:
        params, size, tokens = replace(params, hidden_size=256, num_heads=2, depth=1, depth_single_blocks=1), 128, 16
    torch.set_default_dtype(torch.bfloat16)
    with DEVICE:
        model = Flux(params).eval()
    torch.set_default_dtype(torch.float32)
    values = moved(inputs(params, height=size, width=size, tokens=tokens), DEVICE)
    result["eager_ms"] = milliseconds(lambda: model(**values))
    result["matrix_product_tflops"] = matrix_product_rate()
    with attached(model, side_branches(model)):
        result["eager_with_lora_ms"] = milliseconds(lambda: model(**values))
    peer(result, model, values)
    means = passes.passes(result, model, values, milliseconds, rehearsal=REHEARSAL)
    spec = MODELS[FULL]
    coder = replace(spec.autoencoder, ch=32) if REHEARSAL else spec.autoencoder
    passes.request(result, model, spec, coder, values, milliseconds, means=means)
    result["peak_gib"] = None if REHEARSAL else torch.cuda.max_memory_allocated() / 2**30


def matrix_product_rate() -> float | None:
    """Return the TFLOP/s of one large product in bf16, the most that a pass can reach; None in a rehearsal."""
    side = 64 if REHEARSAL else 8192
    left, right = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    took = milliseconds(lambda: left @ right)
    return None if took is None else 2 * side**3 / took / 1e9


def peer(result: Found, model: Flux, values: dict[str, Any]) -> None:
    """diffusers' transformer with the same weights and inputs: milliseconds of a pass, eager, and how far apart."""
    try:
        from diffusers import FluxTransformer2DModel
    except ImportError:
        result["diffusers"] = "not installed"
        return
    p = model.params
    with torch.device("meta"):
        theirs = FluxTransformer2DModel(
            in_channels=p.in_channels, num_layers=p.depth, num_single_layers=p.depth_single_blocks,
            attention_head_dim=p.head_dim, num_attention_heads=p.num_heads, joint_attention_dim=p.context_in_dim,
            pooled_projection_dim=p.vec_in_dim, guidance_embeds=p.guidance_embed, axes_dims_rope=p.axes_dim,
        )  # fmt: skip
    # Parts of fused layers are views of ours: no second copy of the weights.
    theirs.load_state_dict(keys.to_diffusers(model.state_dict(), keys.transformer_rows(p)), assign=True)
    dtype = next(model.parameters()).dtype

    def once() -> torch.Tensor:
        return theirs(
            hidden_states=values["img"].to(dtype), encoder_hidden_states=values["txt"].to(dtype),
            pooled_projections=values["y"].to(dtype), timestep=values["timesteps"], guidance=values["guidance"],
            img_ids=values["img_ids"], txt_ids=values["txt_ids"], return_dict=False,
        )[0]  # fmt: skip

    result["diffusers_apart"] = error(model(**values), once().float().cpu())
    result["diffusers_eager_ms"] = milliseconds(once)


def train(result: Found) -> None:
    """Samples a second of forward, backward and AdamW for the GPU recipe's transformer, 192 + 32 tokens."""
    params = replace(MODELS["impasto-mini"].transformer, **GPU_RECIPE)
    model = Flux(params).to(DEVICE)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for batch in (2,) if REHEARSAL else (256, 1024):
        values = moved(inputs(params, height=192, width=256, tokens=32, batch=batch), DEVICE)

        def once(values: dict[str, Any] = values) -> None:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = (model(**values) - values["img"]).square().mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        took = milliseconds(once)
        result[f"samples_per_second_{batch}"] = took and 1000 * batch / took


def milliseconds(run: Callable[[], Any], *, warm: int = 3, count: int = 10) -> float | None:
    """Median of `count` runs, each timed on the device; None in a rehearsal, which runs it once."""
    if REHEARSAL:
        run()
        return None
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


PARTS = (parity, repeat, lora, train, step, memory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="every part on the CPU, small, without times")
    parser.add_argument("--only", nargs="+", choices=[part.__name__ for part in PARTS], help="these parts alone")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.rehearse:
        print("no CUDA device here; nothing was checked", file=sys.stderr)
        return 1
    deadline = time.monotonic() + 60 * options.minutes
    device = "a rehearsal on the CPU" if options.rehearse else torch.cuda.get_device_name()
    report: dict[str, Any] = {"device": device, "torch": torch.__version__}

    def save() -> None:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    for part in PARTS if options.only is None else (part for part in PARTS if part.__name__ in options.only):
        if time.monotonic() > deadline:
            report[part.__name__] = "no time left"
            continue
        print(part.__name__, flush=True)
        found = report[part.__name__] = Found(save)
        try:
            part(found)
        except Exception as problem:  # noqa: BLE001 - the other parts still count, and what this one has found
            found["failed"] = f"{type(problem).__name__}: {problem}"
            traceback.print_exc()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
    save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
