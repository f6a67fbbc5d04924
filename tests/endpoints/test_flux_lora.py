"""fal-ai/flux-lora: its fields as published, and the jobs and LoRAs that they become."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from impasto.endpoints.base import WantedLora
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.engine.job import ImageInput, Job
from impasto.errors import ModelError

ENDPOINTS = Endpoints()
TEXT, IMAGE = "fal-ai/flux-lora", "fal-ai/flux-lora/image-to-image"
FIELDS = [
    "prompt", "image_size", "num_inference_steps", "seed", "loras", "guidance_scale", "sync_mode", "num_images",
    "enable_safety_checker", "output_format", "acceleration",
]  # fmt: skip


def job(id_: str, **changes: Any) -> Job:
    endpoint = ENDPOINTS[id_]
    return endpoint.to_job(validate(endpoint, endpoint.example | changes), request_id="r", seed=1, model="flux.1-dev")


def test_fields_stand_in_the_published_order() -> None:
    assert list(ENDPOINTS[TEXT].Input.model_fields) == FIELDS
    assert list(ENDPOINTS[IMAGE].Input.model_fields) == [*FIELDS, "image_url", "strength"]


def test_loras_are_named_with_their_scales() -> None:
    endpoint = ENDPOINTS[TEXT]
    assert endpoint.loras is not None
    given = {"prompt": "p", "loras": [{"path": "a/b"}, {"path": "https://x.example/c.safetensors", "scale": 0.5}]}
    found = endpoint.loras(validate(endpoint, given))
    assert found == (
        WantedLora(path="a/b", scale=1.0),
        WantedLora(path="https://x.example/c.safetensors", scale=0.5),
    )
    assert endpoint.loras(validate(endpoint, {"prompt": "p", "loras": None})) == ()


@pytest.mark.parametrize(
    ("loras", "loc"),
    [
        ([{"scale": 1}], ["body", "loras", "0", "path"]),
        ([{"path": "a", "scale": 4.1}], ["body", "loras", "0", "scale"]),
        ([{"path": "a", "scale": -0.1}], ["body", "loras", "0", "scale"]),
        ([{"path": ""}], ["body", "loras", "0", "path"]),
        ("a", ["body", "loras"]),
        ([{"path": "a"}] * 17, ["body", "loras"]),
    ],
)
def test_bad_loras_are_named(loras: Any, loc: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        validate(ENDPOINTS[TEXT], {"prompt": "p", "loras": loras})
    assert [item["loc"] for item in caught.value.items] == [loc]


@pytest.mark.parametrize(("asked", "drawn"), [({}, (320, 192)), ({"image_size": "square"}, (512, 512))])
def test_the_picture_decides_the_size_unless_one_is_asked_for(asked: dict[str, Any], drawn: tuple[int, int]) -> None:
    picture = ImageInput(data=b"", width=320, height=190, role="init", strength=0.85)
    done = ENDPOINTS[IMAGE].with_pictures(replace(job(IMAGE, **asked), images=(picture,)))
    assert (done.width, done.height) == drawn
