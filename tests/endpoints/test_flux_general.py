"""fal-ai/flux-general: what it does of its fields, what it refuses, and what it says has no effect."""

from __future__ import annotations

from typing import Any

import pytest

from impasto.endpoints.flux_general import LACKING
from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.engine.job import Job
from impasto.errors import ModelError

ENDPOINTS = Endpoints()
TEXT = "fal-ai/flux-general"
IDS = [TEXT, f"{TEXT}/image-to-image", f"{TEXT}/inpainting"]
URL = "https://x.example/y"


def job(id_: str = TEXT, **changes: Any) -> Job:
    endpoint = ENDPOINTS[id_]
    required = {name: endpoint.example[name] for name in ("image_url", "mask_url") if name in endpoint.example}
    input_ = validate(endpoint, {"prompt": "p", **required, **changes})
    return endpoint.to_job(input_, request_id="r", seed=1, model="flux.1-dev")


@pytest.mark.parametrize("id_", IDS)
def test_a_negative_prompt_is_a_second_pass_when_it_is_asked_for(id_: str) -> None:
    plain = job(id_)
    assert (plain.negative, plain.cfg, plain.shift, plain.notices) == (None, 1.0, None, ())
    both = job(id_, use_real_cfg=True, negative_prompt="blurred", real_cfg_scale=2.5)
    assert (both.negative, both.cfg, both.guidance) == ("blurred", 2.5, 3.5)
    assert (job(id_, use_real_cfg=True).negative, job(id_, use_real_cfg=True).cfg) == ("", 3.5)


@pytest.mark.parametrize("id_", IDS)
def test_a_negative_prompt_alone_has_no_effect_and_that_is_said(id_: str) -> None:
    done = job(id_, negative_prompt="blurred")
    assert (done.negative, done.cfg) == (None, 1.0)
    assert [(notice.code, notice.field) for notice in done.notices] == [("field_ignored", "negative_prompt")]


def test_the_callers_shift_counts() -> None:
    assert job(base_shift=0.7).shift == (0.7, 1.15)
    assert job(base_shift=0.5, max_shift=1.15).shift is None, "the model's own"


WISHES: dict[str, Any] = {
    "control_loras": [{"path": URL, "control_image_url": URL}],
    "controlnets": [{"path": URL, "control_image_url": URL}],
    "controlnet_unions": [{"path": URL, "controls": [{"control_image_url": URL, "control_mode": "canny"}]}],
    "ip_adapters": [{"path": URL, "image_encoder_path": URL, "image_url": URL, "scale": 0.5}],
    "easycontrols": [{"control_method_url": "canny", "image_url": URL, "image_control_type": "spatial"}],
    "use_cfg_zero": True,
    "reference_image_url": URL,
    "use_beta_schedule": True,
    "sigma_schedule": "sgm_uniform",
    "scheduler": "dpmpp_2m",
}


def test_every_wish_that_is_refused_is_tried() -> None:
    assert set(WISHES) == set(LACKING)


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize("field", WISHES)
def test_what_this_server_lacks_is_refused_at_its_field(id_: str, field: str) -> None:
    with pytest.raises(ModelError) as caught:
        job(id_, **{field: WISHES[field]})
    (item,) = caught.value.items
    assert (item["loc"], item["type"]) == (["body", field], "feature_not_supported")
    assert f"leave {field} out" in item["msg"]
    job(id_, **{field: None})


def test_a_control_lora_has_a_scale_between_minus_four_and_four() -> None:
    number = schemas(ENDPOINTS[TEXT])["ControlLoraWeight"]["properties"]["scale"]["anyOf"][1]
    assert (number["minimum"], number["maximum"]) == (-4, 4)
    for scale, bound in ((-4.1, {"ge": -4}), (4.1, {"le": 4})):
        with pytest.raises(ModelError) as caught:
            job(control_loras=[{"path": URL, "control_image_url": URL, "scale": scale}])
        (item,) = caught.value.items
        assert (item["loc"], item["ctx"]) == (["body", "control_loras", "0", "scale"], bound)
    for scale in (-4, 4, {"0": 1.0}):
        with pytest.raises(ModelError, match="leave control_loras out"):
            job(control_loras=[{"path": URL, "control_image_url": URL, "scale": scale}])


def test_pictures_to_take_after_come_one_or_several() -> None:
    endpoint = ENDPOINTS[TEXT]
    assert endpoint.pictures is not None
    field = "fill_image.fill_image_url"
    for urls, expected in ((URL, [(URL, field)]), ([URL, "b"], [(URL, f"{field}.0"), ("b", f"{field}.1")]), ([], [])):
        input_ = validate(endpoint, {"prompt": "p", "fill_image": {"fill_image_url": urls}})
        wanted = endpoint.pictures(input_)
        assert [(each.url, each.field) for each in wanted] == expected
        assert {each.role for each in wanted} <= {"prompt"}
    with pytest.raises(ModelError) as caught:
        validate(endpoint, {"prompt": "p", "fill_image": {"fill_image_url": ["a"] * 5}})
    assert caught.value.items[0]["loc"] == ["body", "fill_image", "fill_image_url"]


def test_inpainting_names_picture_and_mask() -> None:
    endpoint = ENDPOINTS[f"{TEXT}/inpainting"]
    assert endpoint.pictures is not None
    wanted = endpoint.pictures(validate(endpoint, endpoint.example))
    assert [(each.role, each.field, each.strength) for each in wanted] == [
        ("init", "image_url", 0.85),
        ("region", "mask_url", 1.0),
    ]
