"""diffusers is the referee: the same weights and inputs through its modules and ours, block by block and whole.

Float32 must agree to 1e-5 (relative, in the Euclidean norm): both run the same sums in another order, and rounding
grows from 1e-7 over the depth. bf16 keeps 8 bits, so two right implementations differ by some 1e-2 and an absolute
bound would say nothing; the bound is therefore on the error against the float32 result: ours may be at most 1.2 times
diffusers' own, 1.2 being the spread over seeds of one and the same implementation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from twins import diffusers_autoencoder, diffusers_transformer, relative

from impasto.errors import WeightsError
from impasto.flux import keys, latents, weights
from impasto.flux.attention import apply_rope, rope
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import locate
from impasto.flux.models import FLUX1_DEV, FLUX1_SCHNELL, IMPASTO_MINI, AutoencoderParams, ModelSpec, TransformerParams
from impasto.flux.pipeline import Conditioning, Pipeline
from impasto.flux.transformer import Flux
from impasto.flux.weights import Target, build

if threads := os.environ.get("IMPASTO_THREADS"):  # benchmarks/margins.py
    torch.set_num_threads(int(threads))

TOLERANCE = 1e-5
SAME_SUMS = 2e-6
"""For two ways of ours through the same sums: twice the largest that was seen with 1 and 2 threads (1.05e-6)."""

BF16_RATIO = 1.2

TRANSFORMERS = {
    "embedded": IMPASTO_MINI.transformer,
    "guidance": replace(IMPASTO_MINI.transformer, guidance_embed=True, context_in_dim=48, vec_in_dim=40),
    "heads-of-128": TransformerParams(
        in_channels=64,
        out_channels=64,
        vec_in_dim=24,
        context_in_dim=32,
        hidden_size=256,
        mlp_ratio=4.0,
        num_heads=2,
        depth=3,
        depth_single_blocks=2,
        axes_dim=(16, 56, 56),
        theta=10_000,
        qkv_bias=True,
        guidance_embed=True,
    ),
    "narrow": TransformerParams(
        in_channels=16,
        out_channels=16,
        vec_in_dim=24,
        context_in_dim=32,
        hidden_size=72,
        mlp_ratio=4.0,
        num_heads=3,
        depth=1,
        depth_single_blocks=3,
        axes_dim=(4, 10, 10),
        theta=10_000,
        qkv_bias=True,
        guidance_embed=False,
    ),
}

AUTOENCODERS = {
    "embedded": replace(IMPASTO_MINI.autoencoder, scale_factor=0.7, shift_factor=0.2),
    "flux-depth": AutoencoderParams(
        in_channels=3,
        ch=32,
        out_ch=3,
        ch_mult=(1, 2, 4, 4),
        num_res_blocks=2,
        z_channels=16,
        scale_factor=0.3611,
        shift_factor=0.1159,
    ),
}


def within(value: float, bound: float) -> bool:
    """Whether `value` is below `bound`. `benchmarks/margins.py` asks for the ratios of both, by test."""
    if (file := os.environ.get("IMPASTO_MARGINS")) is not None:
        with Path(file).open("a", encoding="utf-8") as margins:
            margins.write(f"{value / bound:.4f} {os.environ['PYTEST_CURRENT_TEST']}\n")
    return value < bound


@dataclass(frozen=True)
class Inputs:
    img: Tensor
    txt: Tensor
    y: Tensor
    timesteps: Tensor
    guidance: Tensor
    img_ids: Tensor
    txt_ids: Tensor

    @classmethod
    def make(cls, params: TransformerParams, *, height: int, width: int, text: int = 9, batch: int = 2) -> Inputs:
        torch.manual_seed(height + width)
        tokens = latents.token_count(height, width)
        return cls(
            img=torch.randn(batch, tokens, params.in_channels),
            txt=torch.randn(batch, text, params.context_in_dim),
            y=torch.randn(batch, params.vec_in_dim),
            timesteps=torch.tensor([0.875, 0.25])[:batch],
            guidance=torch.tensor([3.5, 7.0])[:batch],
            img_ids=latents.image_ids(height, width),
            txt_ids=latents.text_ids(text),
        )

    def ours(self, model: Flux) -> Tensor:
        guidance = self.guidance if model.params.guidance_embed else None
        return model(self.img, self.img_ids, self.txt, self.txt_ids, self.timesteps, self.y, guidance)

    def theirs(self, model: FluxTransformer2DModel) -> Tensor:
        dtype = next(model.parameters()).dtype
        return model(
            hidden_states=self.img.to(dtype),
            encoder_hidden_states=self.txt.to(dtype),
            pooled_projections=self.y.to(dtype),
            timestep=self.timesteps,
            guidance=self.guidance if model.config.guidance_embeds else None,
            img_ids=self.img_ids,
            txt_ids=self.txt_ids,
            return_dict=False,
        )[0]


def our_transformer(theirs: nn.Module, params: TransformerParams, dtype: torch.dtype = torch.float32) -> Flux:
    tensors = keys.from_diffusers(theirs.state_dict(), keys.transformer_rows(params))
    return build(lambda: Flux(params), tensors, name="parity", target=Target(torch.device("cpu"), dtype))


def our_autoencoder(theirs: nn.Module, params: AutoencoderParams, dtype: torch.dtype = torch.float32) -> Autoencoder:
    tensors = keys.from_diffusers(theirs.state_dict(), keys.autoencoder_rows(params))
    target = Target(torch.device("cpu"), dtype)
    return build(lambda: Autoencoder(params), tensors, name="parity", target=target).channels_last()


def record(modules: dict[str, nn.Module], run: Callable[[], Any]) -> dict[str, Any]:
    """What each of `modules` returned during `run`."""
    seen: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, output, name=name: seen.__setitem__(name, output))
        for name, module in modules.items()
    ]
    try:
        seen["whole"] = run()
    finally:
        for hook in hooks:
            hook.remove()
    assert set(seen) == {*modules, "whole"}, "a recorded module did not run"
    return seen


@torch.inference_mode()
@pytest.mark.parametrize("size", [(128, 128), (96, 128), (160, 64)])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_block_of_the_transformer_equals_diffusers(name: str, size: tuple[int, int]) -> None:
    params = TRANSFORMERS[name]
    theirs = diffusers_transformer(params)
    ours = our_transformer(theirs, params)
    inputs = Inputs.make(params, height=size[0], width=size[1])
    doubles = [f"double_blocks.{i}" for i in range(params.depth)]
    singles = [f"single_blocks.{i}" for i in range(params.depth_single_blocks)]
    a = record({key: ours.get_submodule(key) for key in doubles + singles}, lambda: inputs.ours(ours))
    pairs = dict(zip(doubles, theirs.transformer_blocks, strict=True))
    pairs |= dict(zip(singles, theirs.single_transformer_blocks, strict=True))
    b = record(pairs, lambda: inputs.theirs(theirs))
    for key in doubles:
        txt, img = b[key]
        assert within(relative(a[key][0], img), TOLERANCE), f"{key} img"
        assert within(relative(a[key][1], txt), TOLERANCE), f"{key} txt"
    for key in singles:
        assert within(relative(a[key], torch.cat(b[key], dim=1)), TOLERANCE), key
    assert within(relative(a["whole"], b["whole"]), TOLERANCE)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["embedded", "guidance", "heads-of-128"])
def test_bf16_is_no_further_from_float32_than_diffusers_bf16(name: str) -> None:
    params = TRANSFORMERS[name]
    theirs = diffusers_transformer(params)
    inputs = replace(
        Inputs.make(params, height=96, width=128),
        # diffusers rounds 1000 t to bf16 (875 becomes 876), an error of its own that would make the bound easy. These
        # survive.
        timesteps=torch.tensor([0.512, 0.256]),
        guidance=torch.tensor([4.096, 8.192]),
    )
    reference = inputs.theirs(theirs)
    ours = our_transformer(theirs, params, torch.bfloat16)
    our_error = relative(inputs.ours(ours), reference)
    their_error = relative(inputs.theirs(theirs.to(torch.bfloat16)), reference)
    assert within(our_error, BF16_RATIO * their_error)


@torch.inference_mode()
def test_many_times_at_once_equal_one_forward_each() -> None:
    """`modulate` for all steps of a request is what `forward` computes step by step."""
    params = TRANSFORMERS["guidance"]
    model = our_transformer(diffusers_transformer(params), params)
    inputs = Inputs.make(params, height=64, width=64)
    times = torch.tensor([1.0, 0.6, 0.2])[:, None].expand(3, 2)
    mods = model.modulate(model.vector(times, inputs.y, inputs.guidance.expand(3, 2)))
    pe = model.positions(inputs.txt_ids, inputs.img_ids)
    for i in range(3):
        once = model.velocity(inputs.img, model.context(inputs.txt), pe, mods.at(i))
        assert within(relative(once, replace(inputs, timesteps=times[i]).ours(model)), SAME_SUMS)


def test_attention_with_gradients_equals_attention_without() -> None:
    """Training takes another attention kernel on the CPU than inference; both must be the same function."""
    params = TRANSFORMERS["embedded"]
    model = our_transformer(diffusers_transformer(params), params)
    inputs = Inputs.make(params, height=64, width=64)
    trained = inputs.ours(model.requires_grad_(True))
    assert trained.requires_grad
    with torch.inference_mode():
        assert within(relative(inputs.ours(model), trained.detach()), 1e-6)


@torch.inference_mode()
def test_compiled_positions_equal_eager_ones() -> None:
    """Compilers get the rotation in real numbers, everybody else as complex products: one function all the same."""
    pe = rope(latents.image_ids(64, 96), (8, 28, 28), 10_000)
    q = torch.randn(2, 4, 24, 64)
    compiled = torch.compile(apply_rope, backend="eager")
    assert within(relative(compiled(q, pe), apply_rope(q, pe)), 1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_every_stage_of_the_autoencoder_equals_diffusers(name: str, size: tuple[int, int]) -> None:
    params = AUTOENCODERS[name]
    theirs = diffusers_autoencoder(params)
    ours = our_autoencoder(theirs, params)
    pixels = torch.rand(2, 3, *size) * 2 - 1
    levels = len(params.ch_mult)
    stages = {"encoder.conv_in": "encoder.conv_in", "encoder.mid": "encoder.mid_block", "encoder": "encoder"}
    stages |= {"decoder.conv_in": "decoder.conv_in", "decoder.mid": "decoder.mid_block", "decoder": "decoder"}
    stages |= {f"encoder.down.{i}": f"encoder.down_blocks.{i}" for i in range(levels)}
    stages |= {f"decoder.up.{i}": f"decoder.up_blocks.{levels - 1 - i}" for i in range(levels)}
    a = record({key: ours.get_submodule(key) for key in stages}, lambda: ours(pixels))
    b = record(
        {key: theirs.get_submodule(theirs_key) for key, theirs_key in stages.items()},
        lambda: theirs.decode(theirs.encode(pixels).latent_dist.mode()).sample,
    )
    for key in (*stages, "whole"):
        assert within(relative(a[key], b[key]), TOLERANCE), key
    z = theirs.encode(pixels).latent_dist.mode()
    assert within(relative(ours.encode(pixels), (z - params.shift_factor) * params.scale_factor), TOLERANCE)


@torch.inference_mode()
def test_a_sampled_encoding_is_the_posterior_at_the_given_noise() -> None:
    params = AUTOENCODERS["embedded"]
    theirs = diffusers_autoencoder(params)
    posterior = theirs.encode(pixels := torch.rand(1, 3, 64, 64) * 2 - 1).latent_dist
    noise = torch.randn(1, 16, 8, 8)
    expected = (posterior.mean + posterior.std * noise - params.shift_factor) * params.scale_factor
    assert within(relative(our_autoencoder(theirs, params).encode(pixels, noise), expected), TOLERANCE)


@torch.inference_mode()
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_bf16_autoencoder_is_no_further_from_float32_than_diffusers_bf16(name: str) -> None:
    params = AUTOENCODERS[name]
    theirs = diffusers_autoencoder(params)
    z = torch.randn(1, 16, 8, 12)
    reference = theirs.decode(z / params.scale_factor + params.shift_factor).sample
    our_error = relative(our_autoencoder(theirs, params, torch.bfloat16).decode(z), reference)
    wide = (z / params.scale_factor + params.shift_factor).bfloat16()
    their_error = relative(theirs.to(torch.bfloat16).decode(wide).sample, reference)
    assert within(our_error, BF16_RATIO * their_error)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_keys_convert_both_ways_without_loss(name: str) -> None:
    params = TRANSFORMERS[name]
    theirs = diffusers_transformer(params).state_dict()
    ours = keys.from_diffusers(theirs, keys.transformer_rows(params))
    back = keys.to_diffusers(ours, keys.transformer_rows(params))
    assert set(back) == set(theirs)
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)
    assert keys.from_diffusers(ours, keys.transformer_rows(params)).keys() == ours.keys()


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder_keys_convert_both_ways_without_loss(name: str) -> None:
    params = AUTOENCODERS[name]
    theirs = diffusers_autoencoder(params).state_dict()
    ours = keys.from_diffusers(theirs, keys.autoencoder_rows(params))
    back = keys.to_diffusers(ours, keys.autoencoder_rows(params))
    assert set(back) == set(theirs)
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("spec", [FLUX1_DEV, FLUX1_SCHNELL], ids=lambda spec: spec.name)
def test_published_flux_has_the_tensors_and_parameters_that_diffusers_says(spec: ModelSpec) -> None:
    """At full size, on the meta device: keys, shapes and the 11.9 billion parameters."""
    with torch.device("meta"):
        ours, theirs = Flux(spec.transformer), FluxTransformer2DModel(guidance_embeds=spec.transformer.guidance_embed)
        ae, kl = Autoencoder(spec.autoencoder), diffusers_flux_autoencoder()
        for module, other, rows in (
            (ours, theirs, keys.transformer_rows(spec.transformer)),
            (ae, kl, keys.autoencoder_rows(spec.autoencoder)),
        ):
            converted = keys.to_diffusers(module.state_dict(), rows)
            expected = {key: tensor.shape for key, tensor in other.state_dict().items()}
            assert {key: tensor.shape for key, tensor in converted.items()} == expected
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) > 11.8e9


def diffusers_flux_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


@torch.inference_mode()
def test_a_diffusers_folder_of_shards_loads_as_it_is(tmp_path: Path) -> None:
    params, shape = TRANSFORMERS["guidance"], AUTOENCODERS["embedded"]
    transformer, autoencoder = diffusers_transformer(params), diffusers_autoencoder(shape)
    transformer.save_pretrained(tmp_path / "transformer", max_shard_size="10MB")
    autoencoder.save_pretrained(tmp_path / "vae")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    found = locate(tmp_path)
    assert found.spec == replace(FLUX1_DEV, transformer=params, autoencoder=shape)
    inputs = Inputs.make(params, height=64, width=64)
    loaded = weights.load_transformer(found, weights.CPU)
    assert within(relative(inputs.ours(loaded), inputs.theirs(transformer)), TOLERANCE)
    z = torch.randn(1, 16, 8, 8)
    expected = autoencoder.decode(z / shape.scale_factor + shape.shift_factor).sample
    assert within(relative(weights.load_autoencoder(found, weights.CPU).decode(z), expected), TOLERANCE)
    with pytest.raises(WeightsError, match="wrong shape"):
        weights.load_autoencoder(replace(found, spec=FLUX1_DEV), weights.CPU)


class _NoText:
    def encode(self, prompts: list[str]) -> Any:
        class States:
            txt, vec, counts, truncated = torch.empty(0), torch.empty(0), (0,), (False,)

        return States()


@torch.inference_mode()
@pytest.mark.parametrize("guidance", ["distilled", "cfg", "none"])
def test_a_whole_picture_equals_that_of_diffusers_pipeline(guidance: str) -> None:
    """Noise, schedule, guidance, loop and decoding together, against FluxPipeline with the same weights."""
    params = replace(TRANSFORMERS["guidance"], guidance_embed=guidance == "distilled")
    transformer, autoencoder = diffusers_transformer(params), diffusers_autoencoder(AUTOENCODERS["embedded"])
    shift = None if guidance == "none" else IMPASTO_MINI.shift
    spec = replace(FLUX1_DEV, transformer=params, autoencoder=AUTOENCODERS["embedded"], guidance=guidance, shift=shift)
    pipeline = Pipeline(
        spec,
        transformer=our_transformer(transformer, params),
        autoencoder=our_autoencoder(autoencoder, spec.autoencoder),
        text=_NoText(),
    )
    torch.manual_seed(3)
    txt, vec = torch.randn(2, 9, params.context_in_dim), torch.randn(2, params.vec_in_dim)
    conditioning = Conditioning(txt=txt, vec=vec, tokens=9, truncated=False)
    height, width = 96, 128
    *_, last = pipeline.denoise(conditioning, seed=5, index=0, height=height, width=width, steps=4, guidance=3.5)
    ours = pipeline.decode(last.latents, height=height, width=width)

    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=shift is not None,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    judge = FluxPipeline(
        scheduler=scheduler,
        vae=autoencoder,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    judge.set_progress_bar_config(disable=True)
    shared: dict[str, Any] = {
        "prompt_embeds": txt[:1],
        "pooled_prompt_embeds": vec[:1],
        "height": height,
        "width": width,
        "num_inference_steps": 4,
        "guidance_scale": 3.5,
        "return_dict": False,
    }
    if guidance == "cfg":
        shared |= {"negative_prompt_embeds": txt[1:], "negative_pooled_prompt_embeds": vec[1:], "true_cfg_scale": 3.5}
    noise = latents.pack(latents.noise(5, 0, height, width, 16))
    theirs = judge(latents=noise, output_type="latent", **shared)[0]
    assert within(relative(latents.pack(last.latents), theirs), TOLERANCE)
    picture = judge(latents=noise, output_type="np", **shared)[0][0]
    assert abs(ours.astype(int) - (picture * 255).round().astype(int)).max() <= 1
