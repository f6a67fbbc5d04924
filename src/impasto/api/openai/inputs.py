"""OpenAI's fields → an endpoint's own input.

In: the JSON object or the form of a call. Out: a `Wish`: the endpoint, its input, and how the answer is wanted. What
has no counterpart is accepted and told as a warning. Fields of the endpoint itself (`seed`, `guidance_scale`, …) pass
as they are, for programs that send them as `extra_body`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from impasto.api.openai.names import choose
from impasto.endpoints.base import Endpoint
from impasto.endpoints.fields import NumImages, Prompt, WireInput
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate, validated
from impasto.engine.job import Notice
from impasto.settings import OpenAISettings

# Accepted and without effect, save for the values that ask for what is done anyway.
IGNORED: dict[str, tuple[Any, ...]] = {
    "quality": ("auto",),
    "style": (),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "output_compression": (),
    "input_fidelity": ("low",),
    "complexity": (),
    "user": (),
    "safety_identifier": (),
}
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_RATIO = re.compile(r"[1-9]\d*:[1-9]\d*")


def _size(text: str) -> str:
    if text != "auto" and not _SIZE.fullmatch(text):
        raise PydanticCustomError("invalid_size", "Size is auto or WIDTHxHEIGHT in pixels, such as 1024x1024")
    return text


class ImagesInput(WireInput):
    """What `/images/generations` and `/images/edits` have in common."""

    model: str = ""
    prompt: Prompt
    n: NumImages = 1
    size: Annotated[str, AfterValidator(_size)] = "auto"
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg"] = "png"
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0


OURS = frozenset(ImagesInput.model_fields) | {"num_images", "sync_mode"}  # never taken for a field of the endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One call, understood."""

    endpoint: Endpoint
    input: dict[str, Any]  # validated: it is what the endpoint takes
    form: Literal["url", "b64_json"] | None  # None: both, for a program that did not say which it reads
    output_format: str
    stream: bool
    partial_images: int  # previews that are wanted of each picture, at most
    notices: tuple[Notice, ...]


def understand(
    body: dict[str, Any], endpoints: Endpoints, *, settings: OpenAISettings, picture: str | None = None
) -> Wish:
    """`picture`: the data URI of what is to be edited. Raises `ModelNotFound`, and `ModelError` at the field."""
    given = validated(ImagesInput, body)
    endpoint, notices = choose(given.model, endpoints, settings=settings, editing=picture is not None)
    fields = endpoint.Input.model_fields
    input_ = {name: value for name, value in body.items() if name in fields and name not in OURS}
    input_ |= {
        "prompt": given.prompt,
        "num_images": given.n,
        "output_format": given.output_format,
        # a program that wants base64 gets it out of the answer itself: no file is kept
        "sync_mode": given.stream or given.response_format == "b64_json",
    }
    if picture is not None:
        input_["image_url"] = picture
    size, more = _sized(given.size, endpoint)
    input_ |= size
    validate(endpoint, input_)
    return Wish(
        endpoint=endpoint,
        input={name: value for name, value in input_.items() if name in fields},
        form=given.response_format,
        output_format=given.output_format,
        stream=given.stream,
        partial_images=given.partial_images,
        notices=(*notices, *more, *_ignored(body)),
    )


def _sized(size: str, endpoint: Endpoint) -> tuple[dict[str, Any], tuple[Notice, ...]]:
    """`size` as the endpoint takes it: in pixels, as an aspect ratio, or not at all."""
    found = _SIZE.fullmatch(size)
    if found is None:
        return {}, ()
    width, height = int(found[1]), int(found[2])
    fields = endpoint.Input.model_fields
    if "image_size" in fields:
        return {"image_size": {"width": width, "height": height}}, ()
    ratios = list(_ratios(fields["aspect_ratio"].annotation)) if "aspect_ratio" in fields else []
    if ratios:
        nearest = min(ratios, key=lambda word: _distance(word, width / height))
        message = f"{endpoint.id} draws in aspect ratios of its own size: {size} became {nearest}."
        return {"aspect_ratio": nearest}, (Notice(code="size_rounded", message=message, field="size"),)
    message = f"{endpoint.id} draws in the size of its picture; size has no effect."
    return {}, (Notice(code="field_ignored", message=message, field="size"),)


def _ratios(annotation: Any) -> Iterator[str]:
    """The ratios among the words of a `Literal`, however deep it lies in unions and `Annotated`."""
    for part in get_args(annotation):
        if not isinstance(part, str):
            yield from _ratios(part)
        elif _RATIO.fullmatch(part):
            yield part


def _distance(word: str, ratio: float) -> float:
    across, _, down = word.partition(":")
    return abs(math.log(ratio) - math.log(int(across) / int(down)))


def _ignored(body: dict[str, Any]) -> Iterator[Notice]:
    for name, neutral in IGNORED.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            yield Notice(code="field_ignored", message=f"{name} has no effect on this server.", field=name)
