"""FLUX.1 Fill, Canny, Depth and Kontext with LoRAs that the caller names: `flux-lora-*`, `flux-kontext-lora`.

Fields, defaults and bounds: reference fal-endpoints B3, B6; of Kontext's text-to-image and inpaint fal's own OpenAPI of
June 2026. Steps and guidance are the fields' defaults, not those that a model was published with.
"""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from impasto.endpoints.base import Endpoint, Wanted
from impasto.endpoints.fields import (
    LIMITS,
    NumImages,
    OutputFormat,
    Prompt,
    SafetyChecker,
    Seed,
    Size,
    SyncMode,
    WireInput,
)
from impasto.endpoints.flux_images import ImageUrl, ManySteps, resized, size_of_image
from impasto.endpoints.flux_lora import (
    EXAMPLE_FROM_IMAGE,
    LORA,
    LORA_IMAGE_TO_IMAGE,
    FromImage,
    Loras,
    MaskUrl,
    Strength,
    image_job,
    image_size,
    named,
    repaints,
)
from impasto.endpoints.flux_open import Acceleration
from impasto.endpoints.flux_pro import EXAMPLE, to_job
from impasto.endpoints.flux_tools import (
    BLACKHOLE,
    KNIGHT,
    KNIGHT_MASK,
    KONTEXT_DEV,
    KONTEXT_DEV_PICTURE,
    KONTEXT_PICTURE,
    MAX_PICTURES,
    OWL,
    ResolutionMode,
    each_of,
    fills,
)
from impasto.engine.job import Job
from impasto.errors import ModelError

ORIGINAL = -1  # a width that is open until the picture is read: its own, to the pixel
KONTEXT_PROMPT = "change the setting to a day time, add a lot of people walking the sidewalk"


def _how_many(value: Any) -> str:
    return "Many" if isinstance(value, list) else "One"


FillImages = Annotated[
    Annotated[list[Annotated[str, Field(min_length=1)]], Tag("Many"), Field(max_length=MAX_PICTURES)]
    | Annotated[str, Tag("One")],
    Discriminator(_how_many),
    Field(description="The images to take after, at most four: their look, not their pixels (Redux)."),
]


class ImageFillInputType2(WireInput):
    fill_image_url: FillImages = Field(default=[])
    in_context_fill: Annotated[bool, Field(description="Not supported by this server.")] = False
    use_prompt: Annotated[
        bool,
        Field(description="Whether to use the prompt as well in the generation, along with the redux image."),
    ] = False


class FillInput(FromImage):
    prompt: Prompt = Field(default="", examples=[EXAMPLE["prompt"]])
    guidance_scale: Annotated[
        float, Field(ge=28, le=35, allow_inf_nan=False, description="How closely the picture follows the prompt.")
    ] = 30.0
    image_url: ImageUrl = Field(examples=[KNIGHT])
    mask_url: MaskUrl = Field(examples=[KNIGHT_MASK])
    paste_back: Annotated[bool, Field(description="Keep the image's own pixels outside of the mask.")] = True
    fill_image: ImageFillInputType2 | None = Field(
        default=None, title="Fill Image", description="What to fill the mask with."
    )
    resize_to_original: Annotated[bool, Field(description="Give the result exactly the image's size.")] = False


class CannyInput(FromImage):
    image_url: ImageUrl = Field(examples=[OWL])


class DepthInput(FromImage):
    image_url: ImageUrl = Field(examples=[BLACKHOLE])


KontextGuidance = Annotated[
    float, Field(ge=0, le=20, allow_inf_nan=False, description="How closely the picture follows the prompt.")
]


class _KontextPicture(WireInput):
    image_url: ImageUrl = Field(examples=[KONTEXT_DEV_PICTURE])
    prompt: Prompt = Field(examples=[KONTEXT_PROMPT])
    num_inference_steps: ManySteps = 30
    seed: Seed = None
    guidance_scale: KontextGuidance = 2.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "png"
    loras: Loras = Field(default=[])
    acceleration: Acceleration = "none"


class BaseKontextEditInput(_KontextPicture):
    resolution_mode: ResolutionMode = "match_input"


class BaseKontextInpaintInput(_KontextPicture):
    image_url: ImageUrl = Field(examples=[KNIGHT])
    prompt: Prompt = Field(examples=["A football lying on a field."])
    reference_image_url: Annotated[
        str,
        Field(min_length=1, examples=[KONTEXT_PICTURE], description="The URL of the image that shows what to draw."),
    ]
    mask_url: MaskUrl = Field(examples=[KNIGHT_MASK])
    strength: Strength = 0.88


class BaseKontextInput(WireInput):
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    image_size: Size = "landscape_4_3"
    num_inference_steps: ManySteps = 30
    seed: Seed = None
    guidance_scale: KontextGuidance = 2.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "png"
    loras: Loras = Field(default=[])
    acceleration: Acceleration = "none"


def fill_images(input_: Any) -> tuple[Wanted, ...]:
    """The pictures of `fill_image`, for Redux."""
    given = input_.fill_image
    if given is None:
        return ()
    field = "fill_image.fill_image_url"
    if isinstance(given.fill_image_url, str):
        return (Wanted(url=given.fill_image_url, role="prompt", strength=1.0, field=field),)
    return each_of(given.fill_image_url, role="prompt", field=field)


def _filled(input_: Any) -> tuple[Wanted, ...]:
    return (*fills(input_), *fill_images(input_))


