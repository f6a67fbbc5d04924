"""What a user needs to write an endpoint of their own: `derive` one from a shipped one, and the fields to pick from.

    INK = derive("me/ink", Input=InkInput, asks=lambda x: {"prompt": f"{x.prompt}, ink drawing"}, example={...})

Whoever wants more builds an `Endpoint` by hand. docs/custom-endpoints.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from impasto.endpoints.base import Endpoint, Wanted, WantedLora
from impasto.endpoints.fields import (
    AspectRatio,
    Guidance,
    ImageSize,
    NumImages,
    OutputFormat,
    Prompt,
    SafetyChecker,
    SafetyTolerance,
    Seed,
    Size,
    Steps,
    SyncMode,
    WireInput,
)
from impasto.endpoints.flux_pro import FLUX_PRO, FluxProTextToImageOutput, Image
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.engine.job import Job, JobResult
from impasto.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from impasto.engine.custom import Over, Post

__all__ = [
    "AspectRatio", "Endpoint", "FluxProTextToImageOutput", "Guidance", "Image", "ImageSize", "Job", "JobResult",
    "ModelError", "NumImages", "OutputFormat", "Prompt", "SafetyChecker", "SafetyTolerance", "Seed", "Size", "Steps",
    "SyncMode", "Wanted", "WireInput", "derive",
]  # fmt: skip

_SHARED = ("seed", "sync_mode")  # taken over from the user's input when it has them and `asks` is silent


def derive(
    id_: str,
    *,
    Input: type[BaseModel],
    asks: Callable[[Any], dict[str, Any]],
    example: dict[str, Any],
    base: str = FLUX_PRO.id,
    title: str | None = None,
    description: str = "",
    Output: type[BaseModel] | None = None,
    answer: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None,
    post: Post | None = None,
    pipeline: Over | None = None,
) -> Endpoint:
    """An endpoint that asks a shipped one (`base`) for its pictures.

    `asks(input)`: the input of `base` as JSON; pure, because it is called more than once. `answer(input, output)`: the
    output of `base` → yours, of the shape of `Output`. `post` and `pipeline` run in the runner (`engine.custom`).
    """
    table = Endpoints()
    if base not in table:
        raise ConfigError(f"{id_}: base {base!r} is not a shipped endpoint. Known: {', '.join(table)}.")
    origin = table[base]

    def asked(input_: Any) -> BaseModel:
        shared = {name: getattr(input_, name) for name in _SHARED if hasattr(input_, name)}
        # The wire says whether files are made by the user's own field: what `asks` says of it would contradict.
        said = {name: value for name, value in asks(input_).items() if name != "sync_mode"}
        return validate(origin, shared | said)

    def to_job(input_: Any, *, request_id: str, seed: int, model: str) -> Job:
        return origin.to_job(asked(input_), request_id=request_id, seed=seed, model=model)

    def to_output(input_: Any, result: JobResult, urls: Sequence[str]) -> dict[str, Any]:
        output = origin.to_output(asked(input_), result, urls)
        return output if answer is None else answer(input_, output)

    def pictures(input_: Any) -> tuple[Wanted, ...]:
        assert origin.pictures is not None
        return origin.pictures(asked(input_))

    def loras(input_: Any) -> tuple[WantedLora, ...]:
        assert origin.loras is not None
        return origin.loras(asked(input_))

    return Endpoint(
        id=id_,
        title=title or id_,
        description=description or f"Asks {base}.",
        model=origin.model,
        Input=Input,
        Output=Output or origin.Output,
        to_job=to_job,
        to_output=to_output,
        example=example,
        category=origin.category,
        pictures=None if origin.pictures is None else pictures,
        loras=None if origin.loras is None else loras,
        with_pictures=origin.with_pictures,
        post=post,
        pipeline=pipeline,
    )
