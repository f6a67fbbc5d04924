"""Every FLUX.1 against diffusers' own pipeline for it: `benchmarks/parity.py` measures, the bounds are here.

Each step of ours from diffusers' latents of the step before, the last latents of our own run, and the picture, which
may differ by one 8-bit step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import parity
import pytest
import torch
from parity import HEIGHT, NEGATIVE, WIDTH, WORDS, case, mask, noise, picture, scheduler
from torch import Tensor

from impasto.flux import latents, schedule
from impasto.flux.conditioning import Init, Seen
from impasto.flux.models import FLUX1_DEV, FLUX1_SCHNELL, ModelSpec, Shift
from impasto.flux.run import Run
from impasto.flux.sizes import KONTEXT_SIZES, context_size, kontext_size
from impasto.flux.transformer import Flux

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("variant", parity.VARIANTS)
def test_a_variant_draws_what_diffusers_draws(variant: str) -> None:
    found = parity.VARIANTS[variant]()
    assert max(found.steps) < TOLERANCE, f"teacher-forced error of each step: {found.steps}"
    assert found.end < TOLERANCE
    assert found.pixels <= 1
    assert found.spread > 1, "a flat picture would prove nothing"


def test_pictures_become_latents_and_latents_pictures_as_in_diffusers() -> None:
    found = parity.autoencoder()
    assert found["encode"] < TOLERANCE
    assert found["decode_pixels"] <= 1


def test_outside_of_the_region_the_picture_stays() -> None:
    it = case(FLUX1_DEV)
    region = it.ours.encode_region(mask(), height=HEIGHT, width=WIDTH)
    assert region.shape == (1, 1, HEIGHT // 8, WIDTH // 8)
    assert set(region.unique().tolist()) == {0.0, 1.0}
    init = Init(it.latents(picture()), 0.9, region)
    *_, last = it.ours.denoise(it.ours.encode(WORDS), seed=1, index=0, height=HEIGHT, width=WIDTH, steps=3, init=init)
    outside = region.expand_as(init.latents) == 0
    assert torch.equal(last.latents[outside], init.latents[outside])
    assert not torch.allclose(last.latents[~outside], init.latents[~outside], atol=0.1)


def test_a_model_without_a_shift_keeps_its_schedule() -> None:
    it = case(FLUX1_SCHNELL)
    size = {"seed": 1, "index": 0, "height": HEIGHT, "width": WIDTH, "steps": 2}
    plain, shifted = (
        [step.sigma for step in it.ours.denoise(it.ours.encode(WORDS), **size, shift=shift)]
        for shift in (None, Shift(2.0, 3.0))
    )
    assert plain == shifted


def test_kontext_sees_a_picture_at_the_nearest_size_of_its_training() -> None:
    """diffusers' own rule, for every ratio from 1:5 to 5:1; and the pixels that it makes of one."""
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    assert sorted((h, w) for w, h in PREFERRED_KONTEXT_RESOLUTIONS) == sorted(KONTEXT_SIZES)
    for width in range(200, 5000, 7):
        _, w, h = min((abs(width / 1000 - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
        assert kontext_size(1000, width) == (h, w)


@pytest.mark.parametrize(
    ("picture", "drawn", "seen"),
    [
        ((768, 768), (768, 768), (768, 768)),
        ((600, 800), (592, 800), (592, 800)),
        ((1448, 1448), (1440, 1440), (1440, 1440)),
        ((600, 800), (880, 1168), (880, 1184)),  # about the trained size: that is nearer to training
        ((1024, 1024), (1024, 1024), (1024, 1024)),
        ((768, 768), (400, 800), (1024, 1024)),  # another ratio: no grid of the result would fit it
    ],
)
def test_kontext_sees_a_picture_on_the_grid_of_a_result_far_from_its_training(
    picture: tuple[int, int], drawn: tuple[int, int], seen: tuple[int, int]
) -> None:
    assert context_size(picture, drawn) == seen


def test_the_pass_without_the_prompt_sees_no_picture() -> None:
    it = case(FLUX1_DEV)
    both = it.ours.encode(WORDS, negative=NEGATIVE)
    seen = both.seeing([Seen(torch.ones(1, 16, 32))])
    assert seen.txt.shape == (2, 64 + 16, 32)
    assert seen.txt[1, 64:].abs().max() == 0
    assert torch.equal(seen.txt[1, :64], both.txt[1])
    assert both.seeing([]) is both


class Cramped(torch.nn.Module):
    """A transformer whose memory holds one sample, not two."""

    def __init__(self, inner: Flux) -> None:
        super().__init__()
        self.inner = inner
        self.params = inner.params
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return (
            super().__getattr__(name) if name in ("inner", "_modules") else getattr(super().__getattr__("inner"), name)
        )

    def velocity(self, img: Tensor, *rest: Any) -> Tensor:
        if len(img) > 1:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner.velocity(img, *rest)


def test_two_passes_that_do_not_fit_together_run_one_after_the_other() -> None:
    it = case(FLUX1_DEV)
    both = it.ours.encode(WORDS, negative=NEGATIVE)
    img = noise()
    roomy = Run(it.ours._transformer, it.ours.spec, both, native=(HEIGHT, WIDTH), steps=2, guidance=3.5, cfg=4.0)
    small = Cramped(it.ours._transformer)
    tight = Run(small, it.ours.spec, both, native=(HEIGHT, WIDTH), steps=2, guidance=3.5, cfg=4.0)  # type: ignore[arg-type]
    for i in range(2):
        torch.testing.assert_close(tight.velocity(i, img), roomy.velocity(i, img), rtol=1e-4, atol=1e-5)
    assert small.refused == 1, "it is not tried again"
    alone = it.ours.encode(WORDS)
    small.velocity = lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        Run(small, it.ours.spec, alone, native=(HEIGHT, WIDTH), steps=2, guidance=3.5).velocity(0, img)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [FLUX1_DEV, FLUX1_SCHNELL], ids=lambda spec: spec.name)
@pytest.mark.parametrize("steps", [1, 4, 28, 50])
def test_schedule_and_shift_are_those_of_the_scheduler_for_every_size(spec: ModelSpec, steps: int) -> None:
    """All presets, ultra's sizes, the smallest and the largest: sigma by sigma."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

    sizes = [(64, 64), (512, 512), (1024, 768), (1024, 576), (1024, 1024), (2048, 2048), (1568, 672), (2752, 1536)]
    for width, height in sizes:
        tokens = latents.token_count(height, width)
        judge = scheduler(spec)
        mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
        retrieve_timesteps(judge, steps, "cpu", sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        ours = torch.tensor(schedule.sigmas(steps, tokens, spec.shift))
        torch.testing.assert_close(ours, judge.sigmas.float(), rtol=1e-6, atol=1e-7)