def _fill_job(input_: Any, *, request_id: str, seed: int, model: str) -> Job:
    fill = input_.fill_image
    if fill is not None and fill.in_context_fill:
        message = "This server cannot fill in context; leave in_context_fill out."
        raise ModelError.at("fill_image.in_context_fill", message, "feature_not_supported")
    job = replace(image_job(input_, request_id=request_id, seed=seed, model=model), paste_back=input_.paste_back)
    if fill is not None and fill.fill_image_url and not fill.use_prompt:
        job = replace(job, prompt="", unheard=job.prompt)
    return replace(job, width=ORIGINAL) if input_.resize_to_original else job


def _fill_size(job: Job) -> Job:
    """`resize_to_original`: drawn in the image's own size, so that nothing is resized; within what can be drawn."""
    if job.width != ORIGINAL:
        return image_size(job)
    image = job.images[0]
    scale = min(1.0, LIMITS.max_side / max(image.width, image.height))
    width, height = (max(round(side * scale), LIMITS.min_side) for side in (image.width, image.height))
    why = f"sides can be {LIMITS.min_side} to {LIMITS.max_side}, of images up to 2 MP"
    return resized(job, width=width, height=height, why=why, field="resize_to_original")


def _canny(input_: Any) -> tuple[Wanted, ...]:
    return (Wanted(url=input_.image_url, role="canny", strength=1.0),)


def _depth(input_: Any) -> tuple[Wanted, ...]:
    return (Wanted(url=input_.image_url, role="depth", strength=1.0),)


def _repaints_like(input_: Any) -> tuple[Wanted, ...]:
    reference = Wanted(url=input_.reference_image_url, role="context", strength=1.0, field="reference_image_url")
    return (*repaints(input_), reference)


_LORAS: list[dict[str, Any]] = EXAMPLE_FROM_IMAGE["loras"]
_KONTEXT: dict[str, Any] = {
    **{name: value for name, value in KONTEXT_DEV.example.items() if name != "resolution_mode"},
    "num_inference_steps": 30,
    "output_format": "png",
    "loras": _LORAS,
}
_KNIGHT: dict[str, Any] = {"image_url": KNIGHT, "mask_url": KNIGHT_MASK}

LORA_CANNY = replace(
    LORA_IMAGE_TO_IMAGE,
    id="fal-ai/flux-lora-canny",
    title="FLUX.1 Canny [dev] with LoRAs",
    description="Draws along the edges of a picture, in styles that LoRAs add.",
    model="flux-canny",
    Input=CannyInput,
    example=EXAMPLE_FROM_IMAGE | {"prompt": "A pink owl.", "image_url": OWL},
    pictures=_canny,
)
KONTEXT_LORA = replace(
    KONTEXT_DEV,
    id="fal-ai/flux-kontext-lora",
    title="FLUX.1 Kontext [dev] with LoRAs",
    description="Changes a picture as the prompt says, in styles that LoRAs add.",
    Input=BaseKontextEditInput,
    example=_KONTEXT | {"prompt": KONTEXT_PROMPT, "resolution_mode": "match_input"},
    loras=named,
)
FLUX_LORA_TOOLS: tuple[Endpoint, ...] = (
    replace(
        LORA_IMAGE_TO_IMAGE,
        id="fal-ai/flux-lora-fill",
        title="FLUX.1 Fill [dev] with LoRAs",
        description="Draws into the masked part of a picture, in styles that LoRAs add.",
        model="flux-fill",
        Input=FillInput,
        to_job=_fill_job,
        example=EXAMPLE_FROM_IMAGE
        | _KNIGHT
        | {"prompt": "A knight in shining armour", "guidance_scale": 30.0, "paste_back": True},
        pictures=_filled,
        with_pictures=_fill_size,
    ),
    LORA_CANNY,
    replace(
        LORA_CANNY,
        id="fal-ai/flux-lora-depth",
        title="FLUX.1 Depth [dev] with LoRAs",
        description="Draws with the depth of a picture, given as a depth map, in styles that LoRAs add.",
        model="flux-depth",
        Input=DepthInput,
        example=EXAMPLE_FROM_IMAGE | {"prompt": "A blackhole in space.", "image_url": BLACKHOLE},
        pictures=_depth,
    ),
    KONTEXT_LORA,
    replace(
        KONTEXT_LORA,
        id="fal-ai/flux-kontext-lora/text-to-image",
        title="FLUX.1 Kontext [dev] Text to Image with LoRAs",
        description="Text to image with the model that also changes pictures, in styles that LoRAs add.",
        Input=BaseKontextInput,
        to_job=to_job,
        example={k: v for k, v in _KONTEXT.items() if k != "image_url"}
        | {"prompt": EXAMPLE["prompt"], "image_size": "landscape_4_3"},
        category="text-to-image",
        pictures=None,
        with_pictures=LORA.with_pictures,
    ),
    replace(
        KONTEXT_LORA,
        id="fal-ai/flux-kontext-lora/inpaint",
        title="FLUX.1 Kontext [dev] Inpainting with LoRAs",
        description="The masked part of a picture drawn anew after a prompt and another picture.",
        Input=BaseKontextInpaintInput,
        to_job=to_job,
        example=_KONTEXT
        | _KNIGHT
        | {"prompt": "A football lying on a field.", "reference_image_url": KONTEXT_PICTURE, "strength": 0.88},
        pictures=_repaints_like,
        with_pictures=size_of_image,
    ),
)
