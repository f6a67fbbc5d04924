"""What `fal-ai/flux-pro` accepts, refuses and answers, field by field."""

import json
from base64 import b64decode
from typing import Any

import pytest

from impasto.endpoints.base import Endpoint
from impasto.endpoints.fields import PRESETS, SizeLimits, noise_seed, pixels
from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.engine.job import Job, JobResult, Picture
from impasto.errors import ModelError

ENDPOINTS = Endpoints()
PRO = ENDPOINTS["fal-ai/flux-pro"]
PLUS = ENDPOINTS["fal-ai/flux-pro/v1.1"]


def job(payload: dict[str, Any], *, endpoint: Endpoint = PRO, seed: int = 99) -> Job:
    return endpoint.to_job(validate(endpoint, payload), request_id="r", seed=seed, model="impasto-mini")


def items(payload: object, *, endpoint: Endpoint = PRO) -> list[dict[str, Any]]:
    with pytest.raises(ModelError) as caught:
        validate(endpoint, payload)
    assert caught.value.status == 422
    found = caught.value.body()["detail"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found, "every item is plain JSON"
    for item in found:
        assert item["loc"][0] == "body"
        assert all(isinstance(part, str) for part in item["loc"])
        assert item["msg"]
        assert item["type"]
        assert item["url"].startswith("https://")
    return found


def only(payload: object, *, endpoint: Endpoint = PRO) -> dict[str, Any]:
    found = items(payload, endpoint=endpoint)
    assert len(found) == 1
    return found[0]


def test_defaults_are_the_documented_ones() -> None:
    drawn = job({"prompt": "a cat"})
    assert drawn == Job(
        request_id="r",
        model="impasto-mini",
        prompt="a cat",
        width=1024,
        height=768,
        steps=28,
        guidance=3.5,
        seed=99,
        num_images=1,
        format="jpeg",
        safety_tolerance=2,
        safety_checker=True,
    )


def test_null_in_an_optional_field_means_its_default() -> None:
    nulls = dict.fromkeys([name for name in PRO.Input.model_fields if name != "prompt"], None)
    assert job({"prompt": "a cat", **nulls}) == job({"prompt": "a cat"})
    half = job({"prompt": "a cat", "image_size": {"width": None, "height": 256}})
    assert (half.width, half.height) == (512, 256)


def test_prompt_is_required_and_may_not_be_null() -> None:
    missing = only({})
    assert (missing["type"], missing["loc"], missing["msg"]) == ("missing", ["body", "prompt"], "Field required")
    assert missing["input"] == {}
    assert only({"prompt": None})["type"] == "string_type"
    assert only({"prompt": 5})["type"] == "string_type"


def test_prompt_may_be_empty_and_has_an_upper_length() -> None:
    assert job({"prompt": ""}).prompt == ""
    assert job({"prompt": "x" * 10_000}).prompt == "x" * 10_000
    long = only({"prompt": "x" * 10_001})
    assert (long["type"], long["ctx"]["max_length"]) == ("sequence_too_long", 10_000)
    assert "input" not in long, "an offending value of ten kilobytes is not sent back"


def test_unknown_fields_are_ignored() -> None:
    assert job({"prompt": "a", "enable_safety_checker": False, "negative_prompt": "b", "x": {"y": [1]}}) == job(
        {"prompt": "a"}
    )


@pytest.mark.parametrize(
    ("field", "attribute", "low", "high"),
    [
        ("num_inference_steps", "steps", 1, 50),
        ("num_images", "num_images", 1, 4),
        ("guidance_scale", "guidance", 1, 20),
    ],
)
def test_bounds_hold_at_and_past_their_edges(field: str, attribute: str, low: int, high: int) -> None:
    for edge in (low, high):
        assert getattr(job({"prompt": "a", field: edge}), attribute) == edge
    below = only({"prompt": "a", field: low - 1})
    assert (below["type"], below["loc"], below["ctx"]) == ("greater_than_equal", ["body", field], {"ge": low})
    assert below["url"] == "https://docs.fal.ai/errors#greater_than_equal"
    above = only({"prompt": "a", field: high + 1})
    assert (above["type"], above["loc"], above["ctx"]) == ("less_than_equal", ["body", field], {"le": high})
    assert above["input"] == high + 1


def test_guidance_between_the_bounds_is_a_float() -> None:
    assert job({"prompt": "a", "guidance_scale": 7.25}).guidance == 7.25
    assert only({"prompt": "a", "guidance_scale": 0.999})["type"] == "greater_than_equal"
    assert only({"prompt": "a", "guidance_scale": "x"})["type"] == "float_parsing"


def test_whole_number_fields_refuse_fractions_and_words() -> None:
    assert only({"prompt": "a", "num_images": 1.5})["type"] == "int_from_float"
    assert only({"prompt": "a", "num_images": "two"})["type"] == "int_parsing"
    assert job({"prompt": "a", "num_images": "2"}).num_images == 2, "as pydantic, hence fal, takes it"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_drawn_exactly(name: str) -> None:
    drawn = job({"prompt": "a", "image_size": name})
    assert (drawn.width, drawn.height) == PRESETS[name]


def test_preset_pixels_are_the_published_ones() -> None:
    assert PRESETS == {
        "square_hd": (1024, 1024),
        "square": (512, 512),
        "portrait_4_3": (768, 1024),
        "portrait_16_9": (576, 1024),
        "landscape_4_3": (1024, 768),
        "landscape_16_9": (1024, 576),
    }


@pytest.mark.parametrize("value", ["huge", "", 7, [512, 512], True])
def test_other_sizes_are_refused_by_the_field(value: object) -> None:
    item = only({"prompt": "a", "image_size": value})
    assert (item["type"], item["loc"]) == ("one_of", ["body", "image_size"])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({}, (512, 512)),
        ({"width": 640}, (640, 512)),
        ({"height": 640}, (512, 640)),
        ({"width": 1280, "height": 720}, (1280, 720)),
        ({"width": 64, "height": 2048}, (64, 2048)),
        ({"width": 2048, "height": 2048}, (2048, 2048)),
        ({"width": 2560, "height": 1080}, (2560, 1088)),  # ai-sdk's 21:9 and 9:21
        ({"width": 1080, "height": 2560}, (1088, 2560)),
        ({"width": 1023, "height": 1025}, (1024, 1024)),
        ({"width": 71, "height": 72}, (64, 80)),
        ({"width": 512, "height": 512, "depth": 3}, (512, 512)),
    ],
)
def test_custom_sizes_are_rounded_to_the_nearest_sixteen(size: dict[str, int], expected: tuple[int, int]) -> None:
    drawn = job({"prompt": "a", "image_size": size})
    assert (drawn.width, drawn.height) == expected


