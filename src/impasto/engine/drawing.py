"""One job in the making: the prompt encoded once, a generator a sample, pixels to pictures. No threads, no scheduling.

`engine.Engine` interleaves many of these; `draw` does one from start to end, for the warm-up and for the command line.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from impasto.engine.custom import Post, apply
from impasto.engine.job import Format, Job, JobResult, Notice, Picture
from impasto.engine.pipeline import Conditioning, Pipeline, Pixels, Step
from impasto.engine.safety import Safety, Verdict
from impasto.errors import ModelError

EncodeImage: TypeAlias = Callable[[Pixels, Format], tuple[bytes, str]]
"""(pixels, format) → (bytes, media type). It is `files.images.encode`, handed in: these rooms never meet."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A picture, whether the classifier looked at it, and what it cost in seconds."""

    picture: Picture
    judged: bool
    safety: float
    encode: float


@dataclass(frozen=True, slots=True)
class Preview:
    jpeg: bytes
    width: int
    height: int


PREVIEW_SIDE = 256  # pixels at most


class Finisher:
    """Pixels → Picture: the classifier looks, a flagged one turns black, the rest is image encoding. Thread-safe."""

    def __init__(self, safety: Safety, encode_image: EncodeImage) -> None:
        self._safety = safety
        self._encode_image = encode_image

    def __call__(self, job: Job, pixels: Pixels) -> Finished:
        """Raises ModelError(content_policy_violation) for a flagged picture when the settings ask for it."""
        start = time.perf_counter()
        nsfw, score = False, 0.0
        judge = job.safety_checker and self._safety.enabled
        if judge:
            verdict = self._safety.judge(pixels, tolerance=job.safety_tolerance)
            nsfw, score = verdict.flagged, verdict.score
        if nsfw and self._safety.refuses:
            raise self._safety.refusal()
        judged = time.perf_counter()
        data, media_type = self._encode_image(np.zeros_like(pixels) if nsfw else pixels, job.format)
        height, width, _ = pixels.shape
        picture = Picture(
            data=data, media_type=media_type, width=width, height=height, nsfw=nsfw, nsfw_score=round(score, 6)
        )
        return Finished(picture, judge, safety=judged - start, encode=time.perf_counter() - judged)

    def screen(self, job: Job) -> Verdict:
        """The prompt, before it is drawn. Raises ModelError(content_policy_violation) when it must not be answered."""
        verdict = self._safety.screen(job)
        if self._safety.must_refuse(verdict):
            raise PromptRefused(verdict)
        return verdict

    def black(self, job: Job, verdict: Verdict) -> Picture:
        """What a flagged prompt gets instead of a drawing."""
        pixels = np.zeros((job.height, job.width, 3), np.uint8)
        data, media_type = self._encode_image(pixels, job.format)
        return Picture(
            data=data,
            media_type=media_type,
            width=job.width,
            height=job.height,
            nsfw=True,
            nsfw_score=round(verdict.score, 6),
        )

    def preview(self, job: Job, pixels: Pixels) -> Preview | None:
        """A picture in the making as a small JPEG; None when the classifier would flag it."""
        stride = -(-max(pixels.shape[:2]) // PREVIEW_SIDE)
        judge = job.safety_checker and self._safety.enabled
        if judge and self._safety.judge(pixels, tolerance=job.safety_tolerance).flagged:
            return None
        small = np.ascontiguousarray(pixels[::stride, ::stride])
        height, width, _ = small.shape
        return Preview(self._encode_image(small, "jpeg")[0], width, height)


class PromptRefused(ModelError):
    """fal's content_policy_violation; `verdict` is for the caller's log."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(Safety.refusal().items)
        self.verdict = verdict


@dataclass(slots=True)
class Drawing:
    """State of one job. `step` and `decode` belong to the thread that owns the pipeline."""

    job: Job
    lease: str
    pipeline: Pipeline
    post: Post | None = None
    started: float | None = None  # perf_counter at the first step
    conditioning: Conditioning | None = None
    samples: dict[int, Iterator[Step]] = field(default_factory=dict[int, Iterator[Step]])
    latents: dict[int, Any] = field(default_factory=dict[int, Any])
    pictures: dict[int, Picture] = field(default_factory=dict[int, Picture])
    steps: int = 0  # made so far, of all samples
    reused: int = 0  # of these, how many took over the work of the step before
    timings: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def complete(self) -> bool:
        return len(self.pictures) == self.job.num_images

    def begin(self) -> Conditioning:
        """Encode the prompt. The clock of `timings.inference` starts here."""
        self.started = time.perf_counter()
        self.conditioning = self.pipeline.encode(self.job)
        self._spent("text_encode", self.started)
        return self.conditioning

    def step(self, index: int) -> Step | None:
        """One step of sample `index`; None when the pipeline has no more."""
        conditioning = self.conditioning or self.begin()
        start = time.perf_counter()
        if index not in self.samples:
            self.samples[index] = self.pipeline.denoise(self.job, conditioning, index=index)
        step = next(self.samples[index], None)
        if step is not None:
            self.latents[index] = step.latents
            self.steps += 1
            self.reused += step.reused
        self._spent("denoise", start)
        return step

    def decode(self, index: int) -> Pixels:
        """The finished latents of sample `index` → pixels [height, width, 3]; the latents are let go."""
        start = time.perf_counter()
        self.samples.pop(index, None)
        if index not in self.latents:
            raise RuntimeError(f"the pipeline made no step for sample {index}")
        pixels = self.pipeline.decode(self.job, self.latents.pop(index))
        if pixels.shape != (self.job.height, self.job.width, 3) or pixels.dtype != np.uint8:
            expected = (self.job.height, self.job.width, 3)
            raise RuntimeError(f"the pipeline decoded {pixels.dtype} {pixels.shape} instead of uint8 {expected}")
        self._spent("decode", start)
        return pixels if self.post is None else apply(self.post, pixels, self.job)

    def add(self, index: int, finished: Finished) -> None:
        self.pictures[index] = finished.picture
        for name, seconds in (("safety", finished.safety), ("encode", finished.encode)):
            self.timings[name] = self.timings.get(name, 0.0) + seconds

    @property
    def _blackened(self) -> tuple[Notice, ...]:
        """A notice for every picture that was drawn and then flagged."""
        return tuple(
            Notice(
                code="safety_blackened",
                message=f"Image {index + 1} was flagged (score {picture.nsfw_score:.2f}): it is black",
            )
            for index, picture in sorted(self.pictures.items())
            if picture.nsfw and self.timings
        )

    @property
    def afterwards(self) -> tuple[Notice, ...]:
        """What only shows once all is drawn."""
        told = None if self.conditioning is None else self.conditioning.afterwards
        return () if told is None else told(self.steps, self.reused)

    def blacken(self, picture: Picture, verdict: Verdict) -> JobResult:
        """The prompt is flagged: `picture` for every sample, none of them drawn."""
        self.started = time.perf_counter() if self.started is None else self.started
        message = f"The prompt was flagged ({verdict.category}); the pictures are black. Change the prompt."
        notice = Notice(code="safety_blackened", message=message, field="prompt")
        self.conditioning = Conditioning(None, (notice,))
        self.pictures = dict.fromkeys(range(self.job.num_images), picture)
        return self.result()

    def result(self) -> JobResult:
        """`timings.inference` is the wall time since `begin`; the others are this job's own seconds."""
        assert self.started is not None
        assert self.conditioning is not None
        timings = {"inference": time.perf_counter() - self.started, **self.timings}
        return JobResult(
            request_id=self.job.request_id,
            pictures=tuple(self.pictures[index] for index in range(self.job.num_images)),
            seed=self.job.seed,
            timings={name: round(seconds, 6) for name, seconds in timings.items()},
            notices=(*self.job.notices, *self.conditioning.notices, *self.afterwards, *self._blackened),
        )

    def _spent(self, name: str, start: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start


def draw(
    job: Job, *, pipeline: Pipeline, finisher: Finisher, on_step: Callable[[int, Step], None] | None = None
) -> JobResult:
    """The whole job at once, in this thread. `on_step(image index, step)` after every step. Errors come through."""
    drawing = Drawing(job, "", pipeline)
    verdict = finisher.screen(job)
    if verdict.flagged:
        return drawing.blacken(finisher.black(job, verdict), verdict)
    for index in range(job.num_images):
        while (step := drawing.step(index)) is not None:
            if on_step is not None:
                on_step(index, step)
            if step.number >= step.total:
                break
        drawing.add(index, finisher(job, drawing.decode(index)))
    return drawing.result()
