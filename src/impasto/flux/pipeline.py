"""START READING HERE. A prompt becomes a picture in three verbs: `encode` → `denoise` → `decode`.

    pipeline = Pipeline.load("impasto-mini")
    conditioning = pipeline.encode("a red fox in the snow")
    for step in pipeline.denoise(conditioning, seed=7, index=0, height=768, width=1024):
        ...                        # progress, step.preview(), or stop iterating: that is all a cancel takes
    pixels = pipeline.decode(step.latents, height=768, width=1024)    # uint8 [768, 1024, 3]

Pictures that a caller gives are encoded once, each in the form that the model reads (see `conditioning`).
Determinism is a promise: one (model, prompt, seed, index, size, steps, guidance) gives the same bytes on one machine
with one number of threads, however many pictures were asked for and whatever else runs. So every forward pass holds
one sample (and its twin without the prompt, for guidance by two passes), and samples share nothing but constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from impasto.flux import adapters, images, precision, schedule, weights
from impasto.flux import latents as lat
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.box import Box
from impasto.flux.checkpoint import Checkpoint, locate, siblings
from impasto.flux.checkpoint import redux as redux_of
from impasto.flux.checks import dry_load
from impasto.flux.conditioning import Conditioning, Context, Init, Reference, Seen, fill_tokens
from impasto.flux.linear import Sides
from impasto.flux.means import PLAIN, Means, Wanted
from impasto.flux.models import ModelSpec, Shift
from impasto.flux.placing import load_transformer
from impasto.flux.redux import Redux
from impasto.flux.residency import EVERYTHING_NEAR, Residency
from impasto.flux.run import Run
from impasto.flux.sizes import context_size, kontext_size
from impasto.flux.step_cache import Threshold
from impasto.flux.t5clip import T5ClipTextEncoder
from impasto.flux.text import MiniLMTextEncoder, TextStates
from impasto.flux.transformer import Flux
from impasto.flux.upscale import Upscaler
from impasto.flux.vocabulary import Nearest, Reading, Vocabulary

Pixels = NDArray[np.uint8]
"""[height, width, 3], RGB."""


class TextEncoder(Protocol):
    """What the pipeline asks of a text encoder."""

    def encode(self, prompts: list[str]) -> TextStates: ...


@dataclass(frozen=True, slots=True)
class Step:
    """Step `index` (from 0) of `total`, done: the `sigma` it arrived at, the `latents` there, float32 [1, C, h, w];
    `reused`: it took most of its work over from the step before.
    """

    index: int
    total: int
    sigma: float
    latents: Tensor
    reused: bool
    _preview: Callable[[], Pixels]

    def preview(self) -> Pixels:
        """Where the flow points from here, decoded at the native size. Costs one decoding; changes nothing."""
        return self._preview()


class Pipeline:
    """A loaded model. It keeps no state between calls: generators of `denoise` may take their steps in any order.

    `siblings`: models that share all but their distillation with it, loaded because they lay beside it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        transformer: Flux,
        autoencoder: Autoencoder,
        text: TextEncoder,
        upscaler: Upscaler | None = None,
        vocabulary: Vocabulary | None = None,
        redux: Redux | None = None,
    ) -> None:
        self.spec = spec
        self._vocabulary = vocabulary
        self._nearest = None if vocabulary is None else Nearest(vocabulary, lambda words: text.encode(words).vec)
        self._transformer = transformer
        self._autoencoder = autoencoder
        self._text = text
        self._upscaler = upscaler
        self._redux = redux
        self.means = PLAIN
        self.siblings: tuple[Pipeline, ...] = ()
        self._device = next(transformer.parameters()).device
        self._empty = text.encode([""]) if spec.guidance == "cfg" else None

    @classmethod
    def load(
        cls,
        model: str | Path = "impasto-mini",
        *,
        models: Path | None = None,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        threads: int = 0,
        residency: Residency = EVERYTHING_NEAR,
    ) -> Pipeline:
        """Reads a model: a name of the table or of the folder `models`, or the path of a checkpoint.

        `device` auto, cpu, cuda…; `dtype` None: what `precision` finds best there; `threads` of the CPU, 0: what
        suits the model, which may be all cores (set for the whole process, since PyTorch has one pool); `residency`:
        what is not on the device (see `residency`). Raises ModelUnavailable or WeightsError.
        """
        checkpoint = locate(model, models=models)
        spec, place = checkpoint.spec, precision.choose_device(device)
        if spec.embedded:
            checkpoint.verify()
        else:
            dry_load(checkpoint)  # the last part that is missing is named before the first is loaded
        torch.set_num_threads(threads or spec.threads or precision.cores())
        target = weights.Target(place, dtype or precision.choose_dtype(place))
        loaded = cls(
            spec,
            transformer=load_transformer(checkpoint, target, residency),
            autoencoder=weights.load_autoencoder(checkpoint, target),
            text=load_text(checkpoint, target, on_host=residency.text_on_host),
            upscaler=weights.load_upscaler(checkpoint, target) if spec.native_size.upscale > 1 else None,
            redux=None if (found := redux_of(checkpoint)) is None else Redux.load(found, target),
            vocabulary=checkpoint.vocabulary,
        )
        loaded.siblings = tuple(loaded._sibling(each, target) for each in siblings(checkpoint))
        return loaded

    def _sibling(self, checkpoint: Checkpoint, target: weights.Target) -> Pipeline:
        """The transformer of a checkpoint with all other parts of this model. Raises WeightsError."""
        checkpoint.verify("distillation")
        return Pipeline(
            checkpoint.spec,
            transformer=weights.load_transformer(checkpoint, target),
            autoencoder=self._autoencoder,
            text=self._text,
            upscaler=self._upscaler,
            vocabulary=self._vocabulary,
            redux=self._redux,
        )

    def plan_lora(self, path: Path, limits: adapters.Limits = adapters.NO_LIMITS) -> adapters.Plan:
        """Judge a LoRA file for this model by its header. Raises WeightsError when it is damaged, for another model, of
        another kind, or more than `limits` allow.
        """
        layers = self._transformer.named_modules()
        shapes = {n: (m.out_features, m.in_features) for n, m in layers if isinstance(m, torch.nn.Linear)}
        return adapters.plan(path, shapes, self._transformer.params, limits=limits)

    def read_lora(self, lora: Path | adapters.Plan) -> adapters.Adapter:
        """Read a LoRA file, or one that is planned, to the model's device and dtype. Raises WeightsError."""
        plan = self.plan_lora(lora) if isinstance(lora, Path) else lora
        return plan.read(device=self._device, dtype=next(self._transformer.parameters()).dtype)

    @property
    def parameters(self) -> int:
        """How many numbers the transformer's weights are."""
        return sum(parameter.numel() for parameter in self._transformer.parameters())

    def accelerate(self, wanted: Wanted) -> None:
        """Sets up what makes passes fast, as far as this machine can do it; the log says what it cannot."""
        self.means = Means.of(self._transformer, self.spec, wanted)

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return self._device

    @property
    def has_redux(self) -> bool:
        return self._redux is not None

    def encode(self, prompt: str, *, negative: str | None = None) -> Conditioning:
        """The prompt as the transformer reads it. Depends on nothing but the words.

        A model with a vocabulary that finds none of its things in the prompt reads the nearest one before it.
        `negative`: what the second pass of a guidance by two passes is told; None: nothing, and no second pass for
        models that follow an embedded scale.
        """
        reading = Reading((), ()) if self._vocabulary is None else self._vocabulary.read(prompt)
        instead: str | None = None
        if self._nearest is not None and reading.unknown and not reading.things:
            instead = self._nearest(" ".join(reading.unknown))
        states = self._text.encode([prompt if instead is None else f"{instead}, {prompt}"])
        other = self._empty if negative is None else self._text.encode([negative])
        pair = (states,) if other is None else (states, other)
        return Conditioning(
            txt=torch.cat([part.txt for part in pair]).to(self._device),
            vec=torch.cat([part.vec for part in pair]).to(self._device),
            tokens=states.counts[0],
            truncated=states.truncated[0],
            unknown=reading.unknown,
            instead=instead,
        )

    def see(self, pixels: Pixels, *, picture: float = 1.0, text: float = 1.0) -> Seen:
        """A picture as words, for `Conditioning.seeing`. Only with Redux (`has_redux`)."""
        if self._redux is None:
            raise ValueError(f"{self.spec.name} was loaded without Redux")
        return Seen(self._redux.encode(pixels), picture=picture, text=text)

    @torch.inference_mode()
    def encode_fill(self, pixels: Pixels, mask: NDArray[np.uint8], *, height: int, width: int) -> Tensor:
        """What Fill reads beside the noise: picture and mask, both [H, W, 3]; bright in the mask is what to fill."""
        white = images.white(self._fit(mask, height, width))
        hole = torch.from_numpy(white).to(self._device).float()[None, None]
        x = self._input(pixels, height, width) * (1 - hole)
        return fill_tokens(self._autoencoder.encode(x).float(), hole)

    def encode_region(self, mask: NDArray[np.uint8], *, height: int, width: int) -> Tensor:
        """A mask [H, W, 3] as `Init.region`: each latent as the mask is at its first pixel, as diffusers takes it."""
        white = images.white(self._fit(mask, height, width))
        return torch.from_numpy(white).to(self._device)[:: lat.DOWNSCALE, :: lat.DOWNSCALE].float()[None, None]

    def encode_control(self, pixels: Pixels, *, height: int, width: int) -> Tensor:
        """What Canny and Depth read beside the noise: the map [H, W, 3] as packed latents."""
        return lat.pack(self.encode_image(pixels, height=height, width=width))

    @torch.inference_mode()
    def encode_context(self, pictures: Sequence[Pixels], *, height: int, width: int) -> Context:
        """What Kontext changes: each picture at the size of its training that is nearest in ratio; a single one on the
        grid of a result whose size is far from that (`context_size`).
        """
        native = self.spec.native_size.native(height, width)
        encoded: list[Tensor] = []
        for pixels in pictures:
            own = pixels.shape[:2]
            rows, columns = context_size(own, native) if len(pictures) == 1 else kontext_size(*own)
            x = self._tensor(images.resize(pixels, height=rows, width=columns))
            encoded.append(self._autoencoder.encode(x).float())
        return Context.of(encoded)

    @torch.inference_mode()
    def encode_image(self, pixels: Pixels, *, height: int, width: int) -> Tensor:
        """A caller's picture [H, W, 3] → latents [1, C, h, w] at the native size for `height` x `width`, float32.

        The part that `decode` would cut away is filled with the picture's edge, so that what comes out lies where
        it lay. The posterior's mean, not a sample of it: the same picture gives the same latents.
        """
        return self._autoencoder.encode(self._input(pixels, height, width)).float()

    def _input(self, pixels: Pixels, height: int, width: int) -> Tensor:
        return self._tensor(self._fit(pixels, height, width))

    def _fit(self, pixels: Pixels, height: int, width: int) -> Pixels:
        native = self.spec.native_size.native(height, width)
        return images.fit(pixels, native=native, box=self._shown(native, height, width))

    def _shown(self, native: tuple[int, int], height: int, width: int) -> Box:
        """The part of a picture of the native size that `decode` shows: the asked pixels, or, of a model that is
        enlarged, the asked ratio.
        """
        if self._upscaler is not None:
            return Box.within(*native, height=height, width=width)
        top, left = (native[0] - height) // 2, (native[1] - width) // 2
        return Box(top, left, top + height, left + width)

    def _tensor(self, pixels: Pixels) -> Tensor:
        """[H, W, 3] → [1, 3, H, W] in -1..1."""
        return torch.from_numpy(pixels).to(self._device).permute(2, 0, 1)[None].float().div(255).mul(2).sub(1)

    @torch.inference_mode()
    def denoise(
        self,
        conditioning: Conditioning,
        *,
        seed: int,
        index: int,
        height: int,
        width: int,
        steps: int | None = None,
        guidance: float | None = None,
        init: Init | None = None,
        reference: Reference | None = None,
        beside: Tensor | None = None,
        context: Context | None = None,
        cfg: float = 1.0,
        shift: Shift | None = None,
        sides: Sides | None = None,
        caching: Threshold | None = None,
        quick: bool = False,
    ) -> Iterator[Step]:
        """Draws sample `index` of a request, one `Step` at a time: exactly `steps` of them, or the last ones of the
        schedule when it starts from `init`. Stop iterating to cancel.

        `height` and `width` are the asked size in pixels; the latents have the model's native size for it. `steps` and
        `guidance` None: the model's defaults. Models without guidance ignore it. `beside` [1, L, C]: further channels
        of every image token; `context`: further image tokens; `cfg`: scale of a guidance by two passes on top of an
        embedded scale, for a conditioning with a negative prompt; `shift`: instead of the model's own, if it has one;
        `sides`: LoRAs of this sample (`adapters.combine`);
        `caching`: leave work out of steps that are like the one before, which changes the picture (`step_cache`);
        `quick`: multiply in 8 bits where that was set up (`fp8`), which changes it, too.
        """
        spec = self.spec if shift is None or self.spec.shift is None else replace(self.spec, shift=shift)
        native = spec.native_size.native(height, width)
        run = Run(
            self._transformer,
            spec,
            conditioning,
            native=native,
            steps=spec.default_steps if steps is None else steps,
            guidance=spec.default_guidance if guidance is None else guidance,
            cfg=cfg,
            strength=1.0 if init is None else init.strength,
            beside=beside,
            context=context,
            sides=sides,
            caching=caching,
            means=self.means,
            quick=quick,
        )
        noise = lat.pack(lat.noise(seed, index, *native, spec.autoencoder.z_channels)).to(self._device)
        img = noise if init is None else schedule.noised(lat.pack(init.latents), noise, sigma=run.sigmas[0])
        target = lat.pack(reference.latents) if reference is not None and reference.strength > 0 else None
        for i, (sigma, sigma_next) in enumerate(pairwise(run.sigmas)):
            velocity = run.velocity(i, img)
            if reference is not None and target is not None:
                weight = schedule.pull(reference.strength, sigma)
                velocity = schedule.towards(target, img, velocity, sigma=sigma, weight=weight)
            img = schedule.euler(img, velocity, sigma=sigma, sigma_next=sigma_next)
            if init is not None:
                img = init.outside_kept(img, noise, sigma=sigma_next)
            clean = partial(schedule.clean, img, velocity, sigma=sigma_next)
            preview = partial(self._preview, clean, native, height, width)
            yield Step(i, run.steps, sigma_next, lat.unpack(img, *native), run.reused, preview)

    @torch.inference_mode()
    def decode(self, latents: Tensor, *, height: int, width: int) -> Pixels:
        """Latents [1, C, h, w] of the last step → the picture of exactly `height` x `width` pixels.

        Where native and asked ratio differ, the picture is cropped around its centre. A model with an upscaler draws
        small: its picture is upscaled, then resampled to the asked size.
        """
        pixels = self._pixels(latents)
        native = (pixels.shape[2], pixels.shape[3])
        pixels, box = self._shown(native, height, width).cut(pixels)
        if self._upscaler is None:
            return _to_bytes(pixels)
        if height > pixels.shape[2] or width > pixels.shape[3]:
            pixels, box = self._upscaler(pixels), box.times(self.spec.native_size.upscale)
        return box.resample(_to_bytes(pixels), height=height, width=width)

    @torch.inference_mode()
    def _preview(self, clean: Callable[[], Tensor], native: tuple[int, int], height: int, width: int) -> Pixels:
        pixels, _ = self._shown(native, height, width).cut(self._pixels(lat.unpack(clean(), *native)))
        return _to_bytes(pixels)

    def _pixels(self, latents: Tensor) -> Tensor:
        """Latents [1, C, h, w] → pixels [1, 3, 8 h, 8 w] in 0..1, float32."""
        return self._autoencoder.decode(latents).float().add(1).div(2).clamp(0, 1)


def load_text(checkpoint: Checkpoint, target: weights.Target, *, on_host: bool = False) -> TextEncoder:
    """The text encoder that the checkpoint's model reads prompts with. `on_host`: the weights of a large one live there
    and visit the device. Raises WeightsError.
    """
    if checkpoint.spec.text_encoder == "minilm":
        return MiniLMTextEncoder.load(checkpoint.folder, device=target.device)
    return T5ClipTextEncoder.load(checkpoint, target, on_host=on_host)


def _to_bytes(pixels: Tensor) -> Pixels:
    """[1, 3, H, W] in 0..1 → uint8 [H, W, 3]."""
    return pixels[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