@pytest.mark.parametrize("side", ["width", "height"])
def test_sides_outside_the_schema_are_named(side: str) -> None:
    zero = only({"prompt": "a", "image_size": {side: 0}})
    assert (zero["type"], zero["loc"], zero["ctx"]) == ("greater_than", ["body", "image_size", side], {"gt": 0})
    huge = only({"prompt": "a", "image_size": {side: 14143}})
    assert (huge["type"], huge["loc"], huge["ctx"]) == ("less_than_equal", ["body", "image_size", side], {"le": 14142})
    word = only({"prompt": "a", "image_size": {side: "wide"}})
    assert (word["type"], word["loc"]) == ("int_parsing", ["body", "image_size", side])


@pytest.mark.parametrize("side", ["width", "height"])
def test_sizes_that_cannot_be_drawn_name_bound_and_remedy(side: str) -> None:
    small = only({"prompt": "a", "image_size": {side: 63}})
    assert (small["type"], small["loc"]) == ("image_too_small", ["body", "image_size"])
    assert (small["ctx"]["min_width"], small["ctx"]["min_height"]) == (64, 64)
    assert "64x64" in small["msg"]
    assert small["url"] == "https://docs.fal.ai/errors#image_too_small"
    for size in (2561, 14142):
        large = only({"prompt": "a", "image_size": {side: size}})
        assert (large["type"], large["loc"]) == ("image_too_large", ["body", "image_size"])
        assert (large["ctx"]["max_width"], large["ctx"]["max_height"]) == (2560, 2560)
    large = only({"prompt": "a", "image_size": {side: 2560, "width" if side == "height" else "height": 1648}})
    assert (large["type"], large["ctx"]) == ("image_too_large", {"max_resolution": 2048 * 2048})


def test_area_has_its_own_limit_and_rounding_never_breaks_it() -> None:
    limits = SizeLimits(max_area=1000 * 1000, max_side=2048)
    limits.check(1000, 1000)
    with pytest.raises(ValueError, match="1000000 pixels"):
        limits.check(1001, 1000)
    for width, height in [(1000, 1000), (999, 1001), (2040, 488)]:
        fitted = limits.fit(width, height)
        assert fitted[0] * fitted[1] <= limits.max_area
        assert all(side % 16 == 0 for side in fitted)


@pytest.mark.parametrize("word", ["1", "2", "3", "4", "5", "6"])
def test_safety_tolerance_is_a_word_and_its_number_is_taken_too(word: str) -> None:
    assert job({"prompt": "a", "safety_tolerance": word}).safety_tolerance == int(word)
    assert job({"prompt": "a", "safety_tolerance": int(word)}).safety_tolerance == int(word)


