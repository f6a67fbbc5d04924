"""Endpoints of June 2026 as fal publishes them: every field in its place, with its default and its bounds."""

from __future__ import annotations

from typing import Any

import pytest

from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints

ENDPOINTS = Endpoints()
SIZE = "ImageSize|preset"

# field: default (`!` required, `-` none) and bounds; a line each, in the published order.
START = f"""
prompt ! ..
image_size landscape_4_3 {SIZE}
num_inference_steps 28 1..50
seed - ..
"""
LORA = """
loras [] ..
guidance_scale 3.5 0..35
sync_mode False ..
num_images 1 1..4
enable_safety_checker True ..
output_format jpeg jpeg|png
acceleration none none|regular
"""
TEXT = START + LORA
IMAGE = TEXT.replace("image_size landscape_4_3", "image_size -") + "image_url ! ..\n"
STRENGTH = "strength 0.85 0.01..1\n"
MASK = "mask_url ! ..\n"
OPEN = """
sync_mode False ..
num_images 1 1..4
enable_safety_checker True ..
output_format jpeg jpeg|png
acceleration none none|regular|high
"""
KONTEXT = """
num_inference_steps 30 10..50
seed - ..
guidance_scale 2.5 0..20
sync_mode False ..
num_images 1 1..4
enable_safety_checker True ..
output_format png jpeg|png
loras [] ..
acceleration none none|regular|high
"""
RATIOS = "auto|match_input|1:1|16:9|21:9|3:2|2:3|4:5|5:4|3:4|4:3|9:16|9:21"
GENERAL = f"""
prompt ! ..
image_size - {SIZE}
num_inference_steps 28 1..50
seed - ..
loras [] ..
control_loras [] ..
controlnets [] ..
controlnet_unions [] ..
ip_adapters [] ..
easycontrols [] ..
fill_image - ..
guidance_scale 3.5 0..20
real_cfg_scale 3.5 0..5
use_real_cfg False ..
use_cfg_zero False ..
sync_mode False ..
num_images 1 1..10
enable_safety_checker True ..
reference_image_url - ..
reference_strength 0.65 -3..3
reference_start 0.0 0..1
reference_end 1.0 0..1
base_shift 0.5 0.01..5
max_shift 1.15 0.01..5
output_format png jpeg|png
use_beta_schedule False ..
sigma_schedule - sgm_uniform
scheduler euler euler|dpmpp_2m
negative_prompt '' ..
nag_scale 3.0 >1..10
nag_tau 2.5 >0..
nag_alpha 0.25 >0..1
nag_end 0.25 >0..1
"""
SRPO_IMAGE = (
    """
image_url ! ..
strength 0.95 0.01..1
num_inference_steps 40 10..50
prompt ! ..
seed - ..
guidance_scale 4.5 1..20
"""
    + OPEN
)
PUBLISHED = {
    "fal-ai/flux/srpo": START + "guidance_scale 4.5 1..20" + OPEN,
    "fal-ai/flux-1/srpo": START + "guidance_scale 4.5 1..20" + OPEN,
    "fal-ai/flux/srpo/image-to-image": SRPO_IMAGE,
    "fal-ai/flux-1/srpo/image-to-image": SRPO_IMAGE,
    "fal-ai/flux-lora": TEXT,
    "fal-ai/flux-lora/image-to-image": IMAGE + STRENGTH,
    "fal-ai/flux-lora/inpainting": IMAGE + STRENGTH + MASK,
    "fal-ai/flux-krea-lora": TEXT,
    "fal-ai/flux-krea-lora/image-to-image": IMAGE + STRENGTH,
    "fal-ai/flux-krea-lora/inpainting": IMAGE + STRENGTH + MASK,
    "fal-ai/flux-lora-canny": IMAGE,
    "fal-ai/flux-lora-depth": IMAGE,
    "fal-ai/flux-lora-fill": IMAGE.replace("prompt !", "prompt ''").replace("3.5 0..35", "30.0 28..35")
    + MASK
    + "paste_back True ..\nfill_image - ..\nresize_to_original False ..\n",
    "fal-ai/flux-kontext-lora": "image_url ! ..\nprompt ! .." + KONTEXT + f"resolution_mode match_input {RATIOS}\n",
    "fal-ai/flux-kontext-lora/text-to-image": f"prompt ! ..\nimage_size landscape_4_3 {SIZE}" + KONTEXT,
    "fal-ai/flux-kontext-lora/inpaint": "image_url ! ..\nprompt ! .."
    + KONTEXT
    + "reference_image_url ! ..\n"
    + MASK
    + "strength 0.88 0.01..1\n",
    "fal-ai/flux-general": GENERAL,
    "fal-ai/flux-general/image-to-image": GENERAL + "image_url ! ..\n" + STRENGTH,
    "fal-ai/flux-general/inpainting": GENERAL + "image_url ! ..\n" + STRENGTH + MASK,
}


