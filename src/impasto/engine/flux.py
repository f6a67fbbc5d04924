"""The real pipeline behind the engine's protocol. The only file of the engine that imports torch."""

import io
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from impasto.engine.job import Job, Notice
from impasto.engine.memory import HEADROOM, available_memory, check_memory
from impasto.engine.pipeline import Conditioning, Pixels, Step
from impasto.errors import ModelError
from impasto.flux import pipeline as flux
from impasto.flux import precision, weights
from impasto.settings import ModelSettings

PROMPTS_KEPT = 64
WORDS_NAMED = 6


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a job's words and pictures became."""

    text: flux.Conditioning
    init: flux.Init | None
    reference: flux.Reference | None


class FluxPipeline:
    """Wraps a loaded `flux.pipeline.Pipeline`. Prompts read lately are kept: the same words again are free."""

    def __init__(self, pipeline: flux.Pipeline, *, device: torch.device, dtype: torch.dtype) -> None:
        self.models = (pipeline.spec.name,)
        self.device = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        self.dtype = str(dtype).removeprefix("torch.")
        self._pipeline = pipeline
        self._threads = torch.get_num_threads()
        self._cuda = device.type == "cuda"
        self._read: OrderedDict[str, flux.Conditioning] = OrderedDict()

    @classmethod
    def load(cls, settings: ModelSettings) -> "FluxPipeline":
        """Reads the weights of `settings.name`. Raises WeightsError, which says what is missing."""
        device = precision.choose_device(settings.device)
        spec = weights.locate(settings.name).spec
        if device.type == "cpu":
            check_memory(spec.memory + HEADROOM, available_memory(), name=spec.name)
        dtype = precision.choose_dtype(device)
        pipeline = flux.Pipeline.load(settings.name, device=str(device), dtype=dtype, threads=settings.threads)
        return cls(pipeline, device=device, dtype=dtype)

    def encode(self, job: Job) -> Conditioning:
        # OpenMP keeps the count by thread; the one that loaded the model is not the one that draws.
        torch.set_num_threads(self._threads)
        text = self._text(job.prompt)
        init, reference = self._images(job)
        return Conditioning(Prompt(text, init, reference), self._notices(job, text))

    def _text(self, prompt: str) -> flux.Conditioning:
        if prompt not in self._read:
            self._read[prompt] = self._pipeline.encode(prompt)
            if len(self._read) > PROMPTS_KEPT:
                self._read.popitem(last=False)
        self._read.move_to_end(prompt)
        return self._read[prompt]

    def _images(self, job: Job) -> tuple[flux.Init | None, flux.Reference | None]:
        """Raises ModelError(feature_not_supported) for an image prompt that the model has no eyes for."""
        init: flux.Init | None = None
        reference: flux.Reference | None = None
        for image in job.images:
            if image.role == "prompt":
                if not self._pipeline.spec.image_prompts:
                    raise ModelError.at(
                        image.field,
                        f"{self.models[0]} cannot take after a picture: that needs the image encoder of "
                        "FLUX.1-Redux-dev, which this version of impasto does not support. "
                        "Leave the image out, or use the embedded model, impasto-mini.",
                        "feature_not_supported",
                    )
                if image.strength == 0:
                    continue
            pixels = np.array(Image.open(io.BytesIO(image.data)).convert("RGB"))
            latents = self._pipeline.encode_image(pixels, height=job.height, width=job.width)
            if image.role == "init":
                init = flux.Init(latents, image.strength)
            else:
                reference = flux.Reference(latents, image.strength)
        return init, reference

    def _notices(self, job: Job, text: flux.Conditioning) -> tuple[Notice, ...]:
        name, limit = self.models[0], self._pipeline.spec.max_text_tokens
        notices: list[Notice] = []
        if text.truncated:
            message = f"The prompt is longer than the {limit} tokens that {name} reads; its end has no effect."
            notices.append(Notice(code="prompt_cut", message=message, field="prompt"))
        if text.unknown:
            notices.append(Notice(code="unknown_words", message=_unknown(name, text), field="prompt"))
        if job.raw:
            message = f"{name} has one look only: raw has no effect."
            notices.append(Notice(code="field_ignored", message=message, field="raw"))
        return tuple(notices)

    def denoise(self, job: Job, conditioning: Conditioning, *, index: int) -> Iterator[Step]:
        prompt: Prompt = conditioning.value
        steps = self._pipeline.denoise(
            prompt.text,
            seed=job.seed,
            index=index,
            height=job.height,
            width=job.width,
            steps=job.steps,
            guidance=job.guidance,
            init=prompt.init,
            reference=prompt.reference,
        )
        launched: torch.cuda.Event | None = None
        for step in steps:
            if self._cuda:
                # The host may run one step ahead of the GPU, so that it never waits for the host; no further, so that a
                # cancel and the scheduler's choice take effect at the next step.
                before, launched = launched, torch.cuda.Event()
                launched.record()
                event = launched if step.index + 1 == step.total else before
                if event is not None:
                    event.synchronize()
            yield Step(step.index + 1, step.total, step.latents, step.preview)

    def decode(self, job: Job, latents: Any) -> Pixels:
        return self._pipeline.decode(latents, height=job.height, width=job.width)

    def is_out_of_memory(self, error: BaseException) -> bool:
        # On the CPU torch says so in words only.
        on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        return on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)

    def free_memory(self) -> None:
        self._read.clear()
        if self._cuda:
            torch.cuda.empty_cache()


def _unknown(name: str, text: flux.Conditioning) -> str:
    """What a caller is told whose words the model has never seen."""
    words = ", ".join(text.unknown[:WORDS_NAMED]) + (", …" if len(text.unknown) > WORDS_NAMED else "")
    if text.instead is None:
        return f"{name} does not know these words, and may not draw what they say: {words}."
    return f"{name} knows nothing of this ({words}) and drew what is nearest to it: {text.instead}."
