"""`fal-ai/flux-lora` and `fal-ai/flux-krea-lora` with their image-to-image and inpainting: FLUX.1 [dev] and Krea [dev]
with LoRAs that the caller names (fal-endpoints B3). Those of Fill, Canny, Depth and Kontext: `flux_lora_tools`.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from impasto.endpoints.base import Wanted, WantedLora
from impasto.endpoints.fields import (
    NumImages,
    OutputFormat,
    Prompt,
    SafetyChecker,
    Seed,
    Size,
    Steps,
    SyncMode,
    WireInput,
)
from impasto.endpoints.flux_images import ImageUrl, size_of_image, starts_from
from impasto.endpoints.flux_open import DEV, DEV_EXAMPLE
from impasto.endpoints.flux_pro import EXAMPLE, to_job
from impasto.engine.job import Job

MAX_LORAS = 16
WEIGHTS = "https://example.org/a-style.safetensors"
DOG = "https://storage.googleapis.com/falserverless/example_inputs/dog.png"
DOG_MASK = "https://storage.googleapis.com/falserverless/example_inputs/dog_mask.png"
LION = "A photo of a lion sitting on a stone bench"

Guidance = Annotated[
    float, Field(ge=0, le=35, allow_inf_nan=False, description="How closely the picture follows the prompt.")
]
Acceleration = Annotated[
    Literal["none", "regular"], Field(description="The speed of the generation, against its quality.")
]


class LoraWeight(WireInput):
    path: Annotated[str, Field(min_length=1, max_length=8192)] = Field(
        description="The URL of the LoRA's .safetensors file, or its name on the model hub.", examples=[WEIGHTS]
    )
    scale: float = Field(
        default=1.0, ge=0, le=4, allow_inf_nan=False, description="How strongly it changes the model; 0: not at all."
    )


Strength = Annotated[
    float, Field(ge=0.01, le=1, allow_inf_nan=False, description="How far to go from the image; 1 ignores it.")
]
MaskUrl = Annotated[
    str, Field(min_length=1, description="The mask: white is what to draw. As large as the image that it belongs to.")
]
Loras = Annotated[list[LoraWeight], Field(max_length=MAX_LORAS, description="The LoRAs to apply, any number at once.")]


class TextToImageInput(WireInput):
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    image_size: Size = "landscape_4_3"
    num_inference_steps: Steps = 28
    seed: Seed = None
    loras: Loras = Field(default=[])
    guidance_scale: Guidance = 3.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"


class FromImage(WireInput):
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    image_size: Size | None = None
    num_inference_steps: Steps = 28
    seed: Seed = None
    loras: Loras = Field(default=[])
    guidance_scale: Guidance = 3.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"
    image_url: ImageUrl = Field(examples=[DOG])


class ImageToImageInput(FromImage):
    strength: Strength = 0.85


class InpaintInput(ImageToImageInput):
    mask_url: MaskUrl = Field(examples=[DOG_MASK])


def named(input_: Any) -> tuple[WantedLora, ...]:
    return tuple(WantedLora(path=lora.path, scale=lora.scale) for lora in input_.loras)


def repaints(input_: Any) -> tuple[Wanted, ...]:
    """Inpainting: image-to-image where a mask is white."""
    return (*starts_from(input_), Wanted(url=input_.mask_url, role="region", strength=1.0, field="mask_url"))


def image_job(input_: Any, *, request_id: str, seed: int, model: str) -> Job:
    job = to_job(input_, request_id=request_id, seed=seed, model=model)
    # No size of its own: `image_size` takes the picture's.
    return job if input_.image_size is not None else replace(job, width=0, height=0)


def image_size(job: Job) -> Job:
    return job if job.width else size_of_image(job)


EXAMPLE_LORAS: dict[str, Any] = DEV_EXAMPLE | {"loras": [{"path": WEIGHTS, "scale": 1.0}]}
EXAMPLE_FROM_IMAGE: dict[str, Any] = {
    **{name: value for name, value in EXAMPLE_LORAS.items() if name != "image_size"},
    "prompt": LION,
    "image_url": DOG,
}

LORA = replace(
    DEV,
    id="fal-ai/flux-lora",
    title="FLUX.1 [dev] with LoRAs",
    description="FLUX.1 [dev], text to image in styles and subjects that LoRAs add.",
    Input=TextToImageInput,
    example=EXAMPLE_LORAS,
    loras=named,
)
LORA_IMAGE_TO_IMAGE = replace(
    LORA,
    id="fal-ai/flux-lora/image-to-image",
    title="FLUX.1 [dev] Image to Image with LoRAs",
    description="A picture drawn anew after a prompt, in styles that LoRAs add.",
    Input=ImageToImageInput,
    to_job=image_job,
    example=EXAMPLE_FROM_IMAGE | {"strength": 0.85},
    category="image-to-image",
    pictures=starts_from,
    with_pictures=image_size,
)
LORA_INPAINTING = replace(
    LORA_IMAGE_TO_IMAGE,
    id="fal-ai/flux-lora/inpainting",
    title="FLUX.1 [dev] Inpainting with LoRAs",
    description="The masked part of a picture drawn anew after a prompt, in styles that LoRAs add.",
    Input=InpaintInput,
    example=EXAMPLE_FROM_IMAGE | {"strength": 0.85, "mask_url": DOG_MASK},
    pictures=repaints,
)
KREA_LORA = replace(
    LORA,
    id="fal-ai/flux-krea-lora",
    title="FLUX.1 Krea [dev] with LoRAs",
    description="FLUX.1 Krea [dev], text to image in styles and subjects that LoRAs add.",
    model="flux-krea",
)
FLUX_LORA = (
    LORA,
    # Ids of their own in fal's clients, which queue them, too: there they are what the endpoint without it is.
    replace(LORA, id="fal-ai/flux-lora/stream", title=f"{LORA.title}, streamed"),
    LORA_IMAGE_TO_IMAGE,
    LORA_INPAINTING,
    KREA_LORA,
    replace(KREA_LORA, id="fal-ai/flux-krea-lora/stream", title=f"{KREA_LORA.title}, streamed"),
    replace(
        LORA_IMAGE_TO_IMAGE,
        id="fal-ai/flux-krea-lora/image-to-image",
        title="FLUX.1 Krea [dev] Image to Image with LoRAs",
        model="flux-krea",
    ),
    replace(
        LORA_INPAINTING,
        id="fal-ai/flux-krea-lora/inpainting",
        title="FLUX.1 Krea [dev] Inpainting with LoRAs",
        model="flux-krea",
    ),
)