@pytest.mark.parametrize("value", ["0", "7", 0, 7, "high", 2.5, True])
def test_other_safety_tolerances_are_refused(value: object) -> None:
    assert only({"prompt": "a", "safety_tolerance": value})["loc"] == ["body", "safety_tolerance"]


def test_output_formats() -> None:
    assert job({"prompt": "a", "output_format": "png"}).format == "png"
    assert only({"prompt": "a", "output_format": "webp"})["type"] == "one_of"


def test_every_bad_field_is_reported_at_once() -> None:
    found = items({"num_images": 9, "image_size": {"width": 0, "height": 0}, "output_format": "gif"})
    assert [item["loc"] for item in found] == [
        ["body", "prompt"],
        ["body", "image_size", "width"],
        ["body", "image_size", "height"],
        ["body", "num_images"],
        ["body", "output_format"],
    ]


@pytest.mark.parametrize("payload", [[], "text", 5, None, True])
def test_an_input_that_is_no_object_is_refused(payload: object) -> None:
    assert only(payload)["loc"] == ["body"]


def test_the_callers_seed_wins_over_the_drawn_one() -> None:
    assert job({"prompt": "a", "seed": 0}, seed=99).seed == 0
    assert job({"prompt": "a", "seed": None}, seed=99).seed == 99


@pytest.mark.parametrize("seed", [-1, "-1", -1.0, 2**64 - 1, 2**65 - 1])
def test_every_integer_is_a_seed_and_stays_as_it_was_sent(seed: object) -> None:
    assert job({"prompt": "a", "seed": seed}).seed == int(seed)  # type: ignore[call-overload]
    assert noise_seed(job({"prompt": "a", "seed": seed}).seed) == 2**64 - 1
    for unheld in (10**309, -(10**400)):
        assert only({"prompt": "a", "seed": unheld})["type"] == "int_parsing_size"
    for wrong in (0.5, "random", [1]):
        assert only({"prompt": "a", "seed": wrong})["loc"] == ["body", "seed"]
    schema = schemas(PRO)["FluxProTextToImageInput"]["properties"]["seed"]
    assert set(schema) == {"type", "title", "description"}


def test_v1_1_chooses_steps_and_guidance_itself() -> None:
    drawn = job({"prompt": "a", "num_inference_steps": 3, "guidance_scale": 9, "num_images": 2}, endpoint=PLUS)
    assert (drawn.steps, drawn.guidance, drawn.num_images) == (28, 3.5, 2)
    assert job({"prompt": "a", "enable_safety_checker": False}, endpoint=PLUS).safety_checker is False
    assert job({"prompt": "a"}, endpoint=PLUS).safety_checker is True


def result(*data: bytes, seed: int = 7) -> JobResult:
    return JobResult(
        request_id="r",
        seed=seed,
        timings={"inference": 1.5, "decode": 0.25},
        pictures=tuple(
            Picture(data=d, media_type="image/png", width=64, height=80, nsfw=i == 1, nsfw_score=0.1)
            for i, d in enumerate(data)
        ),
    )


def test_output_has_the_documented_fields_in_order() -> None:
    output = PRO.to_output(validate(PRO, {"prompt": "a cat"}), result(b"1", b"2", seed=2**64 - 1), ["u1", "u2"])
    assert list(output) == ["images", "timings", "seed", "has_nsfw_concepts", "prompt"]
    assert output == {
        "images": [
            {"url": "u1", "width": 64, "height": 80, "content_type": "image/png"},
            {"url": "u2", "width": 64, "height": 80, "content_type": "image/png"},
        ],
        "timings": {"inference": 1.5, "decode": 0.25},
        "seed": 2**64 - 1,
        "has_nsfw_concepts": [False, True],
        "prompt": "a cat",
    }
    assert list(output["images"][0]) == ["url", "width", "height", "content_type"]
    PRO.Output.model_validate(output)


def test_sync_mode_puts_the_bytes_into_the_answer_and_needs_no_urls() -> None:
    output = PRO.to_output(validate(PRO, {"prompt": "a", "sync_mode": True}), result(b"\x89PNG"), [])
    head, _, body = output["images"][0]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert b64decode(body) == b"\x89PNG"


def test_an_output_never_loses_a_picture_silently() -> None:
    with pytest.raises(ValueError, match="zip"):
        PRO.to_output(validate(PRO, {"prompt": "a"}), result(b"1", b"2"), ["u1"])


def test_image_size_in_both_spellings_gives_pixels() -> None:
    assert pixels("square") == (512, 512)
