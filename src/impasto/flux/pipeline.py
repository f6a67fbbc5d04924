"""START READING HERE. A prompt becomes a picture in three verbs: `encode` → `denoise` → `decode`.

    pipeline = Pipeline.load("impasto-mini")
    conditioning = pipeline.encode("a red fox in the snow")
    for step in pipeline.denoise(conditioning, seed=7, index=0, height=768, width=1024):
        ...                        # progress, step.preview(), or stop iterating: that is all a cancel takes
    pixels = pipeline.decode(step.latents, height=768, width=1024)    # uint8 [768, 1024, 3]

A caller's picture (`encode_image`) may be where the drawing starts (`Init`) or what it takes after (`Reference`).
Determinism is a promise: one (model, prompt, seed, index, size, steps, guidance) gives the same bytes on one machine
with one number of threads, however many pictures were asked for and whatever else runs. So every forward pass holds
one sample (and its twin without the prompt, for guidance by two passes), and samples share nothing but constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from impasto.errors import ModelUnavailable
from impasto.flux import images, precision, schedule, weights
from impasto.flux import latents as lat
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.box import Box
from impasto.flux.models import ModelSpec
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
class Conditioning:
    """A prompt as the transformer reads it. May be kept and used for any number of samples.

    `txt` [B, T, C] and `vec` [B, V], where B is 1, or 2 for models guided through two passes: the prompt, then the
    empty prompt. `tokens` counts the prompt's tokens; `truncated` says that the model did not read it to its end.
    `unknown`: words that say nothing to a model with a vocabulary; `instead`: what it draws, when it knows no thing of
    the prompt.
    """

    txt: Tensor
    vec: Tensor
    tokens: int
    truncated: bool
    unknown: tuple[str, ...] = ()
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class Init:
    """Where a drawing starts: a picture's latents [1, C, h, w] at the native size, noised as far as `strength` says.

    0 keeps the picture but for one step, 1 leaves nothing of it.
    """

    latents: Tensor
    strength: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What a drawing takes after: a picture's latents [1, C, h, w] at the native size. `strength` 0: not at all; 1: it
    becomes the picture.
    """

    latents: Tensor
    strength: float


@dataclass(frozen=True, slots=True)
class Step:
    """Step `index` (from 0) of `total`, done: the `sigma` it arrived at, the `latents` there, float32 [1, C, h, w]."""

    index: int
    total: int
    sigma: float
    latents: Tensor
    _preview: Callable[[], Pixels]

    def preview(self) -> Pixels:
        """Where the flow points from here, decoded at the native size. Costs one decoding; changes nothing."""
        return self._preview()


