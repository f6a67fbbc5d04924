"""flux/dev, flux/schnell, ultra: fields in the published order, their own steps and sizes, notices for the caller."""

from typing import Any

import pytest

from impasto.endpoints.fields import ultra_pixels
from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.engine.job import Job
from impasto.errors import ModelError

ENDPOINTS = Endpoints()
FIELDS = {  # reference fal-endpoints B2 and A4
    "fal-ai/flux/dev": "prompt image_size num_inference_steps seed guidance_scale sync_mode num_images "
    "enable_safety_checker output_format acceleration",
    "fal-ai/flux/schnell": "num_inference_steps prompt image_size seed guidance_scale sync_mode num_images "
    "enable_safety_checker output_format acceleration",
    "fal-ai/flux-pro/v1.1-ultra": "prompt seed sync_mode num_images enable_safety_checker safety_tolerance "
    "output_format aspect_ratio raw",
}


def job(id_: str, **input_: Any) -> Job:
    endpoint = ENDPOINTS[id_]
    return endpoint.to_job(validate(endpoint, {"prompt": "a cat"} | input_), request_id="r", seed=5, model="m")


@pytest.mark.parametrize("id_", FIELDS)
def test_fields_stand_in_the_published_order(id_: str) -> None:
    endpoint = ENDPOINTS[id_]
    assert list(schemas(endpoint)[endpoint.Input.__name__]["properties"]) == FIELDS[id_].split()


@pytest.mark.parametrize("name", ["dev", "schnell"])
def test_flux_1_is_the_same_under_another_name(name: str) -> None:
    assert ENDPOINTS[f"fal-ai/flux-1/{name}"].Input is ENDPOINTS[f"fal-ai/flux/{name}"].Input


def test_steps_are_the_model_s_own() -> None:
    assert job("fal-ai/flux/dev").steps == 28
    assert job("fal-ai/flux/schnell").steps == 4
    with pytest.raises(ModelError) as caught:
        job("fal-ai/flux/schnell", num_inference_steps=13)
    assert caught.value.items[0]["ctx"] == {"le": 12}


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        ("21:9", (3136, 1344)),
        ("16:9", (2752, 1536)),
        ("4:3", (2368, 1792)),
        ("3:2", (2496, 1664)),
        ("1:1", (2048, 2048)),
        ("2:3", (1664, 2496)),
        ("3:4", (1792, 2368)),
        ("9:16", (1536, 2752)),
        ("9:21", (1344, 3136)),
    ],
)
def test_ultra_sizes_are_the_published_ones(ratio: str, size: tuple[int, int]) -> None:
    assert ultra_pixels(ratio) == size
    made = job("fal-ai/flux-pro/v1.1-ultra", aspect_ratio=ratio)
    assert (made.width, made.height) == size


@pytest.mark.parametrize("id_", ["fal-ai/flux-pro/v1.1-ultra", "fal-ai/flux-pro/v1.1-ultra/redux"])
def test_ultra_s_ratios_are_closed_and_the_seed_page_s_seven_are_published(id_: str) -> None:
    seven = ["21:9", "16:9", "4:3", "1:1", "3:4", "9:16", "9:21"]
    field = schemas(ENDPOINTS[id_])[ENDPOINTS[id_].Input.__name__]["properties"]["aspect_ratio"]
    assert (field["enum"], field["default"]) == (seven, "16:9")
    with pytest.raises(ModelError) as caught:
        validate(ENDPOINTS[id_], ENDPOINTS[id_].example | {"aspect_ratio": "5:4"})
    (item,) = caught.value.items
    assert (item["loc"], item["ctx"]) == (["body", "aspect_ratio"], {"expected": [*seven, "3:2", "2:3"]})


def test_plain_ultra_takes_after_a_picture_if_it_is_given_one() -> None:
    endpoint = ENDPOINTS["fal-ai/flux-pro/v1.1-ultra"]
    assert endpoint.pictures is not None
    for none in ({}, {"image_url": None}, {"image_url": ""}):
        assert endpoint.pictures(validate(endpoint, {"prompt": "a cat"} | none)) == ()
    given = {"prompt": "a cat", "image_url": "https://example.org/a.png"}
    for more, strength in (({}, 0.1), ({"image_prompt_strength": 0.7}, 0.7)):
        (wanted,) = endpoint.pictures(validate(endpoint, given | more))
        assert (wanted.url, wanted.role, wanted.strength) == (given["image_url"], "prompt", strength)
    with pytest.raises(ModelError) as caught:
        validate(endpoint, given | {"image_prompt_strength": 1.5})
    assert caught.value.items[0]["ctx"] == {"le": 1}


def test_notices_name_what_was_changed_or_ignored() -> None:
    size = {"width": 500, "height": 333}
    assert [(n.code, n.field) for n in job("fal-ai/flux-pro", image_size=size).notices] == [
        ("size_rounded", "image_size")
    ]
    assert job("fal-ai/flux-pro", image_size={"width": 512, "height": 320}).notices == ()
    assert job("fal-ai/flux-pro/v1.1-ultra", raw=True).raw  # whether it is ignored, the pipeline knows


@pytest.mark.parametrize("id_", ["fal-ai/flux/dev", "fal-ai/flux/schnell", "fal-ai/flux-kontext/dev"])
def test_acceleration_is_what_the_caller_said_or_that_nothing_was_said(id_: str) -> None:
    given = {"image_url": "https://example.org/a.png"} if "kontext" in id_ else {}
    assert job(id_, acceleration="high", **given).acceleration == "high"
    assert job(id_, acceleration="none", **given).acceleration == "none"
    assert job(id_, **given).acceleration is None


def test_an_endpoint_without_the_field_says_nothing_of_acceleration() -> None:
    assert job("fal-ai/flux-pro").acceleration is None
