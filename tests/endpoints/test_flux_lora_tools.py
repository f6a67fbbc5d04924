"""Fill, Canny, Depth and Kontext with LoRAs: the jobs, pictures and sizes that their fields become."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from impasto.endpoints.schema import schemas
from impasto.endpoints.table import Endpoints
from impasto.endpoints.validation import validate
from impasto.engine.job import ImageInput, ImageRole, Job, JobResult
from impasto.errors import ModelError

ENDPOINTS = Endpoints()
FILL, KONTEXT = "fal-ai/flux-lora-fill", "fal-ai/flux-kontext-lora"


def job(id_: str, **changes: Any) -> Job:
    endpoint = ENDPOINTS[id_]
    return endpoint.to_job(validate(endpoint, endpoint.example | changes), request_id="r", seed=1, model="m")


def wants(id_: str, **changes: Any) -> list[tuple[str, str]]:
    """(role, field) of each picture."""
    endpoint = ENDPOINTS[id_]
    assert endpoint.pictures is not None
    return [(each.role, each.field) for each in endpoint.pictures(validate(endpoint, endpoint.example | changes))]


def sized(id_: str, role: ImageRole, sent: tuple[int, int], now: tuple[int, int] | None = None, **changes: Any) -> Job:
    width, height = now or sent
    image = ImageInput(data=b"", width=width, height=height, role=role, strength=1.0, sent=sent)
    return ENDPOINTS[id_].with_pictures(replace(job(id_, **changes), images=(image,)))


def test_fill_keeps_the_picture_outside_of_its_mask_unless_told_otherwise() -> None:
    assert wants(FILL) == [("fill", "image_url"), ("mask", "mask_url")]
    done = job(FILL, guidance_scale=30)
    assert (done.paste_back, done.steps, done.guidance) == (True, 28, 30)
    assert not job(FILL, paste_back=False).paste_back


def test_fill_draws_in_the_pictures_size_to_the_pixel_when_that_is_asked_for() -> None:
    usual = sized(FILL, "fill", (1001, 667))
    assert (usual.width, usual.height) == (1008, 672)
    exact = sized(FILL, "fill", (1001, 667), resize_to_original=True)
    assert (exact.width, exact.height, exact.notices) == (1001, 667, ())
    asked = sized(FILL, "fill", (1001, 667), image_size="square")
    assert (asked.width, asked.height) == (512, 512)


@pytest.mark.parametrize(
    ("sent", "now", "drawn"),
    [
        ((4000, 3000), (1632, 1224), (1632, 1224)),
        ((4000, 200), (4000, 200), (2560, 128)),
        ((30, 40), (30, 40), (64, 64)),
    ],
)
def test_a_size_that_cannot_be_kept_is_told(
    sent: tuple[int, int], now: tuple[int, int], drawn: tuple[int, int]
) -> None:
    done = sized(FILL, "fill", sent, now, resize_to_original=True)
    assert (done.width, done.height) == drawn
    (notice,) = done.notices
    assert (notice.code, notice.field) == ("size_rounded", "resize_to_original")


def test_pictures_to_fill_with_are_reduxs_and_in_context_fill_is_refused() -> None:
    field = "fill_image.fill_image_url"
    assert wants(FILL, fill_image={"fill_image_url": ["a", "b"]})[2:] == [
        ("prompt", f"{field}.0"), ("prompt", f"{field}.1"),
    ]  # fmt: skip
    assert wants(FILL, fill_image={"fill_image_url": "a"})[2:] == [("prompt", field)]
    with pytest.raises(ModelError) as caught:
        job(FILL, fill_image={"fill_image_url": "a", "in_context_fill": True})
    (item,) = caught.value.items
    assert item["loc"] == ["body", "fill_image", "in_context_fill"]
    assert item["type"] == "feature_not_supported"


def test_beside_pictures_to_fill_with_words_count_only_when_that_is_asked_for() -> None:
    endpoint = ENDPOINTS[FILL]
    published = schemas(endpoint)["ImageFillInputType2"]["properties"]
    assert list(published) == ["fill_image_url", "in_context_fill", "use_prompt"]
    assert published["use_prompt"]["default"] is False
    done = job(FILL, prompt="a knight", fill_image={"fill_image_url": "a"})
    assert (done.prompt, done.unheard) == ("", "a knight")
    for fill in ({"fill_image_url": "a", "use_prompt": True}, {"use_prompt": False}, None):
        done = job(FILL, prompt="a knight", fill_image=fill)
        assert (done.prompt, done.unheard) == ("a knight", "")
    input_ = validate(endpoint, endpoint.example | {"prompt": "a knight", "fill_image": {"fill_image_url": "a"}})
    assert endpoint.to_output(input_, JobResult(request_id="r", seed=1, pictures=()), [])["prompt"] == "a knight"


@pytest.mark.parametrize("kind", ["canny", "depth"])
def test_control_models_follow_their_picture_with_the_published_defaults(kind: str) -> None:
    id_ = f"fal-ai/flux-lora-{kind}"
    assert wants(id_) == [(kind, "image_url")]
    bare = validate(ENDPOINTS[id_], {"prompt": "p", "image_url": "a"})
    done = ENDPOINTS[id_].to_job(bare, request_id="r", seed=1, model="m")
    assert (done.steps, done.guidance) == (28, 3.5)
    assert (sized(id_, kind, (1000, 667)).width, sized(id_, kind, (1000, 667)).height) == (1008, 672)


def test_kontext_edits_draws_from_words_and_paints_like_another_picture() -> None:
    assert wants(KONTEXT) == [("context", "image_url")]
    edit = sized(KONTEXT, "context", (640, 480), resolution_mode="16:9")
    assert (edit.width, edit.height, edit.steps, edit.guidance, edit.format) == (1360, 768, 30, 2.5, "png")
    text = job(f"{KONTEXT}/text-to-image")
    assert (text.width, text.height) == (1024, 768)
    assert ENDPOINTS[f"{KONTEXT}/text-to-image"].pictures is None
    inpaint = f"{KONTEXT}/inpaint"
    assert wants(inpaint) == [
        ("init", "image_url"), ("region", "mask_url"), ("context", "reference_image_url"),
    ]  # fmt: skip
    assert (sized(inpaint, "init", (640, 480)).width, sized(inpaint, "init", (640, 480)).height) == (640, 480)


@pytest.mark.parametrize(
    "id_", [FILL, KONTEXT, f"{KONTEXT}/text-to-image", f"{KONTEXT}/inpaint", "fal-ai/flux-lora-canny"]
)
def test_all_take_loras(id_: str) -> None:
    endpoint = ENDPOINTS[id_]
    assert endpoint.loras is not None
    (lora,) = endpoint.loras(validate(endpoint, endpoint.example | {"loras": [{"path": "a/b", "scale": 0.5}]}))
    assert (lora.path, lora.scale) == ("a/b", 0.5)
