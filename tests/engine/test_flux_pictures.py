"""Each kind of FLUX.1 and a job's pictures: what it draws after, and what it sends back with the name of who can."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from impasto.engine import pictures
from impasto.engine.flux import FluxPipeline
from impasto.engine.job import ImageInput, ImageRole, Job
from impasto.engine.pipeline import Pixels
from impasto.errors import ModelError
from impasto.flux import canny, weights
from impasto.flux import pipeline as flux
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.images import resize
from impasto.flux.latents import image_ids
from impasto.flux.models import (
    FLUX1_CANNY,
    FLUX1_DEPTH,
    FLUX1_DEV,
    FLUX1_FILL,
    FLUX1_KONTEXT,
    FLUX1_SCHNELL,
    ModelSpec,
)
from impasto.flux.transformer import Flux

from ..checkpoints import AUTOENCODER, made, redux_parts, write_redux, write_single
from .conftest import make_job


@cache
def pipeline(spec: ModelSpec) -> FluxPipeline:
    parts = made(spec)
    small = parts.small
    loaded = flux.Pipeline(
        small,
        transformer=weights.build(lambda: Flux(small.transformer), parts.bfl(), name="transformer"),
        autoencoder=weights.build(lambda: Autoencoder(AUTOENCODER), parts.bfl_autoencoder(), name="vae"),
        text=parts.words(32),
    )
    return FluxPipeline(loaded, device=torch.device("cpu"), dtype=torch.float32)


def job(**changes: Any) -> Job:
    return make_job(**{"model": "m", "width": 64, "height": 48, "steps": 2, **changes})


def image(
    role: ImageRole, pixels: Pixels | None = None, *, field: str = "image_url", strength: float = 1.0
) -> ImageInput:
    if pixels is None:
        soft = np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        pixels = np.array(Image.fromarray(soft).resize((64, 48), Image.Resampling.BICUBIC))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    height, width, _ = pixels.shape
    return ImageInput(data=file.getvalue(), width=width, height=height, role=role, strength=strength, field=field)


def draw(it: FluxPipeline, job: Job) -> Pixels:
    *_, last = it.denoise(job, it.encode(job), index=0)
    return it.decode(job, last.latents)


def grey(value: int = 128) -> Pixels:
    ramp = np.linspace(0, value, 64, dtype=np.uint8)
    return np.repeat(np.tile(ramp, (48, 1))[..., None], 3, axis=2)


GIVEN: dict[ModelSpec, tuple[ImageInput, ...]] = {
    FLUX1_FILL: (image("fill"), image("mask", grey(255))),
    FLUX1_CANNY: (image("canny"),),
    FLUX1_DEPTH: (image("depth", grey()),),
    FLUX1_KONTEXT: (image("context"),),
}


@pytest.mark.parametrize("spec", GIVEN, ids=lambda spec: spec.name)
def test_a_model_draws_after_the_picture_it_was_trained_for(spec: ModelSpec) -> None:
    it = pipeline(spec)
    wanted = job(images=GIVEN[spec])
    drawn = draw(it, wanted)
    assert drawn.shape == (48, 64, 3)
    assert np.array_equal(draw(it, wanted), drawn), "the same job, the same picture"
    first = replace(GIVEN[spec][0], data=image("init", grey(200)).data)
    assert not np.array_equal(draw(it, replace(wanted, images=(first, *GIVEN[spec][1:]))), drawn)
    assert it.encode(job(images=it.warm_up_images)), "its warm-up gives it what it needs"


def test_a_mask_says_where() -> None:
    it = pipeline(FLUX1_FILL)
    mask = np.zeros((48, 64, 3), np.uint8)
    none = draw(it, job(images=(image("fill"), image("mask", mask))))
    mask[:, 32:] = 255
    assert not np.array_equal(draw(it, job(images=(image("fill"), image("mask", mask)))), none)


def half() -> Pixels:
    """A mask of the right half."""
    mask = np.zeros((48, 64, 3), np.uint8)
    mask[:, 32:] = 255
    return mask


def test_pasting_back_keeps_the_pictures_own_pixels_where_the_mask_is_black() -> None:
    it = pipeline(FLUX1_FILL)
    given = image("fill")
    drawn = draw(it, job(images=(given, image("mask", half()))))
    pasted = draw(it, job(images=(given, image("mask", half())), paste_back=True))
    assert np.array_equal(pasted[:, :32], pictures.pixels(given)[:, :32])
    assert np.array_equal(pasted[:, 32:], drawn[:, 32:])
    assert not np.array_equal(drawn[:, :32], pasted[:, :32])


@pytest.mark.parametrize("spec", [FLUX1_DEV, FLUX1_SCHNELL, FLUX1_KONTEXT], ids=lambda spec: spec.name)
def test_inpainting_draws_anew_where_its_region_is_white(spec: ModelSpec) -> None:
    it = pipeline(spec)
    start = image("init", strength=0.8)
    everywhere = draw(it, job(images=(start,)))
    somewhere = draw(it, job(images=(start, image("region", half()))))
    nowhere = draw(it, job(images=(start, image("region", np.zeros((48, 64, 3), np.uint8)))))
    latents = it._pipeline.encode_image(pictures.pixels(start), height=48, width=64)
    assert np.array_equal(nowhere, it.decode(job(), latents)), "nothing is drawn: the picture comes through"
    assert not np.array_equal(somewhere, everywhere)
    assert not np.array_equal(somewhere, nowhere)
    whole = image("region", np.full((48, 64, 3), 255, np.uint8))
    assert np.array_equal(draw(it, job(images=(start, whole))), everywhere)


def test_a_second_pass_counts_above_a_scale_of_one_and_tells_it_what_to_avoid() -> None:
    it = pipeline(FLUX1_DEV)
    plain = draw(it, job())
    for off in (job(negative="blurred"), job(negative="blurred", cfg=0.5), job(cfg=3.0)):
        assert np.array_equal(draw(it, off), plain)
    one, other = draw(it, job(negative="blurred", cfg=3.0)), draw(it, job(negative="", cfg=3.0))
    assert not np.array_equal(one, plain)
    assert not np.array_equal(one, other), "both are kept as what they are"
    assert np.array_equal(draw(it, job(negative="blurred", cfg=3.0)), one)


def test_a_schedule_may_be_shifted_otherwise() -> None:
    it = pipeline(FLUX1_DEV)
    usual = draw(it, job())
    assert np.array_equal(draw(it, job(shift=(0.5, 1.15))), usual), "FLUX.1's own"
    assert not np.array_equal(draw(it, job(shift=(2.0, 3.0))), usual)


def test_kontext_sees_a_small_picture_on_the_grid_that_is_drawn() -> None:
    """At 768x768, as `match_input` draws such an upload, a picture of 1024x1024 would be cut to its top left part."""
    it = pipeline(FLUX1_KONTEXT)._pipeline
    upload = image("context", np.zeros((768, 768, 3), np.uint8))
    context = pictures.read(job(images=(upload,), width=768, height=768), it).context
    assert context is not None
    assert torch.equal(context.ids[:, 1:], image_ids(768, 768)[:, 1:])
    assert context.tokens.shape[1] == len(context.ids)


def test_kontext_takes_several_pictures_in_order() -> None:
    it = pipeline(FLUX1_KONTEXT)
    one, two = image("context"), image("context", grey())
    assert not np.array_equal(draw(it, job(images=(one, two))), draw(it, job(images=(two, one))))


@pytest.mark.parametrize("spec", [FLUX1_DEV, FLUX1_SCHNELL, FLUX1_FILL, FLUX1_CANNY], ids=lambda spec: spec.name)
@pytest.mark.parametrize(("role", "needed"), [
    ("fill", "flux.1-fill-dev"), ("canny", "flux.1-canny-dev"), ("depth", "flux.1-depth-dev"),
    ("context", "flux.1-kontext-dev"), ("prompt", "flux.1-redux-dev"),
])  # fmt: skip
def test_another_models_picture_is_refused_with_the_command_that_helps(
    spec: ModelSpec, role: ImageRole, needed: str
) -> None:
    spec = FLUX1_DEV if spec.name == needed else spec
    with pytest.raises(ModelError) as caught:
        pipeline(spec).encode(job(images=(image(role, field="some_url"), *GIVEN.get(spec, ()))))
    (item,) = caught.value.items
    assert (item["type"], item["loc"]) == ("feature_not_supported", ["body", "some_url"])
    assert spec.name in item["msg"]
    assert f"impasto models pull {needed}" in item["msg"]


@pytest.mark.parametrize("spec", [FLUX1_FILL, FLUX1_CANNY, FLUX1_DEPTH], ids=lambda spec: spec.name)
def test_a_model_that_needs_a_picture_refuses_words_alone(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match=spec.name.replace(".", r"\.")) as caught:
        pipeline(spec).encode(job())
    assert caught.value.items[0]["type"] == "feature_not_supported"


def test_a_photograph_is_no_depth_map() -> None:
    with pytest.raises(ModelError, match="Send a depth map") as caught:
        pipeline(FLUX1_DEPTH).encode(job(images=(image("depth", field="control_image_url"),)))
    assert caught.value.items[0]["loc"] == ["body", "control_image_url"]


def test_edges_are_found_once() -> None:
    """A photograph becomes its edges; a map of edges stays as it is."""
    photo = np.zeros((48, 64, 3), np.uint8)
    photo[10:30, 20:50] = (200, 40, 90)
    edges = canny.edges(photo)
    assert canny.is_map(edges)
    assert not canny.is_map(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    rows, columns = np.nonzero(edges[..., 0])
    assert 0 < len(rows) < 200
    assert abs(rows.min() - 10) <= 1
    assert abs(columns.max() - 49) <= 1
    assert np.array_equal(pictures._edges(image("canny", edges), height=48, width=64), edges)
    assert np.array_equal(pictures._edges(image("canny", photo), height=48, width=64), edges)


def test_edges_are_found_at_the_size_that_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """BFL resizes first: the map that the model reads is black and white, whatever the size of the upload."""
    it = pipeline(FLUX1_CANNY)
    seen: list[Pixels] = []
    tensor = it._pipeline._tensor
    monkeypatch.setattr(it._pipeline, "_tensor", lambda read: seen.append(read) or tensor(read))
    soft = np.random.default_rng(3).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    photo = np.array(Image.fromarray(soft).resize((128, 96), Image.Resampling.BICUBIC))
    pictures.read(job(images=(image("canny", photo),)), it._pipeline)
    (read,) = seen
    assert set(np.unique(read)) == {0, 255}
    assert np.array_equal(read, canny.edges(resize(photo, height=48, width=64)))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_map_that_was_made_smaller_is_a_map(format: str) -> None:
    """Maps above the decoder's bound come in grey; to trace them again would double every line."""
    rough = Image.fromarray(np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    lines = canny.edges(np.array(rough.resize((640, 480), Image.Resampling.BICUBIC)))
    file = io.BytesIO()
    smaller = Image.fromarray(lines).resize((400, 300), Image.Resampling.LANCZOS)
    smaller.save(file, format)
    ready = np.array(Image.open(file).convert("RGB"))
    assert ((ready > 31) & (ready < 224)).mean() > 0.02, "it is not black and white"
    assert canny.is_map(ready)
    assert np.array_equal(
        pictures._edges(image("canny", ready), height=304, width=400), pictures.pixels(image("canny", ready))
    )


def test_a_dark_photograph_in_grey_is_no_map() -> None:
    night = np.zeros((300, 400, 3), np.uint8)
    night[200:280, 50:250] = np.linspace(40, 200, 200, dtype=np.uint8)[:, None]
    assert not canny.is_map(night)


def test_redux_beside_the_model_lets_it_take_after_pictures(tmp_path: Path) -> None:
    path = write_single(tmp_path, made(FLUX1_DEV), name="flux-small.safetensors")
    write_redux(tmp_path, *redux_parts())
    loaded = flux.Pipeline.load(path, device="cpu", dtype=torch.float32, threads=1)
    assert loaded.has_redux
    it = FluxPipeline(loaded, device=torch.device("cpu"), dtype=torch.float32)
    plain = draw(it, job())
    one, other = image("prompt", strength=0.8), image("prompt", grey(), strength=0.5)
    drawn = draw(it, job(images=(one,)))
    assert not np.array_equal(drawn, plain)
    assert not np.array_equal(draw(it, job(images=(one, other))), drawn)
    assert not np.array_equal(draw(it, job(images=(replace(one, strength=0.2),))), drawn)
    assert np.array_equal(draw(it, job(images=(replace(one, strength=0.0),))), plain), "no strength: the words alone"
    unasked, whole = (draw(it, job(images=(replace(one, strength=strength),))) for strength in (None, 1.0))
    assert np.array_equal(unasked, whole), "diffusers and ComfyUI take the picture whole"
