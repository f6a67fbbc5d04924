"""The shipped weights and a caller's picture: what resembles it, what does not, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from impasto.engine import pictures
from impasto.engine.flux import FluxPipeline
from impasto.engine.job import ImageInput, Job
from impasto.engine.pipeline import Pixels
from impasto.errors import ModelError
from impasto.flux import pipeline as flux
from impasto.flux.vocabulary import Vocabulary

from .conftest import make_job


@pytest.fixture(scope="module")
def loaded() -> flux.Pipeline:
    return flux.Pipeline.load("impasto-mini", device="cpu", dtype=torch.float32, threads=1)


@pytest.fixture(scope="module")
def pipeline(loaded: flux.Pipeline) -> FluxPipeline:
    return FluxPipeline(loaded, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def picture(pipeline: FluxPipeline) -> Pixels:
    return draw(pipeline, job(prompt="a red apple on a blue background", seed=1))


def job(**changes: Any) -> Job:
    return make_job(model="impasto-mini", **{"width": 128, "height": 96, "steps": 12, **changes})


def draw(pipeline: FluxPipeline, job: Job, index: int = 0) -> Pixels:
    *_, last = pipeline.denoise(job, pipeline.encode(job), index=index)
    return pipeline.decode(job, last.latents)


def given(pixels: Pixels, role: str, strength: float | None) -> tuple[ImageInput, ...]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    height, width, _ = pixels.shape
    return (ImageInput(data=file.getvalue(), width=width, height=height, role=role, strength=strength),)  # type: ignore[arg-type]


def distance(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_less_strength_keeps_more_of_the_start(pipeline: FluxPipeline, picture: Pixels) -> None:
    far = [
        distance(draw(pipeline, job(prompt="a green car", images=given(picture, "init", s))), picture)
        for s in (0.1, 0.5, 0.95)
    ]
    assert far == sorted(far)
    assert far[0] < far[2] / 3


@pytest.mark.parametrize("prompt", ["", "a yellow car on a green background"])
def test_more_strength_takes_after_the_picture_more(pipeline: FluxPipeline, picture: Pixels, prompt: str) -> None:
    plain = distance(draw(pipeline, job(prompt=prompt)), picture)
    far = [
        distance(draw(pipeline, job(prompt=prompt, images=given(picture, "prompt", s))), picture)
        for s in (0.1, 0.5, 1.0)
    ]
    assert plain > far[0] > far[1] > far[2]


def test_an_image_prompt_of_strength_zero_gives_the_bytes_of_the_words_alone(
    pipeline: FluxPipeline, picture: Pixels
) -> None:
    with_it = draw(pipeline, job(images=given(picture, "prompt", 0.0)))
    assert with_it.tobytes() == draw(pipeline, job()).tobytes()


@pytest.mark.parametrize(
    ("prompt", "usual"),
    [("", pictures.LATENT_STRENGTH), ("a yellow car on a green background", pictures.LATENT_STRENGTH_WITH_WORDS)],
)
def test_where_no_strength_is_asked_the_picture_is_seen(
    pipeline: FluxPipeline, picture: Pixels, prompt: str, usual: float
) -> None:
    unasked, stated = (draw(pipeline, job(prompt=prompt, images=given(picture, "prompt", s))) for s in (None, usual))
    assert np.array_equal(unasked, stated)
    plain = draw(pipeline, job(prompt=prompt))
    assert distance(unasked, picture) < 0.5 * distance(plain, picture)


@pytest.mark.parametrize(("role", "strength"), [("init", 0.7), ("prompt", 0.4)])
def test_the_same_seed_gives_the_same_bytes_and_another_another(
    pipeline: FluxPipeline, picture: Pixels, role: str, strength: float
) -> None:
    def once(**changes: Any) -> Callable[[int], bytes]:
        asked = job(images=given(picture, role, strength), **changes)
        return lambda index: draw(pipeline, asked, index).tobytes()

    assert once()(0) == once()(0)
    assert once(num_images=3)(0) == once(num_images=1)(0)
    assert len({once()(0), once()(1), once(seed=8)(0)}) == 3


def test_a_model_without_redux_refuses_an_image_prompt_and_takes_a_start(
    loaded: flux.Pipeline, picture: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "spec", replace(loaded.spec, name="flux.1-dev", image_prompts=False))
    real = FluxPipeline(loaded, device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(ModelError) as caught:
        real.encode(job(images=given(picture, "prompt", 0.1)))
    (item,) = caught.value.items
    assert (item["loc"], item["type"]) == (["body", "image_url"], "feature_not_supported")
    assert "FLUX.1-Redux-dev" in item["msg"]
    assert draw(real, job(images=given(picture, "init", 0.5))).shape == (96, 128, 3)


def test_fields_without_effect_and_cut_prompts_are_told(pipeline: FluxPipeline) -> None:
    notices = pipeline.encode(job(prompt="red " * 60, raw=True)).notices
    assert [(n.code, n.field) for n in notices] == [("prompt_cut", "prompt"), ("field_ignored", "raw")]
    assert pipeline.encode(job()).notices == ()


def test_words_that_the_model_never_learned_are_told(loaded: flux.Pipeline) -> None:
    vocabulary = Vocabulary({"cat": ("kitten",), "castle": ()}, frozenset({"blue", "background"}))
    small = flux.Pipeline(
        loaded.spec,
        transformer=loaded._transformer,
        autoencoder=loaded._autoencoder,
        text=loaded._text,
        upscaler=loaded._upscaler,
        vocabulary=vocabulary,
    )
    reader = FluxPipeline(small, device=torch.device("cpu"), dtype=torch.float32)
    assert reader.encode(job(prompt="a cat on a blue background")).notices == ()
    (partly,) = reader.encode(job(prompt="a cat and a senator")).notices
    assert (partly.code, partly.field) == ("unknown_words", "prompt")
    assert "senator" in partly.message
    assert "nearest" not in partly.message
    (wholly,) = reader.encode(job(prompt="a feline on a blue background")).notices
    assert wholly.code == "unknown_words"
    assert "feline" in wholly.message
    assert wholly.message.endswith("nearest to it: cat.")
