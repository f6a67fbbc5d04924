"""The real pipeline behind the engine's protocol. The only file of the engine that imports torch."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from impasto.engine import acceleration, pictures
from impasto.engine.job import ImageInput, Job, Notice
from impasto.engine.loras import Applied, Bounds, Loras
from impasto.engine.memory import Plan, available_memory, plan, plan_on_cpu
from impasto.engine.pipeline import Conditioning, Pixels, Step
from impasto.engine.prompts import PromptCache, Words
from impasto.engine.senses import senses_of
from impasto.engine.streams import Streams
from impasto.flux import footprint, fp8, precision
from impasto.flux import pipeline as flux
from impasto.flux.checkpoint import locate
from impasto.flux.means import Wanted
from impasto.flux.memory import is_out_of_memory
from impasto.flux.models import Shift
from impasto.settings import ModelSettings

log = logging.getLogger("impasto.engine")

WORDS_NAMED = 6
ROOM = 4 * 2**30  # free bytes of a GPU from which a second picture may be encoded or decoded beside the steps


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a job's words and pictures became."""

    text: flux.Conditioning
    given: pictures.Given
    lora: Applied
    speed: acceleration.Speed


class FluxPipeline:
    """Wraps a loaded `flux.pipeline.Pipeline`. `prompt_cache`: bytes of read prompts to keep, on the host; `overlaps`:
    whether it may be used beside its steps. The pipeline's siblings draw for their own endpoints.
    """

    def __init__(
        self,
        pipeline: flux.Pipeline,
        *,
        device: torch.device,
        dtype: torch.dtype,
        prompt_cache: int = 0,
        overlaps: bool = False,
        residency: str = "",
        settings: ModelSettings | None = None,
    ) -> None:
        self._settings = settings or ModelSettings()
        self._siblings = {sibling.spec.name: sibling for sibling in pipeline.siblings}
        self.models = (pipeline.spec.name, *self._siblings)
        self.senses = {
            each.spec.name: senses_of(each.spec, redux=each.has_redux) for each in (pipeline, *pipeline.siblings)
        }
        self.residency = residency
        self.device = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        self.dtype = str(dtype).removeprefix("torch.")
        self._pipeline = pipeline
        self._threads = torch.get_num_threads()
        self._cuda = device.type == "cuda"
        self._prompts: PromptCache[flux.Conditioning] = PromptCache(prompt_cache, store=lambda c: c.to("cpu"))
        self._loras = Loras(pipeline, Bounds.of(self._settings, parameters=pipeline.parameters, free=_free(device)))
        self.overlaps = overlaps
        self._streams = Streams(device if overlaps else None)

    @classmethod
    def load(cls, settings: ModelSettings) -> "FluxPipeline":
        """Reads the weights of `settings.name`. Raises WeightsError, which says what is missing or does not fit."""
        device = precision.choose_device(settings.device)
        arrangement = plan_for(settings)
        log.info("%s: %s", settings.name, arrangement.sentence)
        if arrangement.remark:
            log.warning("%s: %s", settings.name, arrangement.remark)
        dtype = precision.choose_dtype(device)
        pipeline = flux.Pipeline.load(
            settings.name,
            models=settings.folder,
            device=str(device),
            dtype=dtype,
            threads=settings.threads,
            residency=arrangement.residency,
        )
        for each in (pipeline, *pipeline.siblings):
            each.accelerate(_wanted(settings, arrangement))
        return cls(
            pipeline,
            device=device,
            dtype=dtype,
            prompt_cache=settings.prompt_cache_mb * 2**20,
            overlaps=_overlaps(settings, device) and not arrangement.residency.visits,
            residency=arrangement.residency.words,
            settings=settings,
        )

    def _model(self, job: Job) -> flux.Pipeline:
        """Which of the loaded models draws the job: one of few steps only as many as it has learned."""
        sibling = self._siblings.get(job.model)
        return sibling if sibling is not None and job.steps <= sibling.spec.default_steps else self._pipeline

    @property
    def warm_up_images(self) -> tuple[ImageInput, ...]:
        return tuple(pictures.blank(role) for role in self.senses[self._pipeline.spec.name].needs)

    @property
    def counters(self) -> Mapping[str, int]:
        return {f"prompt_cache_{name}": count for name, count in self._prompts.counters.items()}

    def encode(self, job: Job) -> Conditioning:
        self._use_threads()
        with self._streams.own():
            lora = self._loras.apply(job.loras)
            text = self._text(job, job.negative if job.cfg > 1 else None)
            given = pictures.read(job, self._model(job))
            speed = acceleration.choose(job, self._settings, fp8=self._model(job).means.fp8 is not None)
            prompt = Prompt(text.seeing(given.seen), given, lora, speed)
            self._streams.hand_out(prompt)
        return Conditioning(prompt, (*self._notices(job, text), *lora.notices, *speed.notices), speed.report)

    def _use_threads(self) -> None:
        # OpenMP keeps the count by thread; the one that loaded the model is not the one that draws.
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def _text(self, job: Job, negative: str | None) -> flux.Conditioning:
        model = self._model(job)
        encoder = f"{model.spec.name}/{model.spec.max_text_tokens}"
        words = Words(scope=job.scope, encoder=encoder, prompt=job.prompt, negative=negative)
        text, hit = self._prompts.get(words, lambda: model.encode(job.prompt, negative=negative))
        log.debug("Request %s: prompt %s", job.request_id, "found in the cache" if hit else "read by the text encoder")
        return text.to(model.device)

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
        self._use_threads()
        prompt: Prompt = conditioning.value
        model, cfg = self._model(job), max(job.cfg, 1.0)
        # Of a model that has no embedded scale, two passes are the only guidance.
        only = model.spec.guidance == "cfg" and cfg > 1.0
        steps = model.denoise(
            prompt.text,
            seed=job.seed,
            index=index,
            height=job.height,
            width=job.width,
            steps=job.steps,
            guidance=cfg if only else job.guidance,
            init=prompt.given.init,
            reference=prompt.given.reference,
            beside=prompt.given.beside,
            context=prompt.given.context,
            cfg=cfg,
            shift=None if job.shift is None else Shift(*job.shift),
            sides=prompt.lora.sides,
            caching=prompt.speed.caching,
            quick=prompt.speed.fp8,
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
            yield Step(step.index + 1, step.total, step.latents, step.preview, step.reused)

    def decode(self, job: Job, latents: Any) -> Pixels:
        self._use_threads()
        with self._streams.own():
            pixels = self._pipeline.decode(latents, height=job.height, width=job.width)
        return pictures.pasted(job, pixels)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return is_out_of_memory(error)

    def free_memory(self) -> None:
        self._prompts.clear()
        self._loras.clear()
        for each in (self._pipeline, *self._siblings.values()):
            if each.means.graphs is not None:
                each.means.graphs.clear()
        if self._cuda:
            torch.cuda.empty_cache()


def _free(device: torch.device) -> int:
    """Bytes that are free on the device beside the model; without end where the system does not say."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    return 2**62 if free is None else free


def _overlaps(settings: ModelSettings, device: torch.device) -> bool:
    """On a GPU, with room for two pictures' activations. On a CPU a busy core makes it a loss (benchmarks/LOG.md), and
    who knows of an idle one says so.
    """
    if settings.overlap != "auto":
        return settings.overlap == "on"
    return device.type == "cuda" and torch.cuda.mem_get_info(device)[0] >= ROOM


def _unknown(name: str, text: flux.Conditioning) -> str:
    """What a caller is told whose words the model has never seen."""
    words = ", ".join(text.unknown[:WORDS_NAMED]) + (", …" if len(text.unknown) > WORDS_NAMED else "")
    if text.instead is None:
        return f"{name} does not know these words, and may not draw what they say: {words}."
    return f"{name} knows nothing of this ({words}) and drew what is nearest to it: {text.instead}."


def _wanted(settings: ModelSettings, arrangement: Plan) -> Wanted:
    """What the settings ask for, as far as weights that stay where they are, as they are, allow it."""
    wanted = Wanted(
        compile=settings.compile == "blocks",
        graphs=settings.cuda_graphs,
        fp8=settings.fp8,
        folder=settings.speed_folder,
    )
    if arrangement.residency.settled:
        return wanted
    if wanted.compile or wanted.graphs or wanted.fp8:
        words = arrangement.residency.words
        log.warning("%s: neither compiled blocks nor graphs nor fp8 linears with %s", settings.name, words)
    return Wanted(folder=settings.speed_folder)


def plan_for(settings: ModelSettings) -> Plan:
    """Where the model of `settings` would go on this machine. Reads headers only. Raises WeightsError when it is not
    whole or does not fit.
    """
    device = precision.choose_device(settings.device)
    checkpoint = locate(settings.name, models=settings.folder)
    near = precision.choose_dtype(device)
    needs = footprint.needs(checkpoint, device=near, side=settings.room_for)
    if settings.fp8 and fp8.obstacle(device) is None:
        needs = replace(needs, others=needs.others + needs.transformer["full"].whole // near.itemsize)
    if device.type == "cpu":
        return plan_on_cpu(needs, free=available_memory(), bits=settings.weights_dtype)
    free, _ = torch.cuda.mem_get_info(device)
    return plan(
        needs,
        device_free=free,
        host_free=available_memory(),
        asked=settings.residency,
        bits=settings.weights_dtype,
    )
