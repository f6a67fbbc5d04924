"""A model of few steps beside the embedded one: loaded with it, drawing for its own endpoints, in its own steps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from impasto.engine.flux import FluxPipeline
from impasto.engine.job import Job
from impasto.engine.pipeline import Pixels
from impasto.errors import WeightsError
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import EMBEDDED, locate, siblings
from impasto.flux.distillation import difference
from impasto.flux.models import IMPASTO_MINI, IMPASTO_MINI_SCHNELL, usual
from impasto.flux.transformer import Flux
from impasto.settings import ModelSettings
from impasto.training.assets import write_config

from .conftest import make_job

BASE, FEW = IMPASTO_MINI.name, IMPASTO_MINI_SCHNELL.name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's folder with a random transformer, and another's difference from it."""
    path = tmp_path_factory.mktemp("checkpoint") / BASE
    path.mkdir()
    torch.manual_seed(0)
    base, few = (Flux(spec.transformer).state_dict() for spec in (IMPASTO_MINI, IMPASTO_MINI_SCHNELL))
    save_file(base, path / IMPASTO_MINI.file("transformer"))
    save_file(difference(base, few), path / IMPASTO_MINI_SCHNELL.file("distillation"))
    save_file(Autoencoder(IMPASTO_MINI.autoencoder).state_dict(), path / "autoencoder.safetensors")
    for name in ("text_encoder.safetensors", "text_places.safetensors", "tokenizer.json", "upscaler.safetensors"):
        shutil.copyfile(EMBEDDED / BASE / name, path / name)
    write_config(path, version="t", scale_factor=1.0, shift_factor=0.0)
    return path


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> FluxPipeline:
    return FluxPipeline.load(ModelSettings(name=str(folder), device="cpu"))


def draw(pipeline: FluxPipeline, **changes: Any) -> Pixels:
    job: Job = make_job(**{"model": FEW, "width": 128, "height": 96, "scope": "me", **changes})
    *_, last = pipeline.denoise(job, pipeline.encode(job), index=0)
    return pipeline.decode(job, last.latents)


def test_it_is_loaded_with_the_model_that_it_lies_beside(pipeline: FluxPipeline, folder: Path) -> None:
    assert pipeline.models == (BASE, FEW)
    (found,) = siblings(locate(folder))
    assert (found.spec.name, found.spec.version) == (FEW, "t")
    assert found.path("distillation").name == "schnell.safetensors"
    assert siblings(found) == ()


def test_it_draws_what_is_asked_of_it_in_as_few_steps_as_it_has_learned(pipeline: FluxPipeline) -> None:
    few, base = draw(pipeline), draw(pipeline, model=BASE)
    assert not np.array_equal(few, base)
    assert np.array_equal(draw(pipeline), few), "the prompt cache tells them apart"
    assert not np.array_equal(draw(pipeline, guidance=7.0), few), "the scale acts in one pass"
    assert np.array_equal(draw(pipeline, steps=6), draw(pipeline, model=BASE, steps=6)), "more steps: the other one"
    assert not np.array_equal(draw(pipeline, steps=2), draw(pipeline, model=BASE, steps=2))


def test_a_broken_file_of_it_is_named(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / BASE
    shutil.copytree(folder, broken)
    with (broken / "schnell.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(WeightsError, match=r"schnell\.safetensors: SHA-256"):
        FluxPipeline.load(ModelSettings(name=str(broken), device="cpu"))


def test_without_its_file_the_model_is_alone(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / BASE
    shutil.copytree(folder, alone, ignore=shutil.ignore_patterns("schnell.safetensors"))
    write_config(alone, version="t", scale_factor=1.0, shift_factor=0.0)
    assert siblings(locate(alone)) == ()
    assert FluxPipeline.load(ModelSettings(name=str(alone), device="cpu")).models == (BASE,)


@pytest.mark.parametrize(
    ("model", "loaded", "chosen"),
    [
        ("flux-schnell", (BASE, FEW), FEW),
        ("flux-schnell", (BASE,), BASE),
        ("flux-dev", (BASE, FEW), BASE),
        ("flux-schnell", ("flux.1-dev",), "flux.1-dev"),
        ("flux-schnell", ("/my/weights",), "/my/weights"),
        ("flux-dev", (), None),
    ],
)
def test_who_draws_for_an_endpoint_when_nobody_has_said(model: str, loaded: tuple[str, ...], chosen: str) -> None:
    assert usual(model, loaded) == chosen
