"""Every FLUX.1 against diffusers' own pipeline for it: the same small weights, the same words, the same noise.

Three measures each: the latents after every step of diffusers' run, ours from diffusers' own latents of the step before
(teacher-forced, so that errors do not add up); the last latents of our own run; and the picture, which may differ by
one 8-bit step. Where diffusers samples a picture's encoding we take its mean, so the autoencoder here is made certain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxPriorReduxPipeline,
)
from PIL import Image
from torch import Tensor
from transformers import SiglipImageProcessor

from impasto.flux import latents, schedule, weights
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.conditioning import Context, Init, Seen
from impasto.flux.models import (
    FLUX1_CANNY,
    FLUX1_DEPTH,
    FLUX1_DEV,
    FLUX1_FILL,
    FLUX1_KONTEXT,
    FLUX1_KREA,
    FLUX1_SCHNELL,
    ModelSpec,
)
from impasto.flux.pipeline import Pipeline, Pixels
from impasto.flux.redux import Projector, Redux
from impasto.flux.run import Run
from impasto.flux.sizes import KONTEXT_SIZES, kontext_size
from impasto.flux.transformer import Flux

from ..checkpoints import AUTOENCODER, SIGLIP, Made, made, redux_parts

HEIGHT, WIDTH, STEPS, SEED = 96, 128, 3, 5
TOLERANCE = 1e-5
WORDS, NEGATIVE = "a red fox in the snow", "blurred"


@dataclass
class Case:
    """A loaded model in both hands, and what diffusers' run left behind."""

    parts: Made
    ours: Pipeline
    seen: list[Tensor] = field(default_factory=list[Tensor])

    def judge(self, kind: type[Any], **kwargs: Any) -> Callable[..., Any]:
        """diffusers' pipeline of that class; every call records its latents and returns (latents, picture)."""
        pipeline = kind(
            scheduler=scheduler(self.ours.spec),
            vae=self.parts.autoencoder,
            transformer=self.parts.transformer,
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
            **kwargs,
        )
        pipeline.set_progress_bar_config(disable=True)

        def call(**arguments: Any) -> tuple[Tensor, Pixels]:
            self.seen.clear()

            def record(_pipeline: Any, _step: int, _time: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
                self.seen.append(found["latents"].clone())
                return {}

            shared = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": STEPS, "return_dict": False} | arguments
            picture = pipeline(output_type="np", callback_on_step_end=record, **shared)[0][0]
            return self.seen[-1], (picture * 255).round().astype(np.uint8)

        return call

    def words(self) -> dict[str, Tensor]:
        states = self.ours.encode(WORDS)
        return {"prompt_embeds": states.txt[:1], "pooled_prompt_embeds": states.vec[:1]}


def scheduler(spec: ModelSpec) -> FlowMatchEulerDiscreteScheduler:
    """With the published configuration: [schnell] is not shifted."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=spec.shift is not None,
        shift=1.0 if spec.shift is None else 3.0,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


@cache
def case(spec: ModelSpec) -> Case:
    parts = made(spec)
    certain(parts.autoencoder)
    small = parts.small
    ours = Pipeline(
        small,
        transformer=weights.build(lambda: Flux(small.transformer), parts.bfl(), name="transformer"),
        autoencoder=weights.build(lambda: Autoencoder(AUTOENCODER), parts.bfl_autoencoder(), name="vae"),
        text=parts.words(64),
        redux=redux(),
    )
    return Case(parts, ours)


def certain(autoencoder: Any) -> None:
    """The posterior without spread: a sample of it is its mean."""
    with torch.no_grad():
        autoencoder.encoder.conv_out.weight[16:] = 0
        autoencoder.encoder.conv_out.bias[16:] = -30


@cache
def redux() -> Redux:
    encoder, projector = redux_parts()
    params = weights.build(lambda: Projector(REDUX), projector.state_dict(), name="redux")
    return Redux(encoder, params, size=SIGLIP.image_size)


class REDUX:
    hidden_size, out_features = SIGLIP.hidden_size, 32


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Pixels:
    """Soft shapes: like a photograph, not like noise."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def noise(case: Case) -> Tensor:
    return latents.pack(latents.noise(SEED, 0, HEIGHT, WIDTH, AUTOENCODER.z_channels))


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def judged(case: Case, theirs: tuple[Tensor, Pixels], *, start: Tensor | None = None, **ours: Any) -> None:
    """The three measures."""
    expected, pixels = theirs
    conditioning = ours.pop("conditioning")
    *_, last = case.ours.denoise(conditioning, seed=SEED, index=0, height=HEIGHT, width=WIDTH, steps=STEPS, **ours)
    init = ours.pop("init", None)
    run = Run(
        case.ours._transformer,
        case.ours.spec,
        conditioning,
        native=(HEIGHT, WIDTH),
        steps=STEPS,
        strength=1.0 if init is None else init.strength,
        **{"guidance": case.ours.spec.default_guidance, **ours},
    )
    before = [noise(case) if start is None else start, *case.seen]
    assert len(before) == len(run.sigmas)
    errors = [
        relative(schedule.euler(img, run.velocity(i, img), sigma=a, sigma_next=b), before[i + 1])
        for i, (img, (a, b)) in enumerate(zip(before, pairwise(run.sigmas), strict=False))
    ]
    assert max(errors) < TOLERANCE, f"teacher-forced error of each step: {errors}"
    assert relative(latents.pack(last.latents), expected) < TOLERANCE
    drawn = case.ours.decode(last.latents, height=HEIGHT, width=WIDTH)
    assert np.abs(drawn.astype(int) - pixels.astype(int)).max() <= 1
    assert drawn.std() > 1, "a flat picture would prove nothing"


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("spec", [FLUX1_DEV, FLUX1_SCHNELL, FLUX1_KREA], ids=lambda spec: spec.name)
def test_text_to_image(spec: ModelSpec) -> None:
    it = case(spec)
    theirs = it.judge(FluxPipeline)(latents=noise(it), guidance_scale=spec.default_guidance, **it.words())
    judged(it, theirs, conditioning=it.ours.encode(WORDS))


def test_guidance_by_two_passes_with_a_negative_prompt() -> None:
    it = case(FLUX1_DEV)
    both = it.ours.encode(WORDS, negative=NEGATIVE)
    negative = {"negative_prompt_embeds": both.txt[1:], "negative_pooled_prompt_embeds": both.vec[1:]}
    theirs = it.judge(FluxPipeline)(latents=noise(it), guidance_scale=3.5, true_cfg_scale=4.0, **negative, **it.words())
    judged(it, theirs, conditioning=both, cfg=4.0)


@pytest.mark.parametrize("strength", [0.4, 0.95])
def test_image_to_image(strength: float) -> None:
    it = case(FLUX1_DEV)
    image = picture()
    init = Init(it.ours.encode_image(image, height=HEIGHT, width=WIDTH), strength)
    sigma = schedule.remaining(
        schedule.sigmas(STEPS, latents.token_count(HEIGHT, WIDTH), it.ours.spec.shift), strength
    )[0]
    start = schedule.noised(latents.pack(init.latents), noise(it), sigma=sigma)
    theirs = it.judge(FluxImg2ImgPipeline)(
        image=Image.fromarray(image), strength=strength, latents=start, guidance_scale=3.5, **it.words()
    )
    judged(it, theirs, start=start, conditioning=it.ours.encode(WORDS), init=init)


def test_fill() -> None:
    it = case(FLUX1_FILL)
    image, mask = picture(), np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[20:70, 31:90] = 255
    theirs = it.judge(FluxFillPipeline)(
        image=Image.fromarray(image), mask_image=Image.fromarray(mask), latents=noise(it), guidance_scale=30.0,
        **it.words(),
    )  # fmt: skip
    beside = it.ours.encode_fill(image, mask, height=HEIGHT, width=WIDTH)
    assert beside.shape == (1, HEIGHT * WIDTH // 256, 320)
    judged(it, theirs, conditioning=it.ours.encode(WORDS), beside=beside)


@pytest.mark.parametrize("spec", [FLUX1_CANNY, FLUX1_DEPTH], ids=lambda spec: spec.name)
def test_control(spec: ModelSpec) -> None:
    it = case(spec)
    theirs = it.judge(FluxControlPipeline)(
        control_image=Image.fromarray(picture()), latents=noise(it), guidance_scale=spec.default_guidance, **it.words()
    )
    beside = it.ours.encode_control(picture(), height=HEIGHT, width=WIDTH)
    judged(it, theirs, conditioning=it.ours.encode(WORDS), beside=beside)


def test_kontext() -> None:
    it = case(FLUX1_KONTEXT)
    theirs = it.judge(FluxKontextPipeline)(
        image=Image.fromarray(picture(64, 80)), latents=noise(it), guidance_scale=2.5, max_area=HEIGHT * WIDTH,
        _auto_resize=False, **it.words(),
    )  # fmt: skip
    context = Context.of([it.ours.encode_image(picture(64, 80), height=64, width=80)])
    judged(it, theirs, conditioning=it.ours.encode(WORDS), context=context)


def test_kontext_sees_a_picture_at_the_nearest_size_of_its_training() -> None:
    """diffusers' own rule, for every ratio from 1:5 to 5:1; and the pixels that it makes of one."""
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    assert sorted((h, w) for w, h in PREFERRED_KONTEXT_RESOLUTIONS) == sorted(KONTEXT_SIZES)
    for width in range(200, 5000, 7):
        _, w, h = min((abs(width / 1000 - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
        assert kontext_size(1000, width) == (h, w)


@pytest.mark.parametrize("scales", [[1.0], [0.6], [0.7, 0.4]], ids=str)
def test_redux(scales: list[float]) -> None:
    it = case(FLUX1_DEV)
    words = it.words().values()
    encoder, projector = redux_parts()
    prior = FluxPriorReduxPipeline(
        image_encoder=encoder,
        feature_extractor=SiglipImageProcessor(size={"height": 56, "width": 56}),
        image_embedder=projector,
        text_encoder=it.parts.clip,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )
    prior.encode_prompt = lambda **_: (
        *(states.repeat(len(scales), *[1] * (states.ndim - 1)) for states in words),
        None,
    )  # type: ignore[method-assign]
    images = [picture(90, 70, seed=i) for i in range(len(scales))]
    seen = prior(
        image=[Image.fromarray(image) for image in images], prompt_embeds_scale=scales,
        pooled_prompt_embeds_scale=scales, return_dict=False,
    )  # fmt: skip
    theirs = it.judge(FluxPipeline)(
        latents=noise(it), guidance_scale=3.5, prompt_embeds=seen[0], pooled_prompt_embeds=seen[1]
    )
    pictures = [it.ours.see(image, picture=scale, text=scale) for image, scale in zip(images, scales, strict=True)]
    assert pictures[0].states.shape == (1, 16, 32)
    judged(it, theirs, conditioning=it.ours.encode(WORDS).seeing(pictures))


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
    img = noise(it)
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
