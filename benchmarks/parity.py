"""Every way in which FLUX.1 draws, against diffusers' own pipeline for it: same small weights, words, noise; float32.

    python benchmarks/parity.py

Four measures a variant. Teacher-forced: each step of ours starts from the latents that diffusers had before that step,
so that errors do not add up; the largest and the mean over the steps, as a part of diffusers' latents. `end`: the last
latents of our own run. `pixels`: the largest difference of the two pictures, in 8-bit steps. Where diffusers samples a
picture's encoding we take its mean, so the autoencoder here is made certain. Prints a table and writes
results/parity.json. tests/flux/test_variants.py runs the same table and holds it to its bounds.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxPriorReduxPipeline,
)
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import SiglipImageProcessor
from twins import AUTOENCODER, SIGLIP, T5, Made, made, redux_parts, relative

from impasto.flux import adapters, latents, schedule, weights
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.conditioning import Conditioning, Context, Init
from impasto.flux.models import (
    FLUX1_CANNY,
    FLUX1_DEPTH,
    FLUX1_DEV,
    FLUX1_FILL,
    FLUX1_KONTEXT,
    FLUX1_KREA,
    FLUX1_REDUX,
    FLUX1_SCHNELL,
    ModelSpec,
    Shift,
)
from impasto.flux.pipeline import Pipeline, Pixels
from impasto.flux.redux import Projector, Redux
from impasto.flux.run import Run
from impasto.flux.t5clip import T5ClipTextEncoder
from impasto.flux.transformer import Flux

HEIGHT, WIDTH, STEPS, SEED = 96, 128, 4, 5
WORDS, NEGATIVE = "a red fox in the snow", "blurred"
RESULTS = Path(__file__).parent / "results" / "parity.json"
SIZE = {"height": HEIGHT, "width": WIDTH}


@dataclass(frozen=True, slots=True)
class Measured:
    """`steps`: teacher-forced error of each; `end`: of our own run; `pixels`: apart; `spread`: of the picture's."""

    steps: tuple[float, ...]
    end: float
    pixels: int
    spread: float


