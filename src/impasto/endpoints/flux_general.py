"""`fal-ai/flux-general`, its image-to-image and inpainting: FLUX.1 [dev] with LoRAs and guidance by two passes.

Fields: reference fal-endpoints B3, B6. What of them this server can do: LoRAs, `use_real_cfg` with a negative prompt,
the shift of the schedule, and `fill_image` with Redux. What it cannot do is refused when a request asks for it
(`LACKING`); a negative prompt without `use_real_cfg` (fal's NAG) has no effect, and a notice says so.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from impasto.endpoints.base import Endpoint, Wanted
from impasto.endpoints.fields import OutputFormat, Prompt, SafetyChecker, Seed, Size, Steps, SyncMode, WireInput
from impasto.endpoints.flux_images import ImageUrl, starts_from
from impasto.endpoints.flux_lora import (
    LION,
    LORA,
    LORA_IMAGE_TO_IMAGE,
    WEIGHTS,
    Loras,
    MaskUrl,
    Strength,
    image_job,
    repaints,
)
from impasto.endpoints.flux_lora_tools import FillImages, fill_images
from impasto.endpoints.flux_pro import EXAMPLE, to_job
from impasto.engine.job import Job, Notice
from impasto.errors import ModelError
from impasto.flux.models import Shift

_EXAMPLES = "https://raw.githubusercontent.com/CompVis/latent-diffusion/main/data/inpainting_examples"
BENCH = f"{_EXAMPLES}/overture-creations-5sI6fQgYIuo.png"
BENCH_MASK = f"{_EXAMPLES}/overture-creations-5sI6fQgYIuo_mask.png"

LACKING = {  # field → what it would take
    "control_loras": "LoRAs that take a control picture",
    "controlnets": "ControlNets",
    "controlnet_unions": "ControlNets",
    "ip_adapters": "IP-Adapters",
    "easycontrols": "EasyControl modules",
    "use_cfg_zero": "CFG-zero",
    "reference_image_url": "reference-only attention",
    "use_beta_schedule": "beta schedules",
    "sigma_schedule": "other spacings of the sigmas",
    "scheduler": "samplers but Euler's",
}


LACKS = "Not supported by this server."


def share(default: float, *, least: float = 0.0, most: float = 1.0) -> Any:
    return Field(default=default, ge=least, le=most, allow_inf_nan=False)


def _scales(value: Any) -> str:
    return "Many" if isinstance(value, dict) else "One"


class ControlLoraWeight(WireInput):
    path: str
    scale: Annotated[
        Annotated[dict[str, Any], Tag("Many")] | Annotated[float, Tag("One"), Field(ge=-4, le=4, allow_inf_nan=False)],
        Discriminator(_scales),
    ] = 1.0
    control_image_url: str
    preprocess: Literal["canny", "depth", "None"] = "None"


class ControlNet(WireInput):
    path: str
    config_url: str | None = None
    variant: str | None = None
    control_image_url: str
    mask_image_url: str | None = None
    mask_threshold: float = share(0.5, least=0.01, most=0.99)
    conditioning_scale: float = share(1.0, most=2.0)
    start_percentage: float = share(0.0)
    end_percentage: float = share(1.0)


class ControlNetUnionInput(WireInput):
    control_image_url: str
    mask_image_url: str | None = None
    control_mode: Literal["canny", "tile", "depth", "blur", "pose", "gray", "low-quality"]
    conditioning_scale: float = share(1.0, most=2.0)
    mask_threshold: float = share(0.5, least=0.01, most=0.99)
    start_percentage: float = share(0.0)
    end_percentage: float = share(1.0)


class ControlNetUnion(WireInput):
    path: str
    config_url: str | None = None
    variant: str | None = None
    controls: list[ControlNetUnionInput]


class IPAdapter(WireInput):
    path: str
    subfolder: str | None = None
    weight_name: str | None = None
    image_encoder_path: str
    image_encoder_subfolder: str | None = None
    image_encoder_weight_name: str | None = None
    image_url: str
    mask_image_url: str | None = None
    mask_threshold: float = share(0.5, least=0.01, most=0.99)
    scale: float


class EasyControlWeight(WireInput):
    control_method_url: str
    scale: float = share(1.0, most=2.0)
    image_url: str
    image_control_type: Literal["subject", "spatial"]


class ImageFillInput(WireInput):
    fill_image_url: FillImages = Field(default=[])


class _General(WireInput):
    prompt: Prompt = Field(examples=[EXAMPLE["prompt"]])
    image_size: Size | None = None
    num_inference_steps: Steps = 28
    seed: Seed = None
    loras: Loras = Field(default=[])
    control_loras: list[ControlLoraWeight] = Field(default=[], description=LACKS)
    controlnets: list[ControlNet] = Field(default=[], description=LACKS)
    controlnet_unions: list[ControlNetUnion] = Field(default=[], description=LACKS)
    ip_adapters: list[IPAdapter] = Field(default=[], description=LACKS)
    easycontrols: list[EasyControlWeight] = Field(default=[], description=LACKS)
    fill_image: ImageFillInput | None = Field(
        default=None, title="Fill Image", description="Images to take after, with Redux."
    )
    guidance_scale: float = Field(
        default=3.5, ge=0, le=20, allow_inf_nan=False, description="How closely the picture follows the prompt."
    )
    real_cfg_scale: float = Field(
        default=3.5, ge=0, le=5, allow_inf_nan=False, description="How far from the negative prompt; above 1 only."
    )
    use_real_cfg: bool = Field(
        default=False, description="Guide by two passes a step, with the prompt and with the negative prompt."
    )
    use_cfg_zero: bool = Field(default=False, description=LACKS)
    sync_mode: SyncMode = False
    num_images: Annotated[int, Field(ge=1, le=10, description="The number of images to generate.")] = 1
    enable_safety_checker: SafetyChecker = True
    reference_image_url: str | None = Field(default=None, description=LACKS)
    reference_strength: float = share(0.65, least=-3.0, most=3.0)
    reference_start: float = share(0.0)
    reference_end: float = share(1.0)
    base_shift: float = share(0.5, least=0.01, most=5.0)
    max_shift: float = share(1.15, least=0.01, most=5.0)
    output_format: OutputFormat = "png"
    use_beta_schedule: bool = Field(default=False, description=LACKS)
    sigma_schedule: Literal["sgm_uniform"] | None = Field(default=None, description=LACKS)
    scheduler: Literal["euler", "dpmpp_2m"] = Field(default="euler", description="Only euler on this server.")
    negative_prompt: Annotated[str, Field(max_length=10_000)] = Field(
        default="", description="What to avoid; counts with use_real_cfg."
    )
    nag_scale: float = Field(default=3.0, gt=1, le=10, allow_inf_nan=False, description=LACKS)
    nag_tau: float = Field(default=2.5, gt=0, allow_inf_nan=False, description=LACKS)
    nag_alpha: float = Field(default=0.25, gt=0, le=1, allow_inf_nan=False, description=LACKS)
    nag_end: float = Field(default=0.25, gt=0, le=1, allow_inf_nan=False, description=LACKS)


# The names are fal's; flux-lora has classes of the same names and other fields.
class TextToImageInput(_General):
    pass


class ImageToImageInput(_General):
    image_url: ImageUrl = Field(examples=[BENCH])
    strength: Strength = 0.85


class InpaintInput(ImageToImageInput):
    mask_url: MaskUrl = Field(examples=[BENCH_MASK])


def _general_job(input_: Any, *, request_id: str, seed: int, model: str) -> Job:
    _refuse_lacking(input_)
    sized = image_job if hasattr(input_, "image_url") else to_job
    job = sized(input_, request_id=request_id, seed=seed, model=model)
    shift = (input_.base_shift, input_.max_shift)
    return replace(
        job,
        negative=input_.negative_prompt if input_.use_real_cfg else None,
        cfg=input_.real_cfg_scale if input_.use_real_cfg else 1.0,
        shift=None if shift == (Shift().base, Shift().maximum) else shift,
        notices=(*job.notices, *_unheard(input_)),
    )


def _refuse_lacking(input_: Any) -> None:
    for field, what in LACKING.items():
        if getattr(input_, field) != type(input_).model_fields[field].default:
            message = f"This server has no {what}; leave {field} out."
            raise ModelError.at(field, message, "feature_not_supported")


def _unheard(input_: Any) -> Iterator[Notice]:
    if input_.negative_prompt and not input_.use_real_cfg:
        message = "This server has no NAG: a negative prompt has an effect only with use_real_cfg."
        yield Notice(code="field_ignored", message=message, field="negative_prompt")


def _starts_from(input_: Any) -> tuple[Wanted, ...]:
    return (*starts_from(input_), *fill_images(input_))


def _repaints(input_: Any) -> tuple[Wanted, ...]:
    return (*repaints(input_), *fill_images(input_))


_EXAMPLE: dict[str, Any] = {
    "prompt": EXAMPLE["prompt"],
    "num_inference_steps": 28,
    "loras": [{"path": WEIGHTS, "scale": 1.0}],
    "guidance_scale": 3.5,
    "real_cfg_scale": 3.5,
    "use_real_cfg": True,
    "num_images": 1,
    "enable_safety_checker": True,
    "output_format": "png",
    "negative_prompt": "blurred, washed out",
}
_FROM_IMAGE: dict[str, Any] = _EXAMPLE | {"prompt": LION, "image_url": BENCH, "strength": 0.85}

GENERAL = replace(
    LORA,
    id="fal-ai/flux-general",
    title="FLUX.1 [dev] general",
    description="FLUX.1 [dev] with LoRAs, a negative prompt in a second pass, and a schedule of the caller's.",
    Input=TextToImageInput,
    to_job=_general_job,
    example=_EXAMPLE | {"image_size": "landscape_4_3"},
    pictures=fill_images,
)
GENERAL_IMAGE_TO_IMAGE = replace(
    LORA_IMAGE_TO_IMAGE,
    id="fal-ai/flux-general/image-to-image",
    title="FLUX.1 [dev] general Image to Image",
    description="A picture drawn anew after a prompt, with all that flux-general has.",
    Input=ImageToImageInput,
    to_job=_general_job,
    example=_FROM_IMAGE,
    pictures=_starts_from,
)
FLUX_GENERAL: tuple[Endpoint, ...] = (
    GENERAL,
    GENERAL_IMAGE_TO_IMAGE,
    replace(
        GENERAL_IMAGE_TO_IMAGE,
        id="fal-ai/flux-general/inpainting",
        title="FLUX.1 [dev] general Inpainting",
        description="The masked part of a picture drawn anew after a prompt, with all that flux-general has.",
        Input=InpaintInput,
        example=_FROM_IMAGE | {"mask_url": BENCH_MASK},
        pictures=_repaints,
    ),
)
