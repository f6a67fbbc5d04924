"""`fal-ai/flux/srpo` and its image-to-image: FLUX.1 [dev] trained on by SRPO, the same network (fal-endpoints B2)."""

from dataclasses import replace

from impasto.endpoints.base import Endpoint
from impasto.endpoints.fields import Guidance
from impasto.endpoints.flux_images import IMAGE_TO_IMAGE, BaseImageToInput
from impasto.endpoints.flux_open import DEV, DEV_EXAMPLE, BaseInput


class BaseSRPOInput(BaseInput):
    guidance_scale: Guidance = 4.5


class BaseSRPOImageToInput(BaseImageToInput):
    guidance_scale: Guidance = 4.5


SRPO = replace(
    DEV,
    id="fal-ai/flux/srpo",
    title="FLUX.1 SRPO [dev]",
    description="FLUX.1 [dev] trained on for a look that people prefer.",
    model="flux-srpo",
    Input=BaseSRPOInput,
    example=DEV_EXAMPLE | {"guidance_scale": 4.5},
)
SRPO_IMAGE_TO_IMAGE = replace(
    IMAGE_TO_IMAGE,
    id="fal-ai/flux/srpo/image-to-image",
    title="FLUX.1 SRPO [dev] Image to Image",
    model="flux-srpo",
    Input=BaseSRPOImageToInput,
    example=IMAGE_TO_IMAGE.example | {"guidance_scale": 4.5},
)
FLUX_SRPO: tuple[Endpoint, ...] = (
    SRPO,
    SRPO_IMAGE_TO_IMAGE,
    replace(SRPO, id="fal-ai/flux-1/srpo"),
    replace(SRPO_IMAGE_TO_IMAGE, id="fal-ai/flux-1/srpo/image-to-image"),
)