@dataclass(frozen=True, slots=True)
class Case:
    """A loaded model in both hands."""

    parts: Made
    ours: Pipeline

    def judge(self, kind: type[Any], *, shift: Shift | None = None, loras: Loras = (), **given: Any) -> Theirs:
        """diffusers' pipeline of that class, run: the latents after each step, and the picture."""
        words = {} if "prompt_embeds" in given else self.words()
        pipeline = kind(
            scheduler=scheduler(self.ours.spec, shift),
            vae=self.parts.autoencoder,
            transformer=copy.deepcopy(self.parts.transformer) if loras else self.parts.transformer,
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
        )
        pipeline.set_progress_bar_config(disable=True)
        attach(pipeline, loras)
        seen: list[Tensor] = []

        def record(_pipeline: Any, _step: int, _time: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
            seen.append(found["latents"].clone())
            return {}

        shared = {**SIZE, "num_inference_steps": STEPS, "return_dict": False, "callback_on_step_end": record}
        picture = pipeline(output_type="np", **{**shared, **words, **given})[0][0]
        return Theirs(seen, (picture * 255).round().astype(np.uint8))

    def words(self) -> dict[str, Tensor]:
        states = self.ours.encode(WORDS)
        return {"prompt_embeds": states.txt[:1], "pooled_prompt_embeds": states.vec[:1]}

    def latents(self, pixels: Pixels, *, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
        return self.ours.encode_image(pixels, height=height, width=width)

    def measure(self, theirs: Theirs, conditioning: Conditioning | None = None, **ours: Any) -> Measured:
        """`ours`: arguments of `Pipeline.denoise`."""
        words = self.ours.encode(WORDS) if conditioning is None else conditioning
        *_, last = self.ours.denoise(words, seed=SEED, index=0, **SIZE, steps=STEPS, **ours)
        drawn = self.ours.decode(last.latents, **SIZE)
        return Measured(
            steps=self._forced(theirs.latents, words, **ours),
            end=relative(latents.pack(last.latents), theirs.latents[-1]),
            pixels=int(np.abs(drawn.astype(int) - theirs.pixels.astype(int)).max()),
            spread=float(drawn.std()),
        )

    def _forced(
        self,
        after: list[Tensor],
        words: Conditioning,
        *,
        init: Init | None = None,
        shift: Shift | None = None,
        **ours: Any,
    ) -> tuple[float, ...]:
        spec = self.ours.spec if shift is None else replace(self.ours.spec, shift=shift)
        strength = 1.0 if init is None else init.strength
        arguments = {"guidance": spec.default_guidance, **ours}
        run = Run(
            self.ours._transformer, spec, words, native=(HEIGHT, WIDTH), steps=STEPS, strength=strength, **arguments
        )
        start = noise()
        if init is not None:
            start = schedule.noised(latents.pack(init.latents), start, sigma=run.sigmas[0])
        assert len(after) == run.steps
        errors: list[float] = []
        for i, (img, (sigma, sigma_next)) in enumerate(zip([start, *after], pairwise(run.sigmas), strict=False)):
            mine = schedule.euler(img, run.velocity(i, img), sigma=sigma, sigma_next=sigma_next)
            mine = mine if init is None else init.outside_kept(mine, noise(), sigma=sigma_next)
            errors.append(relative(mine, after[i]))
        return tuple(errors)


@dataclass(frozen=True, slots=True)
class Theirs:
    """diffusers' run: the latents after each step, and the picture."""

    latents: list[Tensor]
    pixels: Pixels


Loras = Sequence[tuple[Path, float]]


def attach(pipeline: Any, loras: Loras) -> None:
    """diffusers' own way to several LoRAs at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT is surprised by a second one
        for path, _ in loras:
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=path.stem)
    if loras:
        pipeline.set_adapters([path.stem for path, _ in loras], [scale for _, scale in loras])


def scheduler(spec: ModelSpec, shift: Shift | None = None) -> FlowMatchEulerDiscreteScheduler:
    """With the published configuration: [schnell] is not shifted."""
    shift = shift or Shift()
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=spec.shift is not None,
        shift=1.0 if spec.shift is None else 3.0,
        base_shift=shift.base,
        max_shift=shift.maximum,
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
        text=T5ClipTextEncoder(parts.t5, parts.clip, max_tokens=64),
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
    shape = replace(FLUX1_REDUX.params, hidden_size=SIGLIP.hidden_size, out_features=T5.d_model)
    params = weights.build(lambda: Projector(shape), projector.state_dict(), name="redux")
    return Redux(encoder, params, size=SIGLIP.image_size)


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Pixels:
    """Soft shapes: like a photograph, not like noise."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def mask() -> Pixels:
    """A hole that no latent's border meets."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[20:70, 31:90] = 255
    return pixels


def noise() -> Tensor:
    return latents.pack(latents.noise(SEED, 0, HEIGHT, WIDTH, AUTOENCODER.z_channels))


def drawing_noise() -> dict[str, torch.Generator]:
    """For pipelines that mix picture and noise themselves: they draw ours, when the picture comes as latents already
    and its encoding draws nothing before.
    """
    return {"generator": torch.Generator().manual_seed(SEED)}


# ---------------------------------------------------------------- the variants


def text_to_image(spec: ModelSpec, loras: Loras = ()) -> Measured:
    it = case(spec)
    theirs = it.judge(FluxPipeline, latents=noise(), guidance_scale=spec.default_guidance, loras=loras)
    return it.measure(theirs, sides=sides(it, loras))


def negative_prompt(scale: float) -> Measured:
    it = case(FLUX1_DEV)
    both = it.ours.encode(WORDS, negative=NEGATIVE)
    theirs = it.judge(
        FluxPipeline, latents=noise(), guidance_scale=3.5, true_cfg_scale=scale,
        negative_prompt_embeds=both.txt[1:], negative_pooled_prompt_embeds=both.vec[1:],
    )  # fmt: skip
    return it.measure(theirs, both, cfg=scale)


def other_shift(shift: Shift) -> Measured:
    it = case(FLUX1_DEV)
    return it.measure(it.judge(FluxPipeline, shift=shift, latents=noise(), guidance_scale=3.5), shift=shift)


def image_to_image(strength: float) -> Measured:
    it = case(FLUX1_DEV)
    init = Init(it.latents(picture()), strength)
    theirs = it.judge(FluxImg2ImgPipeline, image=init.latents, strength=strength, guidance_scale=3.5, **drawing_noise())
    return it.measure(theirs, init=init)


def inpainting(strength: float, scale: float = 1.0) -> Measured:
    it = case(FLUX1_DEV)
    init = Init(it.latents(picture()), strength, it.ours.encode_region(mask(), **SIZE))
    both = it.ours.encode(WORDS, negative=NEGATIVE)
    theirs = it.judge(
        FluxInpaintPipeline, image=init.latents, masked_image_latents=init.latents, mask_image=Image.fromarray(mask()),
        strength=strength, guidance_scale=3.5, true_cfg_scale=scale, negative_prompt_embeds=both.txt[1:],
        negative_pooled_prompt_embeds=both.vec[1:], **drawing_noise(),
    )  # fmt: skip
    return it.measure(theirs, both, init=init, cfg=scale)


def fill(loras: Loras = ()) -> Measured:
    it = case(FLUX1_FILL)
    theirs = it.judge(
        FluxFillPipeline, image=Image.fromarray(picture()), mask_image=Image.fromarray(mask()), latents=noise(),
        guidance_scale=30.0, loras=loras,
    )  # fmt: skip
    return it.measure(theirs, beside=it.ours.encode_fill(picture(), mask(), **SIZE), sides=sides(it, loras))


def control(spec: ModelSpec, loras: Loras = ()) -> Measured:
    it = case(spec)
    theirs = it.judge(
        FluxControlPipeline, control_image=Image.fromarray(picture()), latents=noise(),
        guidance_scale=spec.default_guidance, loras=loras,
    )  # fmt: skip
    return it.measure(theirs, beside=it.ours.encode_control(picture(), **SIZE), sides=sides(it, loras))


def kontext(loras: Loras = ()) -> Measured:
    it = case(FLUX1_KONTEXT)
    theirs = it.judge(
        FluxKontextPipeline, image=Image.fromarray(picture(64, 80)), latents=noise(), guidance_scale=2.5,
        max_area=HEIGHT * WIDTH, _auto_resize=False, loras=loras,
    )  # fmt: skip
    context = Context.of([it.latents(picture(64, 80), height=64, width=80)])
    return it.measure(theirs, context=context, sides=sides(it, loras))


def kontext_inpainting() -> Measured:
    """At full strength: diffusers starts from given latents as they are, and draws no others that ours could have."""
    it = case(FLUX1_KONTEXT)
    init = Init(it.latents(picture()), 1.0, it.ours.encode_region(mask(), **SIZE))
    reference = picture(64, 80, seed=1)
    theirs = it.judge(
        FluxKontextInpaintPipeline, image=Image.fromarray(picture()), image_reference=Image.fromarray(reference),
        mask_image=Image.fromarray(mask()), strength=1.0, guidance_scale=2.5, _auto_resize=False,
        max_area=HEIGHT * WIDTH, latents=latents.unpack(noise(), HEIGHT, WIDTH),
    )  # fmt: skip
    context = Context.of([it.latents(reference, height=64, width=80)])
    return it.measure(theirs, init=init, context=context)


def redux_pictures(scales: list[float]) -> Measured:
    it = case(FLUX1_DEV)
    images = [picture(90, 70, seed=i) for i in range(len(scales))]
    states = prior(it, images, scales)
    theirs = it.judge(
        FluxPipeline, latents=noise(), guidance_scale=3.5, prompt_embeds=states[0], pooled_prompt_embeds=states[1]
    )
    seen = [it.ours.see(image, picture=scale, text=scale) for image, scale in zip(images, scales, strict=True)]
    return it.measure(theirs, it.ours.encode(WORDS).seeing(seen))


def prior(it: Case, images: list[Pixels], scales: list[float]) -> tuple[Tensor, Tensor]:
    """What diffusers' Redux makes of pictures and words."""
    encoder, projector = redux_parts()
    pipeline = FluxPriorReduxPipeline(
        image_encoder=encoder,
        feature_extractor=SiglipImageProcessor(size={"height": SIGLIP.image_size, "width": SIGLIP.image_size}),
        image_embedder=projector,
        text_encoder=it.parts.clip,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )
    words = [states.repeat(len(scales), *[1] * (states.ndim - 1)) for states in it.words().values()]
    pipeline.encode_prompt = lambda **_: (*words, None)  # type: ignore[method-assign] - it would tokenise
    return pipeline(
        image=[Image.fromarray(image) for image in images], prompt_embeds_scale=scales,
        pooled_prompt_embeds_scale=scales, return_dict=False,
    )  # fmt: skip


def with_loras(draw: Callable[[Loras], Measured], spec: ModelSpec, scales: tuple[float, ...] = (1.0,)) -> Measured:
    """LoRAs of every layer, in PEFT's names, read by each in its own way."""
    with tempfile.TemporaryDirectory() as folder:
        loras = [(lora_file(Path(folder), spec, seed=i), scale) for i, scale in enumerate(scales)]
        return draw(loras)


def lora_file(folder: Path, spec: ModelSpec, *, seed: int, rank: int = 4) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, layer in case(spec).parts.transformer.named_modules():
        if isinstance(layer, nn.Linear):
            tensors[f"transformer.{name}.lora_A.weight"] = (
                torch.randn(rank, layer.in_features, generator=generator) * 0.1
            )
            tensors[f"transformer.{name}.lora_B.weight"] = (
                torch.randn(layer.out_features, rank, generator=generator) * 0.1
            )
    path = folder / f"lora{seed}.safetensors"
    save_file(tensors, path)
    return path


def sides(it: Case, loras: Loras) -> adapters.Sides:
    return adapters.combine([(it.ours.read_lora(path), scale) for path, scale in loras])


VARIANTS: dict[str, Callable[[], Measured]] = {
    "dev": partial(text_to_image, FLUX1_DEV),
    "schnell": partial(text_to_image, FLUX1_SCHNELL),
    "krea": partial(text_to_image, FLUX1_KREA),
    "dev, another shift": partial(other_shift, Shift(0.2, 2.5)),
    "dev, negative prompt": partial(negative_prompt, 4.0),
    "dev, two LoRAs": partial(with_loras, partial(text_to_image, FLUX1_DEV), FLUX1_DEV, (0.8, 0.5)),
    "krea, LoRA": partial(with_loras, partial(text_to_image, FLUX1_KREA), FLUX1_KREA),
    "image to image, 0.4": partial(image_to_image, 0.4),
    "image to image, 0.95": partial(image_to_image, 0.95),
    "inpainting, 0.6": partial(inpainting, 0.6),
    "inpainting, 1": partial(inpainting, 1.0),
    "inpainting, negative prompt": partial(inpainting, 0.6, 3.0),
    "fill": fill,
    "fill, LoRA": partial(with_loras, fill, FLUX1_FILL),
    "canny": partial(control, FLUX1_CANNY),
    "canny, LoRA": partial(with_loras, partial(control, FLUX1_CANNY), FLUX1_CANNY),
    "depth": partial(control, FLUX1_DEPTH),
    "depth, LoRA": partial(with_loras, partial(control, FLUX1_DEPTH), FLUX1_DEPTH),
    "kontext": kontext,
    "kontext, LoRA": partial(with_loras, kontext, FLUX1_KONTEXT),
    "kontext inpainting": kontext_inpainting,
    "redux": partial(redux_pictures, [1.0]),
    "redux, 0.6": partial(redux_pictures, [0.6]),
    "redux, two pictures": partial(redux_pictures, [0.7, 0.4]),
}


def autoencoder() -> dict[str, float]:
    """How far our encoding and decoding of one picture are from diffusers'."""
    it = case(FLUX1_DEV)
    judge, config = it.parts.autoencoder, it.parts.autoencoder.config
    x = torch.from_numpy(picture()).permute(2, 0, 1)[None].float() / 127.5 - 1
    theirs = (judge.encode(x).latent_dist.mode() - config.shift_factor) * config.scaling_factor
    mine = it.latents(picture())
    pixels = judge.decode(theirs / config.scaling_factor + config.shift_factor).sample
    decoded = it.ours.decode(theirs, **SIZE).astype(int)
    judged = ((pixels[0] / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(int)
    return {"encode": relative(mine, theirs), "decode_pixels": int(np.abs(decoded - judged).max())}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    report: dict[str, Any] = {
        "versions": {
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "size": [WIDTH, HEIGHT],
        "steps": STEPS,
        "dtype": "float32",
        "variants": {},
        "autoencoder": autoencoder(),
    }
    print(f"{'variant':<28} {'step max':>9} {'step mean':>10} {'end':>9} {'pixels':>7}")
    for name, measure in VARIANTS.items():
        found = measure()
        most, mean = max(found.steps), sum(found.steps) / len(found.steps)
        print(f"{name:<28} {most:>9.1e} {mean:>10.1e} {found.end:>9.1e} {found.pixels:>7}", flush=True)
        report["variants"][name] = {"step_max": most, "step_mean": mean, **asdict(found)}
    print(
        f"autoencoder: encode {report['autoencoder']['encode']:.1e}, decode {report['autoencoder']['decode_pixels']} px"
    )
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
