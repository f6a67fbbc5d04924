"""`fal-ai/flux/dev`, `fal-ai/flux/schnell` and their twins under `fal-ai/flux-1`: text to image with open weights.

Field order, defaults and bounds: reference fal-endpoints B2, B5. `acceleration` asks for a trade of quality for speed:
`engine.acceleration` says what it leads to.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from impasto.endpoints.base import Endpoint
from impasto.endpoints.fields import (
    Guidance,
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
from impasto.endpoints.flux_pro import EXAMPLE, FluxProTextToImageOutput, to_job, to_output

Acceleration = Annotated[
    Literal["none", "regular", "high"], Field(description="The speed of the generation, against its quality.")
]

DEV_EXAMPLE: dict[str, Any] = {
    "prompt": EXAMPLE["prompt"],
    "image_size": "landscape_4_3",
    "num_inference_steps": 28,
    "guidance_scale": 3.5,
    "num_images": 1,
    "enable_safety_checker": True,
    "output_format": "jpeg",
}


class BaseInput(WireInput):
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    image_size: Size = "landscape_4_3"
    num_inference_steps: Steps = 28
    seed: Seed = None
    guidance_scale: Guidance = 3.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"


class SchnellTextToImageInput(WireInput):
    num_inference_steps: Annotated[int, Field(ge=1, le=12, description="The number of inference steps to perform.")] = 4
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    image_size: Size = "landscape_4_3"
    seed: Seed = None
    guidance_scale: Guidance = 3.5
    sync_mode: SyncMode = False
    num_images: NumImages = 1
    enable_safety_checker: SafetyChecker = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"


DEV = Endpoint(
    id="fal-ai/flux/dev",
    title="FLUX.1 [dev]",
    description="FLUX.1 [dev], text to image with guidance distilled into the model.",
    model="flux-dev",
    Input=BaseInput,
    Output=FluxProTextToImageOutput,
    to_job=to_job,
    to_output=to_output,
    example=DEV_EXAMPLE,
)
SCHNELL = replace(
    DEV,
    id="fal-ai/flux/schnell",
    title="FLUX.1 [schnell]",
    description="FLUX.1 [schnell], text to image in 1 to 4 steps.",
    model="flux-schnell",
    Input=SchnellTextToImageInput,
    example=DEV_EXAMPLE | {"num_inference_steps": 4},
)
FLUX_OPEN = (
    DEV,
    SCHNELL,
    replace(DEV, id="fal-ai/flux-1/dev"),
    replace(SCHNELL, id="fal-ai/flux-1/schnell"),
)
