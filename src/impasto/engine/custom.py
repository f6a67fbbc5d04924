"""A user's own code around a job, in the runner: a pipeline over the loaded one, and a last hand on the pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from impasto.engine.job import Job
from impasto.engine.pipeline import Pipeline, Pixels
from impasto.errors import ConfigError
from impasto.plugins import FAULTS

Post: TypeAlias = Callable[[Pixels, Job], Pixels]
"""(pixels [H, W, 3], job) → pixels, of another size if need be. Runs before the safety check looks at the picture."""

Over: TypeAlias = Callable[[Pipeline], Pipeline]
"""The loaded pipeline → one that draws over it. Called once, when the model is loaded."""

MAX_SIDE = 4096  # pixels of what a `Post` may return


@dataclass(frozen=True, slots=True)
class Custom:
    """What a job that names an endpoint of the user's is drawn with."""

    pipeline: Pipeline
    post: Post | None = None


def wrap(pipeline: Pipeline, code: Mapping[str, tuple[Over | None, Post | None]]) -> dict[str, Custom]:
    """{endpoint id: `Custom`} of those with code of their own. Raises `ConfigError` when an `Over` fails."""
    made: dict[str, Custom] = {}
    for id_, (over, post) in code.items():
        if over is None and post is None:
            continue
        try:
            made[id_] = Custom(pipeline if over is None else over(pipeline), post)
        except FAULTS as error:
            raise ConfigError(
                f"the pipeline of {id_} could not be made ({type(error).__name__}: {error}). "
                "Mend it, or leave the endpoint out of server.endpoints."
            ) from error
    return made


def apply(post: Post, pixels: Pixels, job: Job) -> Pixels:
    """`post(pixels, job)`, checked: a picture that nobody could encode is the user's fault and says so."""
    made = np.ascontiguousarray(post(pixels, job))
    sides = made.shape[:2]
    if made.dtype != np.uint8 or made.ndim != 3 or made.shape[2] != 3 or not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise TypeError(
            f"post of {job.endpoint} returned {made.dtype} {made.shape}; it has to be uint8 [H, W, 3], "
            f"sides up to {MAX_SIDE}"
        )
    return made