def bounds(schema: dict[str, Any]) -> str:
    if "anyOf" in schema and any("ImageSize" in choice.get("$ref", "") for choice in schema["anyOf"]):
        return SIZE
    if "enum" in schema or "const" in schema:
        return "|".join(schema.get("enum", [schema.get("const")]))
    low = schema.get("minimum", f">{schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else "")
    low, high = (
        f"{bound:g}" if isinstance(bound, int | float) else bound for bound in (low, schema.get("maximum", ""))
    )
    return f"{low}..{high}"


def published(id_: str) -> list[str]:
    name = ENDPOINTS[id_].Input.__name__
    schema = schemas(ENDPOINTS[id_])[name]
    lines: list[str] = []
    for field, found in schema["properties"].items():
        default = "!" if field in schema.get("required", []) else found.get("default", "-")
        lines.append(f"{field} {default if default != '' else chr(39) * 2} {bounds(found)}")
    return lines


@pytest.mark.parametrize("id_", PUBLISHED)
def test_every_field_is_published_in_its_place_with_its_default_and_bounds(id_: str) -> None:
    assert published(id_) == PUBLISHED[id_].replace("\n\n", "\n").strip().splitlines()


KOALA = "https://fal.media/files/koala/Chls9L2ZnvuipUTEwlnJC.png"
INPUTS = "https://storage.googleapis.com/falserverless/example_inputs"
BENCH = "https://raw.githubusercontent.com/CompVis/latent-diffusion/main/data/inpainting_examples/overture-creations-"
PICTURES = {  # (endpoint, field) → fal's own example
    ("fal-ai/flux/dev/image-to-image", "image_url"): KOALA,
    ("fal-ai/flux-1/dev/image-to-image", "image_url"): KOALA,
    ("fal-ai/flux/krea/image-to-image", "image_url"): KOALA,
    ("fal-ai/flux/dev/redux", "image_url"): "https://fal.media/files/kangaroo/acQvq-Kmo2lajkgvcEHdv.png",
    ("fal-ai/flux/krea/redux", "image_url"): f"{INPUTS}/flux_krea_redux_output_1.jpg",
    ("fal-ai/flux-kontext/dev", "image_url"): f"{INPUTS}/kontext_example_input.webp",
    ("fal-ai/flux-kontext-lora", "image_url"): f"{INPUTS}/kontext_example_input.webp",
    ("fal-ai/flux-lora/inpainting", "mask_url"): f"{INPUTS}/dog_mask.png",
    ("fal-ai/flux-general/image-to-image", "image_url"): f"{BENCH}5sI6fQgYIuo.png",
    ("fal-ai/flux-general/inpainting", "image_url"): f"{BENCH}5sI6fQgYIuo.png",
    ("fal-ai/flux-general/inpainting", "mask_url"): f"{BENCH}5sI6fQgYIuo_mask.png",
}


@pytest.mark.parametrize(("id_", "field"), PICTURES)
def test_examples_of_pictures_are_fals(id_: str, field: str) -> None:
    endpoint = ENDPOINTS[id_]
    schema = schemas(endpoint)[endpoint.Input.__name__]["properties"][field]
    assert schema["examples"] == [endpoint.example[field]] == [PICTURES[id_, field]]


NESTED = {  # object: its fields, the required ones with a star
    "LoraWeight": "path* scale",
    "ControlLoraWeight": "path* scale control_image_url* preprocess",
    "ControlNet": "path* config_url variant control_image_url* mask_image_url mask_threshold conditioning_scale "
    "start_percentage end_percentage",
    "ControlNetUnion": "path* config_url variant controls*",
    "ControlNetUnionInput": "control_image_url* mask_image_url control_mode* conditioning_scale mask_threshold "
    "start_percentage end_percentage",
    "IPAdapter": "path* subfolder weight_name image_encoder_path* image_encoder_subfolder image_encoder_weight_name "
    "image_url* mask_image_url mask_threshold scale*",
    "EasyControlWeight": "control_method_url* scale image_url* image_control_type*",
    "ImageFillInput": "fill_image_url",
}


@pytest.mark.parametrize("name", NESTED)
def test_the_objects_inside_are_published_too(name: str) -> None:
    schema = schemas(ENDPOINTS["fal-ai/flux-general"])[name]
    required = schema.get("required", [])
    assert " ".join(f"{each}*" if each in required else each for each in schema["properties"]) == NESTED[name]
