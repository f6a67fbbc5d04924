"""Every row of the endpoint table is complete, and its published schema tells what validation does."""

import re
from pathlib import Path
from typing import Any

import pytest

from impasto.endpoints.base import Endpoint, split_id
from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.errors import ConfigError

ENDPOINTS = Endpoints()
every_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)


@every_endpoint
def test_has_title_description_and_an_example_that_validates(endpoint: Endpoint) -> None:
    assert endpoint.title
    assert endpoint.description
    assert ENDPOINTS[endpoint.id] is endpoint
    input_ = validate(endpoint, endpoint.example)
    assert input_.model_dump(exclude_unset=True) == endpoint.example, "no field of the example is ignored"
    assert endpoint.to_job(input_, request_id="r", seed=1, model="m").prompt == endpoint.example.get("prompt", "")


def later(endpoint: Endpoint) -> set[str]:
    """What fal's pages got later than the seed page's time: taken, and not published."""
    if not endpoint.id.startswith("fal-ai/flux-pro") or re.search("kontext|fill", endpoint.id):
        return set()
    return {"enhance_prompt"} | ({"image_url", "image_prompt_strength"} if endpoint.id.endswith("ultra") else set())


@every_endpoint
def test_schema_publishes_order_titles_examples_and_no_null(endpoint: Endpoint) -> None:
    found = schemas(endpoint)
    for name, schema in found.items():
        assert schema["title"] == name
        assert schema["x-fal-order-properties"] == list(schema["properties"])
        for field in schema["properties"].values():
            assert field["title"]
    input_ = found[endpoint.Input.__name__]
    published = [name for name in endpoint.Input.model_fields if name not in later(endpoint)]
    assert input_["x-fal-order-properties"] == published
    assert input_["examples"] == [endpoint.example]
    assert found[endpoint.Output.__name__]["x-fal-order-properties"] == list(endpoint.Output.model_fields)
    assert "null" not in str(found)
    assert set(re.findall(r"#/components/schemas/(\w+)", str(found))) <= set(found), "every reference resolves"


def test_two_rows_of_one_id_are_refused() -> None:
    with pytest.raises(ConfigError, match="two endpoints have the id 'fal-ai/flux-pro'"):
        Endpoints([ENDPOINTS["fal-ai/flux-pro"]] * 2)


def test_apps_are_owner_and_alias() -> None:
    assert ENDPOINTS.apps == {
        "fal-ai/flux-pro",
        "fal-ai/flux",
        "fal-ai/flux-1",
        "fal-ai/flux-kontext",
        "fal-ai/flux-lora",
        "fal-ai/flux-lora-fill",
        "fal-ai/flux-lora-canny",
        "fal-ai/flux-lora-depth",
        "fal-ai/flux-krea-lora",
        "fal-ai/flux-kontext-lora",
        "fal-ai/flux-general",
    }
    assert split_id("fal-ai/flux-pro/v1.1/redux") == ("fal-ai/flux-pro", "v1.1/redux")
    assert split_id("workflows/me/mine/sub") == ("workflows/me/mine", "sub")
    assert split_id("comfy/me/mine") == ("comfy/me/mine", "")


PAGE = {  # the documented page: field → (type on the page, default)
    "prompt": ("string", ...),
    "image_size": (None, "landscape_4_3"),
    "num_inference_steps": ("integer", 28),
    "seed": ("integer", ...),
    "guidance_scale": ("number", 3.5),
    "sync_mode": ("boolean", False),
    "num_images": ("integer", 1),
    "safety_tolerance": ("string", "2"),
    "output_format": ("string", "jpeg"),
}


def test_flux_pro_publishes_the_documented_input() -> None:
    schema: dict[str, Any] = schemas(ENDPOINTS["fal-ai/flux-pro"])["FluxProTextToImageInput"]
    assert list(schema["properties"]) == list(PAGE)
    assert schema["required"] == ["prompt"]
    for name, (type_, default) in PAGE.items():
        field = schema["properties"][name]
        assert field.get("type") == type_
        assert field.get("default", ...) == default
        assert field["description"].endswith(".")
    size = schema["properties"]["image_size"]["anyOf"]
    assert size[0] == {"$ref": "#/components/schemas/ImageSize"}
    assert size[1]["enum"] == [
        "square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9",
    ]  # fmt: skip
    assert schema["properties"]["safety_tolerance"]["enum"] == ["1", "2", "3", "4", "5", "6"]
    assert schema["properties"]["output_format"]["enum"] == ["jpeg", "png"]


def test_image_size_publishes_its_bounds() -> None:
    schema = schemas(ENDPOINTS["fal-ai/flux-pro"])["ImageSize"]
    for side in ("width", "height"):
        field = schema["properties"][side]
        assert (field["default"], field["exclusiveMinimum"], field["maximum"]) == (512, 0, 14142)


def test_output_requires_all_five_fields() -> None:
    schema = schemas(ENDPOINTS["fal-ai/flux-pro"])["FluxProTextToImageOutput"]
    assert schema["required"] == ["images", "timings", "seed", "has_nsfw_concepts", "prompt"]
    assert schema["properties"]["timings"] == {
        "additionalProperties": {"type": "number"},
        "title": "Timings",
        "type": "object",
    }


def test_endpoints_do_not_import_torch() -> None:
    folder = Path(__file__).parents[2] / "src" / "impasto" / "endpoints"
    imports = re.compile(r"^\s*(import|from) torch", re.MULTILINE)
    assert [path.name for path in folder.glob("*.py") if imports.search(path.read_text())] == []


def test_redux_leaves_the_strength_to_the_model_and_ultra_states_it() -> None:
    strengths = {
        endpoint.id: [wanted.strength for wanted in endpoint.pictures(endpoint.Input(**endpoint.example))]
        for endpoint in Endpoints().values()
        if endpoint.id.endswith("/redux") and endpoint.pictures is not None
    }
    assert strengths.pop("fal-ai/flux-pro/v1.1-ultra/redux") == [0.1]
    assert len(strengths) > 4
    assert all(stated == [None] for stated in strengths.values())
