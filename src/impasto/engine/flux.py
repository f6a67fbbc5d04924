"""The real pipeline behind the engine's protocol. The only file of the engine that imports torch."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch

from impasto.engine.job import Job, Notice
from impasto.engine.memory import HEADROOM, available_memory, check_memory
from impasto.engine.pipeline import Conditioning, Pixels, Step
from impasto.flux import pipeline as flux
from impasto.flux import precision, weights
from impasto.settings import ModelSettings

PROMPTS_KEPT = 64


class FluxPipeline:
    """Wraps a loaded `flux.pipeline.Pipeline`. Prompts read lately are kept: the same words again are free."""

    def __init__(self, pipeline: flux.Pipeline, *, device: torch.device, dtype: torch.dtype) -> None:
        self.models = (pipeline.spec.name,)
        self.device = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        self.dtype = str(dtype).removeprefix("torch.")
        self._pipeline = pipeline
        self._threads = torch.get_num_threads()
        self._cuda = device.type == "cuda"
        self._read: OrderedDict[str, Conditioning] = OrderedDict()

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
        if job.prompt not in self._read:
            value = self._pipeline.encode(job.prompt)
            limit = self._pipeline.spec.max_text_tokens
            message = f"The prompt is longer than the {limit} tokens that {self.models[0]} reads; its end has no effect"
            notice = Notice(code="prompt_cut", message=message, field="prompt")
            self._read[job.prompt] = Conditioning(value, (notice,) if value.truncated else ())
            if len(self._read) > PROMPTS_KEPT:
                self._read.popitem(last=False)
        self._read.move_to_end(job.prompt)
        return self._read[job.prompt]

    def denoise(self, job: Job, conditioning: Conditioning, *, index: int) -> Iterator[Step]:
        steps = self._pipeline.denoise(
            conditioning.value,
            seed=job.seed,
            index=index,
            height=job.height,
            width=job.width,
            steps=job.steps,
            guidance=job.guidance,
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
