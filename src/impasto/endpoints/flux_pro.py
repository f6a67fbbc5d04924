"""`fal-ai/flux-pro` and its siblings that draw from text: Input ↔ Job ↔ Output.

In: the caller's JSON (validated by `validation.validate`). Out: a `Job` for a runner; the output JSON of its pictures.
The nine input fields, their order, defaults and sentences are the documented page's; bounds are in `fields`.
A prompt may be empty (it draws what the model draws unasked, as fal does) and has at most 10,000 characters.
Fields that fal's pages got later are taken, too, but not published.
Custom sizes: 64 to 2560 pixels a side, at most 4 MP, rounded to the nearest multiple of 16; `images[]` tells the true
size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from impasto.endpoints.base import Endpoint, Wanted
from impasto.endpoints.fields import (
    PRESETS,
    AspectRatio,
    EnhancePrompt,
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
    pixels,
    ultra_pixels,
)
from impasto.engine.job import Job, JobResult, Notice
from impasto.files.images import data_uri

STEPS = 28
GUIDANCE = 3.5

EXAMPLE: dict[str, Any] = {
    "prompt": "Extreme close-up of a single tiger eye, direct frontal view. Detailed iris and pupil. Sharp focus on "
    "eye texture and color. Natural lighting to capture authentic eye shine and depth. The word "
    '"FLUX" is painted over it in big, white brush strokes with visible texture.',
    "image_size": "landscape_4_3",
    "num_inference_steps": STEPS,
    "guidance_scale": GUIDANCE,
    "num_images": 1,
    "safety_tolerance": "2",
    "output_format": "jpeg",
}
PLUS_EXAMPLE: dict[str, Any] = {
    "prompt": EXAMPLE["prompt"],
    "image_size": "landscape_4_3",
    "num_images": 1,
    "enable_safety_checker": True,
    "safety_tolerance": "2",
    "output_format": "jpeg",
}


class FluxProTextToImageInput(WireInput):
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    image_size: Size = "landscape_4_3"
    num_inference_steps: Steps = STEPS
    seed: Seed = None
    guidance_scale: Guidance = GUIDANCE
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    safety_tolerance: SafetyTolerance = "2"
    output_format: OutputFormat = "jpeg"
    enhance_prompt: SkipJsonSchema[EnhancePrompt] = False


class FluxProPlusTextToImageInput(WireInput):
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    image_size: Size = "landscape_4_3"
    seed: Seed = None
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    safety_tolerance: SafetyTolerance = "2"
    output_format: OutputFormat = "jpeg"
    enhance_prompt: SkipJsonSchema[EnhancePrompt] = False


class FluxProUltraTextToImageInput(WireInput):
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    seed: Seed = None
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    safety_tolerance: SafetyTolerance = "2"
    output_format: OutputFormat = "jpeg"
    aspect_ratio: AspectRatio = "16:9"
    raw: bool = Field(default=False, description="Generate less processed, more natural-looking images.")
    enhance_prompt: SkipJsonSchema[EnhancePrompt] = False
    image_url: SkipJsonSchema[str] = ""
    image_prompt_strength: SkipJsonSchema[float] = Field(default=0.1, ge=0, le=1, allow_inf_nan=False)


class Image(BaseModel):
    url: str
    width: int
    height: int
    content_type: str = "image/jpeg"


class FluxProTextToImageOutput(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"images": [{"url": "", "content_type": "image/jpeg"}], "prompt": ""}]}
    )

    images: list[Image] = Field(description="The generated image files info.")
    timings: dict[str, float]
    seed: int = Field(
        description="Seed of the generated Image. It will be the same value of the one passed in the input or the "
        "randomly generated that was used in case none was passed."
    )
    has_nsfw_concepts: list[bool] = Field(description="Whether the generated images contain NSFW concepts.")
    prompt: str = Field(description="The prompt used for generating the image.")


def to_job(input_: Any, *, request_id: str, seed: int, model: str) -> Job:
    """Everything decided: pixels for presets, the caller's seed before `seed`, defaults for fields the input lacks."""
    width, height = _size(input_)
    return Job(
        request_id=request_id,
        model=model,
        prompt=getattr(input_, "prompt", ""),
        width=width,
        height=height,
        steps=getattr(input_, "num_inference_steps", STEPS),
        guidance=getattr(input_, "guidance_scale", GUIDANCE),
        seed=seed if input_.seed is None else input_.seed,
        num_images=input_.num_images,
        format=input_.output_format,
        safety_tolerance=int(getattr(input_, "safety_tolerance", "2")),
        safety_checker=getattr(input_, "enable_safety_checker", True),
        raw=getattr(input_, "raw", False),
        acceleration=input_.acceleration if "acceleration" in input_.model_fields_set else None,
        notices=tuple(_notices(input_, width, height)),
    )