class Pipeline:
    """A loaded model. It keeps no state between calls: generators of `denoise` may take their steps in any order."""

    def __init__(
        self,
        spec: ModelSpec,
        *,
        transformer: Flux,
        autoencoder: Autoencoder,
        text: TextEncoder,
        upscaler: Upscaler | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.spec = spec
        self._vocabulary = vocabulary
        self._nearest = None if vocabulary is None else Nearest(vocabulary, lambda words: text.encode(words).vec)
        self._transformer = transformer
        self._autoencoder = autoencoder
        self._text = text
        self._upscaler = upscaler
        self._device = next(transformer.parameters()).device
        self._empty = text.encode([""]) if spec.guidance == "cfg" else None

    @classmethod
    def load(
        cls,
        model: str | Path = "impasto-mini",
        *,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        threads: int = 0,
    ) -> Pipeline:
        """Reads a model: a name of the table, when it is embedded, or the folder of a checkpoint.

        `device` auto, cpu, cuda…; `dtype` None: what `precision` finds best there; `threads` of the CPU, 0: what
        suits the model, which may be all cores (set for the whole process, since PyTorch has one pool). Raises
        ModelUnavailable or WeightsError.
        """
        checkpoint = weights.locate(model)
        spec, place = checkpoint.spec, precision.choose_device(device)
        if spec.text_encoder != "minilm":
            raise ModelUnavailable(
                f"{spec.name} ({checkpoint.folder}): its prompts need the text encoders T5-XXL and CLIP-L, which this "
                "version of impasto cannot run. impasto-mini works."
            )
        if spec.embedded:
            checkpoint.verify()
        torch.set_num_threads(threads or spec.threads or precision.cores())
        target = weights.Target(place, dtype or precision.choose_dtype(place))
        return cls(
            spec,
            transformer=weights.load_transformer(checkpoint, target),
            autoencoder=weights.load_autoencoder(checkpoint, target),
            text=MiniLMTextEncoder.load(checkpoint.folder, device=place),
            upscaler=weights.load_upscaler(checkpoint, target) if spec.native_size.upscale > 1 else None,
            vocabulary=checkpoint.vocabulary,
        )

    def encode(self, prompt: str) -> Conditioning:
        """The prompt as the transformer reads it. Depends on nothing but the prompt.

        A model with a vocabulary that finds none of its things in the prompt reads the nearest one before it.
        """
        reading = Reading((), ()) if self._vocabulary is None else self._vocabulary.read(prompt)
        instead: str | None = None
        if self._nearest is not None and reading.unknown and not reading.things:
            instead = self._nearest(" ".join(reading.unknown))
        states = self._text.encode([prompt if instead is None else f"{instead}, {prompt}"])
        pair = (states,) if self._empty is None else (states, self._empty)
        return Conditioning(
            txt=torch.cat([part.txt for part in pair]),
            vec=torch.cat([part.vec for part in pair]),
            tokens=states.counts[0],
            truncated=states.truncated[0],
            unknown=reading.unknown,
            instead=instead,
        )

    @torch.inference_mode()
    def encode_image(self, pixels: Pixels, *, height: int, width: int) -> Tensor:
        """A caller's picture [H, W, 3] → latents [1, C, h, w] at the native size for `height` x `width`, float32.

        The part that `decode` would cut away is filled with the picture's edge, so that what comes out lies where
        it lay. The posterior's mean, not a sample of it: the same picture gives the same latents.
        """
        native = self.spec.native_size.native(height, width)
        fitted = torch.from_numpy(images.fit(pixels, native=native, asked=(height, width)))
        x = fitted.to(self._device).permute(2, 0, 1)[None].float().div(255).mul(2).sub(1)
        return self._autoencoder.encode(x).float()

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
    ) -> Iterator[Step]:
        """Draws sample `index` of a request, one `Step` at a time: exactly `steps` of them, or the last ones of the
        schedule when it starts from `init`. Stop iterating to cancel.

        `height` and `width` are the asked size in pixels; the latents have the model's native size for it. `steps` and
        `guidance` None: the model's defaults. Models without guidance ignore it.
        """
        spec, model = self.spec, self._transformer
        steps = spec.default_steps if steps is None else steps
        guidance = spec.default_guidance if guidance is None else guidance
        native = spec.native_size.native(height, width)
        sigmas = schedule.sigmas(steps, lat.token_count(*native), spec.shift)
        if init is not None:
            sigmas = schedule.remaining(sigmas, init.strength)
            steps = len(sigmas) - 1

        # At scale 1 the empty prompt has no weight, so its half of the work is left out.
        batch = 2 if spec.guidance == "cfg" and guidance != 1.0 else 1
        txt, vec = conditioning.txt[:batch], conditioning.vec[:batch]

        # Nothing here depends on the latents: computed once for all steps, and no step waits for the host.
        times = torch.tensor(sigmas[:-1], device=self._device)[:, None].expand(steps, batch)
        scale = torch.full_like(times, guidance) if spec.guidance == "distilled" else None
        mods = model.modulate(model.vector(times, vec, scale))
        context = model.context(txt)
        pe = model.positions(lat.text_ids(txt.shape[1]), lat.image_ids(*native)).to(self._device)

        channels = spec.autoencoder.z_channels
        img = lat.pack(lat.noise(seed, index, *native, channels)).to(self._device)
        if init is not None:
            img = schedule.noised(lat.pack(init.latents), img, sigma=sigmas[0])
        target = lat.pack(reference.latents) if reference is not None and reference.strength > 0 else None
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            velocity = model.velocity(img.expand(batch, -1, -1), context, pe, mods.at(i)).float()
            if batch == 2:
                prompt, empty = velocity.chunk(2)
                velocity = empty + guidance * (prompt - empty)
            if reference is not None and target is not None:
                weight = schedule.pull(reference.strength, sigma)
                velocity = schedule.towards(target, img, velocity, sigma=sigma, weight=weight)
            img = schedule.euler(img, velocity, sigma=sigma, sigma_next=sigma_next)
            clean = partial(schedule.clean, img, velocity, sigma=sigma_next)
            preview = partial(self._preview, clean, native, height, width)
            yield Step(i, steps, sigma_next, lat.unpack(img, *native), preview)

    @torch.inference_mode()
    def decode(self, latents: Tensor, *, height: int, width: int) -> Pixels:
        """Latents [1, C, h, w] of the last step → the picture of exactly `height` x `width` pixels.

        Where native and asked ratio differ, the picture is cropped around its centre. A model with an upscaler draws
        small: its picture is upscaled, then resampled to the asked size.
        """
        pixels = self._pixels(latents)
        if self._upscaler is None:
            top, left = (pixels.shape[2] - height) // 2, (pixels.shape[3] - width) // 2
            return _to_bytes(pixels[..., top : top + height, left : left + width])
        box = Box.within(*pixels.shape[2:], height=height, width=width)
        pixels, box = box.cut(pixels)
        if height > pixels.shape[2] or width > pixels.shape[3]:
            pixels, box = self._upscaler(pixels), box.times(self.spec.native_size.upscale)
        return box.resample(_to_bytes(pixels), height=height, width=width)

    @torch.inference_mode()
    def _preview(self, clean: Callable[[], Tensor], native: tuple[int, int], height: int, width: int) -> Pixels:
        pixels, _ = Box.within(*native, height=height, width=width).cut(self._pixels(lat.unpack(clean(), *native)))
        return _to_bytes(pixels)

    def _pixels(self, latents: Tensor) -> Tensor:
        """Latents [1, C, h, w] → pixels [1, 3, 8 h, 8 w] in 0..1, float32."""
        return self._autoencoder.decode(latents).float().add(1).div(2).clamp(0, 1)


def _to_bytes(pixels: Tensor) -> Pixels:
    """[1, 3, H, W] in 0..1 → uint8 [H, W, 3]."""
    return pixels[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
