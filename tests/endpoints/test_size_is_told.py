"""`size_rounded`: whatever path decides width and height, a result of another size than asked or sent says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from impasto.endpoints.custom import derive
from impasto.endpoints.fields import Prompt, WireInput
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.engine.job import ImageInput, Job

ENDPOINTS = Endpoints()
SIZE_FIELDS = {"image_size", "aspect_ratio"}


class _Derived(WireInput):
    prompt: Prompt


def _asks(input_: Any) -> dict[str, Any]:
    return {"prompt": input_.prompt, "image_url": "https://images.example/a.png"}


DERIVED = derive(
    "me/again", Input=_Derived, asks=_asks, base="fal-ai/flux/dev/image-to-image", example={"prompt": "a heron"}
)
FROM_IMAGE = [*(each for each in ENDPOINTS.values() if each.pictures is not None), DERIVED]


def drawn(endpoint: Any, sent: tuple[int, int], kept: tuple[int, int] | None = None) -> Job:
    """The job of the endpoint's example without a size, each of its images of the size `sent`, decoded to `kept`."""
    example = {name: value for name, value in endpoint.example.items() if name not in SIZE_FIELDS}
    input_ = validate(endpoint, example)
    wanted = endpoint.pictures(input_)
    width, height = kept or sent
    images = tuple(
        ImageInput(
            data=b"", width=width, height=height, role=w.role, strength=w.strength, field=w.field, sent=sent
        )
        for w in wanted
    )  # fmt: skip
    job = endpoint.to_job(input_, request_id="r", seed=1, model="m")
    return endpoint.with_pictures(replace(job, images=images)) if images else job


def told(job: Job) -> list[tuple[str, str | None]]:
    return [(notice.code, notice.field) for notice in job.notices if notice.code == "size_rounded"]


def takes_its_size_from_the_image(endpoint: Any) -> bool:
    return (drawn(endpoint, (512, 640)).width, drawn(endpoint, (512, 640)).height) != (
        drawn(endpoint, (640, 512)).width,
        drawn(endpoint, (640, 512)).height,
    )


SIZED = [each for each in FROM_IMAGE if takes_its_size_from_the_image(each)]


def test_the_endpoints_that_take_the_size_of_an_image_are_known() -> None:
    ids = {each.id for each in SIZED}
    assert {"fal-ai/flux/dev/image-to-image", "fal-ai/flux-lora/inpainting", "fal-ai/flux-pro/v1/fill"} <= ids
    assert {"fal-ai/flux-pro/kontext", "fal-ai/flux-lora-canny", "me/again"} <= ids


@pytest.mark.parametrize("endpoint", SIZED, ids=lambda each: each.id)
@pytest.mark.parametrize(
    ("sent", "kept"),
    [((250, 130), (250, 130)), ((4000, 20), (4000, 20)), ((30, 30), (30, 30)), ((3000, 2000), (1774, 1182))],
)
def test_a_result_of_another_size_than_its_image_says_size_rounded_with_both_sizes(
    endpoint: Any, sent: tuple[int, int], kept: tuple[int, int]
) -> None:
    job = drawn(endpoint, sent, kept)
    assert (job.width, job.height) != sent
    ((code, field),) = told(job)
    assert code == "size_rounded"
    assert field in {"image_url", "image_urls"}
    (message,) = (notice.message for notice in job.notices if notice.code == "size_rounded")
    assert f"{sent[0]}x{sent[1]}" in message
    assert f"{job.width}x{job.height}" in message


@pytest.mark.parametrize("endpoint", FROM_IMAGE, ids=lambda each: each.id)
def test_nothing_is_told_where_the_size_is_the_one_sent(endpoint: Any) -> None:
    job = drawn(endpoint, (1024, 1024))
    assert told(job) == []


@pytest.mark.parametrize(("width", "height"), [(250, 130), (1000, 65), (2559, 1000)])
def test_every_field_of_a_custom_size_is_told_when_it_is_rounded(width: int, height: int) -> None:
    asked = [each for each in ENDPOINTS.values() if "image_size" in each.Input.model_fields]
    assert len(asked) > 10
    for endpoint in asked:
        input_ = validate(endpoint, endpoint.example | {"image_size": {"width": width, "height": height}})
        job = endpoint.to_job(input_, request_id="r", seed=1, model="m")
        assert (job.width, job.height) != (width, height)
        assert told(job) == [("size_rounded", "image_size")]
