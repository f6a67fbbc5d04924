"""FLUX.1 Fill, Canny, Depth and Kontext: endpoints that draw into, along or from the caller's pictures; and Krea.

Fields: reference fal-endpoints B1 to B3; `v1/canny` and `v1/depth` as of the seed page's time. Each needs its own model
loaded; another one answers 422 `feature_not_supported` and says which (`engine.pictures`). Where the wire keeps steps
and guidance back, or the caller names none, those apply that the model was published with.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from impasto.endpoints.base import Endpoint, Wanted
from impasto.endpoints.fields import (
    EnhancePrompt,
    Guidance,
    NumImages,
    OutputFormat,
    Prompt,
    SafetyChecker,
    SafetyTolerance,
    Seed,
    SyncMode,
    WireInput,
)
from impasto.endpoints.flux_images import (
    DEV_REDUX,
    IMAGE_TO_IMAGE,
    BaseImageToInput,
    BaseReduxInput,
    ImageUrl,
    ManySteps,
    resized,
    size_of_image,
)
from impasto.endpoints.flux_open import DEV, DEV_EXAMPLE, Acceleration, BaseInput
from impasto.endpoints.flux_pro import EXAMPLE, FLUX_PRO, FluxProTextToImageInput, to_job
from impasto.engine.job import ImageRole, Job
from impasto.flux.models import FLUX1_CANNY, FLUX1_DEPTH, FLUX1_FILL, FLUX1_KONTEXT, ModelSpec
from impasto.flux.sizes import kontext_size, megapixel

NEAREST, MATCH_INPUT = 0, -1  # a width that is open until the picture is read: the nearest trained one, or its own
MAX_PICTURES = 4  # of kontext/multi; each is 4096 more tokens

KNIGHT = "https://storage.googleapis.com/falserverless/flux-lora/example-images/knight.jpeg"
KNIGHT_MASK = "https://storage.googleapis.com/falserverless/flux-lora/example-images/mask_knight.jpeg"
OWL = "https://fal.media/files/kangaroo/eNSkRdVFzNvDkrrMjxFA3.png"
BLACKHOLE = "https://fal.media/files/penguin/vt-SeIOweN7_oYBsvGO6t.png"
KREA_PICTURE = "https://storage.googleapis.com/falserverless/example_inputs/flux_krea_redux_output_1.jpg"
KONTEXT_DEV_PICTURE = "https://storage.googleapis.com/falserverless/example_inputs/kontext_example_input.webp"
KONTEXT_PICTURE = "https://v3.fal.media/files/rabbit/rmgBxhwGYb2d3pl3x9sKf_output.png"

Ratio9 = Literal["21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21"]
ControlUrl = Annotated[str, Field(min_length=1, description="The URL of the picture whose lines or depth to follow.")]
ResolutionMode = Annotated[
    Literal["auto", "match_input", "1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"],
    Field(description="The size of the result: the trained one nearest to the image, the image's own, or a ratio."),
]


class FluxProFillInput(WireInput):
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    seed: Seed = None
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    output_format: OutputFormat = "jpeg"
    safety_tolerance: SafetyTolerance = "2"
    enhance_prompt: EnhancePrompt = False
    image_url: str = Field(
        min_length=1, examples=[KNIGHT], description="The image URL to fill. Needs to match the dimensions of the mask."
    )
    mask_url: str = Field(
        min_length=1,
        examples=[KNIGHT_MASK],
        description="The mask URL; white is what to fill. Needs to match the dimensions of the input image.",
    )


class FluxProCannyControlInput(FluxProTextToImageInput):
    control_image_url: ControlUrl = Field(examples=[OWL])


class FluxProDepthControlInput(FluxProTextToImageInput):
    control_image_url: ControlUrl = Field(examples=[BLACKHOLE])


class _Kontext(WireInput):
    prompt: Prompt = Field(examples=["Put a donut next to the flour."])
    seed: Seed = None
    guidance_scale: Guidance = 3.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    output_format: OutputFormat = "jpeg"
    safety_tolerance: SafetyTolerance = "2"
    enhance_prompt: EnhancePrompt = False


class FluxKontextInput(_Kontext):
    aspect_ratio: Annotated[Ratio9 | None, Field(description="Aspect ratio of the generated image.")] = None
    image_url: str = Field(min_length=1, examples=[KONTEXT_PICTURE], description="Image prompt for the omni model.")


class FluxKontextMultiInput(_Kontext):
    aspect_ratio: Annotated[Ratio9 | None, Field(description="Aspect ratio of the generated image.")] = None
    image_urls: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1,
        max_length=MAX_PICTURES,
        examples=[[KONTEXT_PICTURE, KNIGHT]],
        description="Image prompts for the omni model.",
    )


class FluxProTextToImageInputWithAR(_Kontext):
    aspect_ratio: Annotated[Ratio9, Field(description="Aspect ratio of the generated image.")] = "1:1"


class DevKontextEditInput(WireInput):
    prompt: Prompt = Field(examples=["Change the setting to a day time, add a lot of people walking the sidewalk."])
    image_url: ImageUrl = Field(examples=[KONTEXT_DEV_PICTURE])
    num_inference_steps: ManySteps = 28
    seed: Seed = None
    guidance_scale: Guidance = 2.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"
    resolution_mode: ResolutionMode = "match_input"


class BaseKreaInput(BaseInput):
    guidance_scale: Guidance = 4.5


class BaseKreaImageToInput(BaseImageToInput):
    guidance_scale: Guidance = 4.5


class BaseKreaReduxInput(BaseReduxInput):
    image_url: ImageUrl = Field(examples=[KREA_PICTURE])
    guidance_scale: Guidance = 4.5


def _published(spec: ModelSpec) -> Any:
    """`to_job` with the model's own steps and guidance, where the caller's input names none."""

    def to_job_(input_: Any, *, request_id: str, seed: int, model: str) -> Job:
        job = to_job(input_, request_id=request_id, seed=seed, model=model)
        named = input_.model_fields_set
        return replace(
            job,
            steps=job.steps if "num_inference_steps" in named else spec.default_steps,
            guidance=job.guidance if "guidance_scale" in named else spec.default_guidance,
        )

    return to_job_


def _kontext_job(input_: Any, *, request_id: str, seed: int, model: str) -> Job:
    """A ratio decides the size; without one the picture will (`_kontext_size`)."""
    ratio = getattr(input_, "aspect_ratio", None) or getattr(input_, "resolution_mode", "auto")
    sized = input_.model_copy(update={"aspect_ratio": "1:1"}) if hasattr(input_, "aspect_ratio") else input_
    job = to_job(sized, request_id=request_id, seed=seed, model=model)
    if ":" in ratio:
        across, down = (int(part) for part in ratio.split(":"))
        height, width = megapixel(across, down)
    else:
        height = width = MATCH_INPUT if ratio == "match_input" else NEAREST
    return replace(job, height=height, width=width)


def _kontext_size(job: Job) -> Job:
    if job.width == MATCH_INPUT:
        return size_of_image(job)
    if job.width != NEAREST:
        return job
    height, width = kontext_size(job.images[0].height, job.images[0].width)
    return resized(job, width=width, height=height, why="it is drawn in the nearest of the sizes for its ratio")


def each_of(urls: Sequence[str], *, role: ImageRole, field: str) -> tuple[Wanted, ...]:
    """The pictures of a list, each with its place in it."""
    return tuple(Wanted(url=url, role=role, strength=1.0, field=f"{field}.{i}") for i, url in enumerate(urls))


def fills(input_: Any) -> tuple[Wanted, ...]:
    return (
        Wanted(url=input_.image_url, role="fill", strength=1.0),
        Wanted(url=input_.mask_url, role="mask", strength=1.0, field="mask_url"),
    )


def _canny(input_: Any) -> tuple[Wanted, ...]:
    return (Wanted(url=input_.control_image_url, role="canny", strength=1.0, field="control_image_url"),)


def _depth(input_: Any) -> tuple[Wanted, ...]:
    return (Wanted(url=input_.control_image_url, role="depth", strength=1.0, field="control_image_url"),)


def _context(input_: Any) -> tuple[Wanted, ...]:
    if hasattr(input_, "image_urls"):
        return each_of(input_.image_urls, role="context", field="image_urls")
    return (Wanted(url=input_.image_url, role="context", strength=1.0),)


_PRO: dict[str, Any] = {"num_images": 1, "output_format": "jpeg", "safety_tolerance": "2"}
_KONTEXT: dict[str, Any] = {"prompt": "Put a donut next to the flour.", "guidance_scale": 3.5, **_PRO}

FILL = replace(
    FLUX_PRO,
    id="fal-ai/flux-pro/v1/fill",
    title="FLUX.1 [pro] Fill",
    description="Draws into the masked part of a picture.",
    model="flux-fill",
    Input=FluxProFillInput,
    to_job=_published(FLUX1_FILL),
    example={"prompt": "A knight in shining armour", **_PRO, "image_url": KNIGHT, "mask_url": KNIGHT_MASK},
    category="image-to-image",
    pictures=fills,
    with_pictures=size_of_image,
)
CANNY = replace(
    FLUX_PRO,
    id="fal-ai/flux-pro/v1/canny",
    title="FLUX.1 [pro] Canny",
    description="Draws along the edges of a picture.",
    model="flux-canny",
    Input=FluxProCannyControlInput,
    to_job=_published(FLUX1_CANNY),
    example=EXAMPLE | {"prompt": "A pink owl.", "control_image_url": OWL},
    category="image-to-image",
    pictures=_canny,
)
DEPTH = replace(
    CANNY,
    id="fal-ai/flux-pro/v1/depth",
    title="FLUX.1 [pro] Depth",
    description="Draws with the depth of a picture, given as a depth map.",
    model="flux-depth",
    Input=FluxProDepthControlInput,
    to_job=_published(FLUX1_DEPTH),
    example=EXAMPLE | {"prompt": "A blackhole in space.", "control_image_url": BLACKHOLE},
    pictures=_depth,
)
KONTEXT = replace(
    FLUX_PRO,
    id="fal-ai/flux-pro/kontext",
    title="FLUX.1 Kontext [pro]",
    description="Changes a picture as the prompt says.",
    model="flux-kontext",
    Input=FluxKontextInput,
    to_job=_kontext_job,
    example=_KONTEXT | {"image_url": KONTEXT_PICTURE},
    category="image-to-image",
    pictures=_context,
    with_pictures=_kontext_size,
)
KONTEXT_MULTI = replace(
    KONTEXT,
    id="fal-ai/flux-pro/kontext/multi",
    title="FLUX.1 Kontext [pro] multi",
    description="Makes one picture of several, as the prompt says.",
    Input=FluxKontextMultiInput,
    example=_KONTEXT | {"image_urls": [KONTEXT_PICTURE, KNIGHT]},
)
KONTEXT_TEXT = replace(
    KONTEXT,
    id="fal-ai/flux-pro/kontext/text-to-image",
    title="FLUX.1 Kontext [pro] Text to Image",
    description="Text to image with the model that also changes pictures.",
    Input=FluxProTextToImageInputWithAR,
    example=_KONTEXT | {"aspect_ratio": "1:1"},
    category="text-to-image",
    pictures=None,
    with_pictures=FLUX_PRO.with_pictures,
)
KONTEXT_DEV = replace(
    KONTEXT,
    id="fal-ai/flux-kontext/dev",
    title="FLUX.1 Kontext [dev]",
    Input=DevKontextEditInput,
    example={
        "prompt": "Change the setting to a day time, add a lot of people walking the sidewalk.",
        "image_url": KONTEXT_DEV_PICTURE,
        "num_inference_steps": FLUX1_KONTEXT.default_steps,
        "guidance_scale": 2.5,
        "num_images": 1,
        "enable_safety_checker": True,
        "output_format": "jpeg",
        "resolution_mode": "match_input",
    },
)
KREA = replace(
    DEV,
    id="fal-ai/flux/krea",
    title="FLUX.1 Krea [dev]",
    description="FLUX.1 [dev] trained on for a natural look.",
    model="flux-krea",
    Input=BaseKreaInput,
    example=DEV_EXAMPLE | {"guidance_scale": 4.5},
)
KREA_IMAGE_TO_IMAGE = replace(
    IMAGE_TO_IMAGE,
    id="fal-ai/flux/krea/image-to-image",
    title="FLUX.1 Krea [dev] Image to Image",
    model="flux-krea",
    Input=BaseKreaImageToInput,
    example=IMAGE_TO_IMAGE.example | {"guidance_scale": 4.5},
)
KREA_REDUX = replace(
    DEV_REDUX,
    id="fal-ai/flux/krea/redux",
    title="FLUX.1 Krea [dev] Redux",
    model="flux-krea",
    Input=BaseKreaReduxInput,
    example=DEV_REDUX.example | {"guidance_scale": 4.5, "image_url": KREA_PICTURE},
)
FLUX_TOOLS: tuple[Endpoint, ...] = (
    FILL,
    CANNY,
    DEPTH,
    KONTEXT,
    replace(KONTEXT, id="fal-ai/flux-pro/kontext/max", title="FLUX.1 Kontext [max]"),
    KONTEXT_MULTI,
    replace(KONTEXT_MULTI, id="fal-ai/flux-pro/kontext/max/multi", title="FLUX.1 Kontext [max] multi"),
    KONTEXT_TEXT,
    replace(KONTEXT_TEXT, id="fal-ai/flux-pro/kontext/max/text-to-image", title="FLUX.1 Kontext [max] Text to Image"),
    KONTEXT_DEV,
    KREA,
    KREA_IMAGE_TO_IMAGE,
    KREA_REDUX,
    replace(KREA, id="fal-ai/flux-1/krea"),
    replace(KREA_IMAGE_TO_IMAGE, id="fal-ai/flux-1/krea/image-to-image"),
    replace(KREA_REDUX, id="fal-ai/flux-1/krea/redux"),
)
