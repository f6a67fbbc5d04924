"""Image-to-image against diffusers' own pipeline; what an image prompt promises; where a caller's picture is laid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline, FluxTransformer2DModel
from PIL import Image

from impasto.flux import images, keys, latents, schedule
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.box import Box
from impasto.flux.models import FLUX1_DEV, IMPASTO_MINI, NativeSize
from impasto.flux.pipeline import Conditioning, Init, Pipeline, Pixels, Reference
from impasto.flux.transformer import Flux


def scene(height: int, width: int, *, seed: int = 0) -> Pixels:
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def draw(pipeline: Pipeline, prompt: str = "a red fox", **kwargs: Any) -> Pixels:
    arguments = {"seed": 7, "index": 0, "steps": 8, "guidance": 3.5, "height": 96, "width": 128} | kwargs
    *_, last = pipeline.denoise(pipeline.encode(prompt), **arguments)
    return pipeline.decode(last.latents, height=96, width=128)


class _NoText:
    def encode(self, prompts: list[str]) -> Any:
        raise AssertionError("the conditioning is given")


@torch.inference_mode()
@pytest.mark.parametrize("strength", [0.01, 0.3, 0.6, 0.95, 1.0])
def test_image_to_image_equals_that_of_diffusers_pipeline(strength: float) -> None:
    torch.manual_seed(1)
    params = replace(IMPASTO_MINI.transformer, guidance_embed=True, context_in_dim=48, vec_in_dim=40)
    shape = replace(IMPASTO_MINI.autoencoder, scale_factor=0.7, shift_factor=0.2)
    flux, ae = Flux(params).eval(), Autoencoder(shape).eval()
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=params.depth,
        num_single_layers=params.depth_single_blocks,
        attention_head_dim=params.head_dim,
        num_attention_heads=params.num_heads,
        joint_attention_dim=48,
        pooled_projection_dim=40,
        guidance_embeds=True,
        axes_dims_rope=params.axes_dim,
    ).eval()
    transformer.load_state_dict(keys.to_diffusers(flux.state_dict(), keys.transformer_rows(params)))
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=tuple(shape.ch * m for m in shape.ch_mult),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=shape.norm_groups,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.7,
        shift_factor=0.2,
    ).eval()
    autoencoder.load_state_dict(keys.to_diffusers(ae.state_dict(), keys.autoencoder_rows(shape)))
    spec = replace(FLUX1_DEV, transformer=params, autoencoder=shape)
    pipeline = Pipeline(spec, transformer=flux, autoencoder=ae, text=_NoText())
    txt, vec = torch.randn(1, 9, 48), torch.randn(1, 40)
    conditioning = Conditioning(txt=txt, vec=vec, tokens=9, truncated=False)
    picture, height, width = scene(150, 200), 96, 128
    init = Init(pipeline.encode_image(picture, height=height, width=width), strength)
    common: dict[str, Any] = {"height": height, "width": width}
    *_, last = pipeline.denoise(conditioning, seed=5, index=0, steps=7, guidance=3.5, init=init, **common)
    ours = pipeline.decode(last.latents, **common)

    judge = FluxImg2ImgPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
        ),
        vae=autoencoder,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    judge.set_progress_bar_config(disable=True)
    # diffusers samples the posterior and would draw other noise: both come from outside, the rest is its own.
    taken = judge.image_processor.preprocess(Image.fromarray(picture), height=height, width=width)
    mean = (autoencoder.encode(taken).latent_dist.mode() - 0.2) * 0.7
    assert (init.latents - mean).abs().max() < 1e-4
    judge.scheduler.set_timesteps(
        sigmas=np.linspace(1.0, 1 / 7, 7).tolist(), mu=IMPASTO_MINI.shift.mu(48) if IMPASTO_MINI.shift else 0
    )
    times, _ = judge.get_timesteps(7, strength, torch.device("cpu"))
    start = judge.scheduler.scale_noise(mean, times[:1], latents.noise(5, 0, height, width, 16))
    shared: dict[str, Any] = {
        "image": Image.fromarray(picture),
        "latents": latents.pack(start),
        "prompt_embeds": txt,
        "pooled_prompt_embeds": vec,
        "num_inference_steps": 7,
        "strength": strength,
        "guidance_scale": 3.5,
        "return_dict": False,
        **common,
    }
    theirs = judge(output_type="latent", **shared)[0]
    assert (latents.pack(last.latents) - theirs).abs().max() < 1e-4
    pixels = judge(output_type="np", **shared)[0][0]
    assert abs(ours.astype(int) - (pixels * 255).round().astype(int)).max() <= 1


@pytest.mark.parametrize(("strength", "left"), [(0.0, 1), (0.01, 1), (0.25, 2), (0.5, 4), (0.95, 8), (1.0, 8)])
def test_strength_says_how_many_steps_are_left(pipeline: Pipeline, strength: float, left: int) -> None:
    init = Init(pipeline.encode_image(scene(96, 128), height=96, width=128), strength)
    steps = list(pipeline.denoise(pipeline.encode("a cat"), seed=1, index=0, height=96, width=128, steps=8, init=init))
    assert [(step.index, step.total) for step in steps] == [(i, left) for i in range(left)]
    assert steps[-1].sigma == 0.0


def test_at_full_strength_nothing_is_left_of_the_start(pipeline: Pipeline) -> None:
    init = Init(pipeline.encode_image(scene(96, 128), height=96, width=128), 1.0)
    assert draw(pipeline, init=init).tobytes() == draw(pipeline).tobytes()


def test_an_image_prompt_of_strength_zero_changes_nothing(pipeline: Pipeline) -> None:
    reference = Reference(pipeline.encode_image(scene(96, 128), height=96, width=128), 0.0)
    assert draw(pipeline, reference=reference).tobytes() == draw(pipeline).tobytes()


def test_an_image_prompt_of_strength_one_becomes_the_picture(pipeline: Pipeline) -> None:
    target = pipeline.encode_image(scene(96, 128), height=96, width=128)
    *_, last = pipeline.denoise(
        pipeline.encode("a cat"),
        seed=1,
        index=0,
        height=96,
        width=128,
        steps=8,
        reference=Reference(target, 1.0),
    )
    assert (last.latents - target).abs().max() < 1e-4


def test_the_pull_grows_with_strength_and_lets_go_at_the_end() -> None:
    strengths = [i / 10 for i in range(1, 11)]
    pulls = [schedule.pull(s, 0.9) for s in strengths]
    assert pulls == sorted(set(pulls))
    assert schedule.pull(0.0, 0.9) == 0.0
    assert schedule.pull(0.5, 0.1) == 0.0
    assert schedule.pull(1.0, 0.01) == 1.0


def test_a_picture_of_another_ratio_is_cut_not_stretched() -> None:
    """A white disc stays round: as wide as high, wherever the long side lies."""
    y, x = np.mgrid[:300, :600]
    disc = ((y - 150) ** 2 + (x - 300) ** 2 < 60**2).astype(np.uint8)[..., None].repeat(3, 2) * 255
    fitted = images.fit(disc, native=(128, 128), box=Box(0, 0, 128, 128))[..., 0] > 127
    high, wide = fitted.any(1).sum(), fitted.any(0).sum()
    assert fitted.shape == (128, 128)
    assert abs(int(high) - int(wide)) <= 1
    assert abs(int(high) - 120 * 128 / 300) <= 2


def test_a_mask_counts_by_its_luminance() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
    assert images.white(np.array([colours], np.uint8)).tolist() == [[False, True, False, True, True, False]]
    greys = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    assert (images.white(greys)[0] == (np.arange(256) >= 128)).all()


def test_what_decode_would_cut_away_is_filled_with_the_edge() -> None:
    fitted = images.fit(scene(50, 100), native=(64, 112), box=Box(7, 6, 57, 106))
    assert fitted.shape == (64, 112, 3)
    assert (fitted[7:57, 6:106] == scene(50, 100)).all(), "not a pixel is moved"
    assert (fitted[:7] == fitted[7]).all()
    assert (fitted[57:] == fitted[56]).all()
    assert (fitted[:, :6] == fitted[:, 6:7]).all()


@pytest.mark.parametrize(("height", "width"), [(1009, 1009), (513, 1025), (667, 1001), (64, 80)])
def test_a_picture_given_and_a_picture_shown_lie_in_the_same_place(pipeline: Pipeline, height: int, width: int) -> None:
    """Whatever the size: `decode` cuts out of the native size just what `encode_image` put there."""
    bare = Pipeline(
        pipeline.spec, transformer=pipeline._transformer, autoencoder=pipeline._autoencoder, text=pipeline._text
    )
    native = NativeSize().native(height, width)
    box = bare._shown(native, height, width)
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    laid = images.fit(pixels, native=native, box=box)
    shown, _ = box.cut(torch.from_numpy(laid).permute(2, 0, 1)[None])
    assert (shown[0].permute(1, 2, 0).numpy() == pixels).all()
