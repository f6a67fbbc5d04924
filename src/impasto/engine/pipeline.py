"""What the engine needs of a model: encode, denoise step by step, decode. Second implementation: `engine.fake`.

Everything between the three calls (conditioning, latents) is the pipeline's own and opaque to the engine.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from impasto.engine.job import ImageInput, Job, Notice
from impasto.engine.senses import Senses

Pixels = NDArray[np.uint8]
"""[H, W, 3], RGB."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a prompt became. `value` is the pipeline's own; `notices` are for the caller, and so is what `afterwards`
    says, told how many steps were made and how many of them reused.
    """

    value: Any
    notices: tuple[Notice, ...] = ()
    afterwards: Callable[[int, int], tuple[Notice, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A sample after step `number` (from 1) of `total`. `latents` is the pipeline's own; the last one is decoded.
    `reused`: it took most of its work over from the step before.
    """

    number: int
    total: int
    latents: Any
    preview: Callable[[], Pixels] | None = None  # a small picture of how it looks so far; only before the next step
    reused: bool = False


class Pipeline(Protocol):
    """A loaded model. Samples of several jobs may be in the making at once. Used by one thread at a time; one that
    `overlaps` is used by three: `encode`, `denoise` with its steps and previews, `decode`, each in one at a time.
    """

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that jobs may ask for, the default first."""
        ...

    @property
    def senses(self) -> Mapping[str, Senses]:
        """What each of `models` can do with the caller's images."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def residency(self) -> str:
        """Where the weights live and in how many bits, in words."""
        ...

    @property
    def warm_up_images(self) -> tuple[ImageInput, ...]:
        """Pictures without which the model cannot draw, for a first step that nobody sees."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether prompts may be read and latents decoded while steps are made, and that is worth it here."""
        ...

    @property
    def counters(self) -> Mapping[str, int]:
        """What it has counted since it was loaded, for the operator: prompt_cache_hits, …"""
        ...

    def encode(self, job: Job) -> Conditioning:
        """Read the prompt, once a job."""
        ...

    def denoise(self, job: Job, conditioning: Conditioning, *, index: int) -> Iterator[Step]:
        """Sample `index` of the job, a yield a step. Depends on (job, index) only, never on what else is drawn."""
        ...

    def decode(self, job: Job, latents: Any) -> Pixels:
        """[job.height, job.width, 3]."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` says that the device's memory was full."""
        ...

    def free_memory(self) -> None:
        """Give back what can be given back, after an error."""
        ...
