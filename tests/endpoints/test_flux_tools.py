"""Fill, Canny, Depth, Kontext and Krea: their fields as published, and the jobs that they become."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from impasto.endpoints.base import Endpoint
from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.engine.job import ImageInput, Job
from impasto.errors import ModelError

ENDPOINTS = Endpoints()
FIELDS = {  # in the published order
    "fal-ai/flux-pro/v1/fill": "prompt seed sync_mode num_images output_format safety_tolerance enhance_prompt "
    "image_url mask_url",
    "fal-ai/flux-pro/v1/canny": "prompt image_size num_inference_steps seed guidance_scale sync_mode num_images "
    "safety_tolerance output_format control_image_url",
    "fal-ai/flux-pro/v1/depth": "prompt image_size num_inference_steps seed guidance_scale sync_mode num_images "
    "safety_tolerance output_format control_image_url",
    "fal-ai/flux-pro/kontext": "prompt seed guidance_scale sync_mode num_images output_format safety_tolerance "
    "enhance_prompt aspect_ratio image_url",
    "fal-ai/flux-pro/kontext/multi": "prompt seed guidance_scale sync_mode num_images output_format safety_tolerance "
    "enhance_prompt aspect_ratio image_urls",
    "fal-ai/flux-pro/kontext/text-to-image": "prompt seed guidance_scale sync_mode num_images output_format "
    "safety_tolerance enhance_prompt aspect_ratio",
    "fal-ai/flux-kontext/dev": "prompt image_url num_inference_steps seed guidance_scale sync_mode num_images "
    "enable_safety_checker output_format acceleration resolution_mode",
    "fal-ai/flux/krea": "prompt image_size num_inference_steps seed guidance_scale sync_mode num_images "
    "enable_safety_checker output_format acceleration",
    "fal-ai/flux/krea/image-to-image": "image_url strength num_inference_steps prompt seed guidance_scale sync_mode "
    "num_images enable_safety_checker output_format acceleration",
    "fal-ai/flux/krea/redux": "image_url image_size num_inference_steps seed guidance_scale sync_mode num_images "
    "enable_safety_checker output_format acceleration",
}


def job(id_: str, **changes: Any) -> Job:
    endpoint = ENDPOINTS[id_]
    return endpoint.to_job(validate(endpoint, endpoint.example | changes), request_id="r", seed=1, model="flux.1-dev")


def sized(id_: str, width: int, height: int, **changes: Any) -> tuple[int, int]:
    """(width, height) drawn for a picture of that size."""
    image = ImageInput(data=b"", width=width, height=height, role="context", strength=1.0, sent=(width, height))
    done = ENDPOINTS[id_].with_pictures(replace(job(id_, **changes), images=(image,)))
    return done.width, done.height


@pytest.mark.parametrize("id_", FIELDS)
def test_fields_stand_in_the_published_order(id_: str) -> None:
    endpoint = ENDPOINTS[id_]
    assert list(schemas(endpoint)[endpoint.Input.__name__]["properties"]) == FIELDS[id_].split()


@pytest.mark.parametrize("id_", ["fal-ai/flux/krea", "fal-ai/flux/krea/image-to-image", "fal-ai/flux/krea/redux"])
def test_krea_follows_the_prompt_at_four_and_a_half(id_: str) -> None:
    example = {key: value for key, value in ENDPOINTS[id_].example.items() if key != "guidance_scale"}
    endpoint = ENDPOINTS[id_]
    done = endpoint.to_job(validate(endpoint, example), request_id="r", seed=1, model="flux.1-krea-dev")
    assert done.guidance == 4.5
    assert ENDPOINTS[id_.replace("flux/", "flux-1/")].Input is endpoint.Input


def test_fill_names_picture_and_mask_and_draws_as_the_model_was_published() -> None:
    endpoint = ENDPOINTS["fal-ai/flux-pro/v1/fill"]
    wanted = wants(endpoint, image_url="a", mask_url="b")
    assert [(each.url, each.role, each.field) for each in wanted] == [
        ("a", "fill", "image_url"),
        ("b", "mask", "mask_url"),
    ]
    assert (job(endpoint.id).steps, job(endpoint.id).guidance) == (50, 30.0)
    assert sized(endpoint.id, 1000, 667) == (1008, 672)


@pytest.mark.parametrize(("kind", "guidance"), [("canny", 30.0), ("depth", 10.0)])
def test_control_takes_the_callers_numbers_before_the_models_own(kind: str, guidance: float) -> None:
    endpoint = ENDPOINTS[f"fal-ai/flux-pro/v1/{kind}"]
    (wanted,) = wants(endpoint, control_image_url="a")
    assert (wanted.role, wanted.field) == (kind, "control_image_url")
    bare = validate(endpoint, {"prompt": "x", "control_image_url": "a", "guidance_scale": None})
    done = endpoint.to_job(bare, request_id="r", seed=1, model="m")
    assert (done.steps, done.guidance) == (50, guidance)
    asked = job(endpoint.id, num_inference_steps=20, guidance_scale=7)
    assert (asked.steps, asked.guidance) == (20, 7)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(None, (1184, 880)), ("16:9", (1360, 768)), ("1:1", (1024, 1024)), ("9:21", (656, 1552))],
)
def test_kontext_draws_one_megapixel_in_the_asked_ratio_or_the_pictures(
    ratio: str | None, expected: tuple[int, int]
) -> None:
    assert sized("fal-ai/flux-pro/kontext", 640, 480, aspect_ratio=ratio) == expected
    assert sized("fal-ai/flux-pro/kontext/max", 640, 480, aspect_ratio=ratio) == expected


def test_kontext_dev_matches_its_picture_unless_told_otherwise() -> None:
    id_ = "fal-ai/flux-kontext/dev"
    assert sized(id_, 640, 480) == (640, 480)
    assert sized(id_, 640, 480, resolution_mode="auto") == (1184, 880)
    assert sized(id_, 640, 480, resolution_mode="4:5") == (912, 1136)
    assert (job(id_).steps, job(id_).guidance) == (28, 2.5)


def test_kontext_without_a_picture_takes_the_ratio() -> None:
    done = job("fal-ai/flux-pro/kontext/text-to-image", aspect_ratio="3:2")
    assert (done.width, done.height) == (1248, 832)
    assert ENDPOINTS["fal-ai/flux-pro/kontext/text-to-image"].pictures is None


def test_several_pictures_keep_their_order_and_have_a_bound() -> None:
    endpoint = ENDPOINTS["fal-ai/flux-pro/kontext/multi"]
    wanted = wants(endpoint, image_urls=["a", "b", "c"])
    assert [(each.url, each.field) for each in wanted] == [
        ("a", "image_urls.0"), ("b", "image_urls.1"), ("c", "image_urls.2"),
    ]  # fmt: skip
    for urls in ([], ["a"] * 5, [""]):
        with pytest.raises(ModelError) as caught:
            validate(endpoint, endpoint.example | {"image_urls": urls})
        assert caught.value.items[0]["loc"][:2] == ["body", "image_urls"]


@pytest.mark.parametrize("id_", [id_ for id_ in ENDPOINTS if id_.startswith("fal-ai/flux-pro")])
def test_a_wish_that_is_not_met_is_told(id_: str) -> None:
    notices = job(id_, enhance_prompt=True).notices
    assert [(notice.code, notice.field) for notice in notices] == [("field_ignored", "enhance_prompt")]
    assert job(id_).notices == job(id_, enhance_prompt=None).notices == ()


def wants(endpoint: Endpoint, **changes: Any) -> Any:
    assert endpoint.pictures is not None
    return endpoint.pictures(validate(endpoint, endpoint.example | changes))