def _size(input_: Any) -> tuple[int, int]:
    if getattr(input_, "image_size", None) is not None:
        return pixels(input_.image_size)
    # Neither: the picture that the input names decides (`Endpoint.with_pictures`).
    return ultra_pixels(input_.aspect_ratio) if hasattr(input_, "aspect_ratio") else PRESETS["landscape_4_3"]


def _notices(input_: Any, width: int, height: int) -> Iterator[Notice]:
    """What the caller should know of the way from the input to the job."""
    asked = getattr(input_, "image_size", None)
    if isinstance(asked, ImageSize) and (asked.width, asked.height) != (width, height):
        message = f"The size {asked.width}x{asked.height} was rounded to {width}x{height}: sides are multiples of 16."
        yield Notice(code="size_rounded", message=message, field="image_size")
    if getattr(input_, "enhance_prompt", False):
        message = "This server does not rewrite prompts: enhance_prompt has no effect."
        yield Notice(code="field_ignored", message=message, field="enhance_prompt")


def takes_after(input_: Any) -> tuple[Wanted, ...]:
    """The picture that redux and ultra take after, if there is one."""
    if not input_.image_url:
        return ()
    strength = getattr(input_, "image_prompt_strength", None)  # redux has no field for it
    return (Wanted(url=input_.image_url, role="prompt", strength=strength),)


def to_output(input_: Any, result: JobResult, urls: Sequence[str]) -> dict[str, Any]:
    """The output in the page's order. With `sync_mode` the pictures themselves are the URLs (data URIs)."""
    if input_.sync_mode:
        urls = [data_uri(picture.data, picture.media_type) for picture in result.pictures]
    return {
        "images": [
            {"url": url, "width": picture.width, "height": picture.height, "content_type": picture.media_type}
            for url, picture in zip(urls, result.pictures, strict=True)
        ],
        "timings": dict(result.timings),
        "seed": result.seed,
        "has_nsfw_concepts": [picture.nsfw for picture in result.pictures],
        "prompt": getattr(input_, "prompt", ""),
    }


FLUX_PRO = Endpoint(
    id="fal-ai/flux-pro",
    title="FLUX.1 [pro] Text to Image",
    description="FLUX.1 [pro], next generation text-to-image model.",
    model="flux-pro",
    Input=FluxProTextToImageInput,
    Output=FluxProTextToImageOutput,
    to_job=to_job,
    to_output=to_output,
    example=EXAMPLE,
)
FLUX_PRO_NEW = replace(
    FLUX_PRO,
    id="fal-ai/flux-pro/new",
    title="FLUX.1 [pro] new",
    description="The same as fal-ai/flux-pro under its later id.",
)
FLUX_PRO_V1_1 = Endpoint(
    id="fal-ai/flux-pro/v1.1",
    title="FLUX1.1 [pro]",
    description="Text to image with the number of steps and the guidance chosen by the server.",
    model="flux-pro-1.1",
    Input=FluxProPlusTextToImageInput,
    Output=FluxProTextToImageOutput,
    to_job=to_job,
    to_output=to_output,
    example=PLUS_EXAMPLE,
)
FLUX_PRO_V1_1_ULTRA = Endpoint(
    id="fal-ai/flux-pro/v1.1-ultra",
    title="FLUX1.1 [pro] ultra",
    description="Text to image of four megapixels in seven aspect ratios.",
    model="flux-pro-1.1-ultra",
    Input=FluxProUltraTextToImageInput,
    Output=FluxProTextToImageOutput,
    to_job=to_job,
    to_output=to_output,
    example={
        "prompt": EXAMPLE["prompt"],
        "num_images": 1,
        "enable_safety_checker": True,
        "safety_tolerance": "2",
        "output_format": "jpeg",
        "aspect_ratio": "16:9",
    },
    pictures=takes_after,
)
