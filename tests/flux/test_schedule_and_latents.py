"""Sigmas, noise, packing and sizes: the numbers that every picture starts from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from impasto.flux import latents, schedule
from impasto.flux.models import FLUX1_DEV, IMPASTO_MINI, MODELS, Shift

PRESETS = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}


def flux_scheduler(*, dynamic: bool) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=dynamic,
        shift=3.0 if dynamic else 1.0,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


@pytest.mark.parametrize("steps", [1, 4, 20, 28, 50])
@pytest.mark.parametrize("tokens", [48, 64, 256, 1024, 3072, 4096])
def test_shifted_sigmas_equal_those_of_diffusers(steps: int, tokens: int) -> None:
    scheduler = flux_scheduler(dynamic=True)
    mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    ours = torch.tensor(schedule.sigmas(steps, tokens, Shift()))
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_unshifted_sigmas_equal_those_of_diffusers_for_schnell(steps: int) -> None:
    scheduler = flux_scheduler(dynamic=False)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
    ours = torch.tensor(schedule.sigmas(steps, 1024, None))
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=1e-6, atol=1e-7)


def test_an_euler_walk_equals_that_of_diffusers() -> None:
    scheduler = flux_scheduler(dynamic=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 6, 6), mu=Shift().mu(64))
    theirs = ours = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    sigmas = schedule.sigmas(6, 64, Shift())
    for i, t in enumerate(scheduler.timesteps):
        velocity = torch.sin(3 * theirs) + i
        ours = schedule.euler(ours, torch.sin(3 * ours) + i, sigma=sigmas[i], sigma_next=sigmas[i + 1])
        theirs = scheduler.step(velocity, t, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_euler_keeps_latents_in_float32() -> None:
    out = schedule.euler(torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bfloat16), sigma=1.0, sigma_next=0.9)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.full((1, 4, 4), -0.1))


def test_a_schedule_needs_a_step() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        schedule.sigmas(0, 64, None)


def test_the_first_sample_starts_from_torchs_own_noise_for_the_seed() -> None:
    expected = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(42))
    assert torch.equal(latents.noise(42, 0, 128, 128, 16), expected)


def test_noise_depends_on_seed_and_index() -> None:
    drawn = [latents.noise(seed, index, 64, 64, 16) for seed in (0, 1, 2**64 - 1) for index in range(4)]
    assert len({noise.numpy().tobytes() for noise in drawn}) == 12
    assert torch.equal(latents.noise(1, 3, 64, 64, 16), drawn[4 + 3])


def test_neighbouring_seeds_share_no_sample() -> None:
    first = {latents.sample_seed(1, index) for index in range(8)}
    second = {latents.sample_seed(2, index) for index in range(8)}
    assert not first & second


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    latents.noise(1, 0, 64, 64, 16)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 128), (80, 128), (16, 64)])
def test_packing_and_ids_equal_those_of_diffusers_and_invert(height: int, width: int) -> None:
    z = torch.randn(2, 16, height // 8, width // 8)
    packed = latents.pack(z)
    assert packed.shape == (2, latents.token_count(height, width), 64)
    assert torch.equal(packed, FluxPipeline._pack_latents(z, 2, 16, height // 8, width // 8))
    assert torch.equal(latents.unpack(packed, height, width), z)
    ids = FluxPipeline._prepare_latent_image_ids(1, height // 16, width // 16, torch.device("cpu"), torch.float32)
    assert torch.equal(latents.image_ids(height, width), ids)


@pytest.mark.parametrize("size", [(0, 64), (64, 24), (8, 16), (-16, 16)])
def test_sizes_that_do_not_pack_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        latents.noise(0, 0, *size, 16)


@pytest.mark.parametrize(
    ("preset", "native"),
    [
        ("square_hd", (256, 256)),
        ("square", (256, 256)),
        ("portrait_4_3", (192, 256)),
        ("portrait_16_9", (144, 256)),
        ("landscape_4_3", (256, 192)),
        ("landscape_16_9", (256, 144)),
    ],
)
def test_the_embedded_model_draws_each_preset_at_its_native_size(preset: str, native: tuple[int, int]) -> None:
    width, height = PRESETS[preset]
    assert IMPASTO_MINI.native_size.native(height, width) == native[::-1]


@pytest.mark.parametrize("size", PRESETS.values())
def test_flux_draws_each_preset_as_it_is(size: tuple[int, int]) -> None:
    assert FLUX1_DEV.native_size.native(*size) == size


@pytest.mark.parametrize(("height", "width"), [(64, 14142), (14142, 64), (512, 2048), (1, 1), (900, 400), (333, 1000)])
def test_extreme_sizes_stay_within_what_the_embedded_model_was_trained_for(height: int, width: int) -> None:
    for side in IMPASTO_MINI.native_size.native(height, width):
        assert 128 <= side <= 304
        assert side % 16 == 0


def test_flux_rounds_odd_sizes_up() -> None:
    assert FLUX1_DEV.native_size.native(750, 1001) == (752, 1008)


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.name)
def test_every_model_of_the_table_fits_together(spec) -> None:
    token = spec.autoencoder.z_channels * latents.PATCH**2
    # beside the picture's own token: nothing, its control map, or the masked picture and the mask's 8x8 pixels
    beside = {"canny": token, "depth": token, "mask": token + (latents.DOWNSCALE * latents.PATCH) ** 2}
    assert spec.transformer.in_channels == token + beside.get(spec.sight, 0)
    assert spec.transformer.out_channels == token
    assert spec.autoencoder.downscale == latents.DOWNSCALE
    assert (spec.guidance == "distilled") == spec.transformer.guidance_embed
    assert {"transformer", "autoencoder"} <= {file.role for file in spec.files}
    assert any(file.role == "upscaler" for file in spec.files) == (spec.native_size.upscale > 1)
