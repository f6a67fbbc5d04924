"""Input fields that FLUX endpoints share: types with bounds and defaults, sizes, the null rule.

A reader who adds an endpoint picks fields from here, so that one field means the same everywhere.
Bounds: reference fal-endpoints A1, A5, A6. The seed page wins for names, order, defaults and descriptions.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

MAX_PROMPT = 10_000  # characters; the text encoders read far fewer
SEEDS = 2**64  # the noise is drawn from a seed modulo this

PRESETS: dict[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
Preset = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]


class WireInput(BaseModel):
    """An object of the caller. Unknown fields are ignored; null in a field that has a default means the default."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        items = cast("dict[str, Any]", data).items()
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in items if value is not None or name not in optional}


class ImageSize(WireInput):
    width: int = Field(default=512, gt=0, le=14142, description="The width of the generated image.")
    height: int = Field(default=512, gt=0, le=14142, description="The height of the generated image.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimits:
    """Which sizes can be drawn. Sides in pixels; `multiple`: autoencoder factor 8 times 2x2 patches."""

    multiple: int = 16
    min_side: int = 64
    max_side: int = 2560  # ai-sdk asks for 2560x1080 where 21:9 is wanted
    max_area: int = 2048 * 2048  # 4 MP

    def check(self, width: int, height: int) -> None:
        """Raises fal's `image_too_small` or `image_too_large`, which name the bound and the remedy."""
        if min(width, height) < self.min_side:
            raise PydanticCustomError(
                "image_too_small",
                "Image of {width}x{height} is too small: ask for at least {min_width}x{min_height} pixels",
                {"width": width, "height": height, "min_height": self.min_side, "min_width": self.min_side},
            )
        if max(width, height) > self.max_side:
            raise PydanticCustomError(
                "image_too_large",
                "Image of {width}x{height} is too large: ask for at most {max_width}x{max_height} pixels",
                {"width": width, "height": height, "max_height": self.max_side, "max_width": self.max_side},
            )
        if width * height > self.max_area:
            raise PydanticCustomError(
                "image_too_large",
                "Image of {width}x{height} is too large: width times height may be at most {max_resolution} pixels",
                {"width": width, "height": height, "max_resolution": self.max_area},
            )

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The nearest size that can be drawn: each side to the nearest multiple, the half upwards."""

        def nearest(side: int) -> int:
            return math.floor(side / self.multiple + 0.5) * self.multiple

        fitted_width, fitted_height = nearest(width), nearest(height)
        if fitted_width * fitted_height > self.max_area:  # both sides were rounded up over a limit just kept
            fitted_width, fitted_height = (side // self.multiple * self.multiple for side in (width, height))
        return fitted_width, fitted_height


LIMITS = SizeLimits()


def pixels(size: ImageSize | Preset) -> tuple[int, int]:
    """(width, height) that will be drawn for `image_size`."""
    return LIMITS.fit(size.width, size.height) if isinstance(size, ImageSize) else PRESETS[size]


RATIOS = ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16", "9:21")
AspectRatio = Annotated[  # 3:2 and 2:3 came after the seed page: they are taken, its seven are published
    Literal["21:9", "16:9", "4:3", "1:1", "3:4", "9:16", "9:21", "3:2", "2:3"],
    Field(description="The aspect ratio of the generated image.", json_schema_extra={"enum": [*RATIOS]}),
]


def ultra_pixels(ratio: str) -> tuple[int, int]:
    """(width, height) of about 4 MP; both sides multiples of 64 (reference fal-endpoints A6: fits all known sizes)."""
    across, down = (int(part) for part in ratio.split(":"))
    area = 2048 * 2048

    def side(share: float) -> int:
        return math.floor(math.sqrt(area * share) / 64 + 0.5) * 64

    return side(across / down), side(down / across)


def _kind_of_size(value: Any) -> str:
    return "ImageSize" if isinstance(value, dict | ImageSize) else "Preset"


def _drawable(value: ImageSize | Preset) -> ImageSize | Preset:
    if isinstance(value, ImageSize):
        LIMITS.check(value.width, value.height)
    return value


def _word(value: Any) -> Any:
    """5 → "5": hand-written clients send the number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def noise_seed(seed: int) -> int:
    """Reduce a seed as sent to the one that the noise is drawn from, 0 <= seed < 2**64.

    fal declares no range, and torch takes a negative seed as 2**64 more. Answers repeat the seed as sent, because a
    program compares it with its own and sends it again: a browser cannot hold 2**64 - 1 where it sent -1.
    """
    return seed % SEEDS


def _whole(value: Any) -> Any:
    """1e21 → 10**21: pydantic takes no float past 64 bits, and JavaScript writes large whole numbers so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _finite(seed: int) -> int:
    """Refuse what no double can hold: a client that reads numbers as doubles would read it as infinite."""
    try:
        float(seed)
    except OverflowError:
        raise PydanticCustomError("int_parsing_size", "Seed should be a whole number of at most 308 digits") from None
    return seed


# pydantic puts them into `loc`; no caller has such a field
UNION_TAGS = frozenset({"ImageSize", "Preset", "One", "Many"})

Prompt = Annotated[str, Field(max_length=MAX_PROMPT, description="The prompt to generate an image from.")]
Size = Annotated[
    Annotated[ImageSize, Tag("ImageSize")] | Annotated[Preset, Tag("Preset")],
    Discriminator(_kind_of_size),
    AfterValidator(_drawable),
    Field(description="The size of the generated image."),
]
Steps = Annotated[int, Field(ge=1, le=50, description="The number of inference steps to perform.")]
Seed = Annotated[
    Annotated[int, BeforeValidator(_whole), AfterValidator(_finite)] | None,
    Field(
        description="The same seed and the same prompt given to the same version of the model will output the same "
        "image every time."
    ),
]
Guidance = Annotated[
    float,
    Field(
        ge=1,
        le=20,
        allow_inf_nan=False,
        description="The CFG (Classifier Free Guidance) scale is a measure of how close you want the model to stick to "
        "your prompt when looking for a related image to show you.",
    ),
]
SyncMode = Annotated[
    bool,
    Field(
        description="If set to true, the function will wait for the image to be generated and uploaded before "
        "returning the response. This will increase the latency of the function but it allows you to get the image "
        "directly in the response without going through the CDN."
    ),
]
NumImages = Annotated[int, Field(ge=1, le=4, description="The number of images to generate.")]
SafetyTolerance = Annotated[
    Literal["1", "2", "3", "4", "5", "6"],
    BeforeValidator(_word),
    Field(
        description="The safety tolerance level for the generated image. 1 being the most strict and 5 being the most "
        "permissive."
    ),
]
OutputFormat = Annotated[Literal["jpeg", "png"], Field(description="The format of the generated image.")]
EnhancePrompt = Annotated[bool, Field(description="Whether to enhance the prompt for better results.")]
SafetyChecker = Annotated[bool, Field(description="If set to true, the safety checker will be enabled.")]
