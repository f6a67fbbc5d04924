"""Prompts kept by the real pipelines: what comes out of the cache is what the text encoder would have said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from impasto.engine.drawing import Finisher, draw
from impasto.engine.flux import FluxPipeline, Prompt
from impasto.engine.job import Job
from impasto.engine.safety import Safety
from impasto.flux import pipeline as flux
from impasto.settings import SafetySettings

from ..checkpoints import made, write_diffusers
from .conftest import encode_image, make_job
from .test_flux_loras import lora

ROOM = 2**20


@pytest.fixture(scope="module", params=["impasto-mini", "t5+clip"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[flux.Pipeline]:
    before = torch.get_num_threads()
    mini = request.param == "impasto-mini"
    name = "impasto-mini" if mini else str(write_diffusers(tmp_path_factory.mktemp("published"), made()))
    yield flux.Pipeline.load(name, device="cpu", dtype=torch.float32, threads=1)
    torch.set_num_threads(before)


def wrapped(loaded: flux.Pipeline, *, prompt_cache: int = ROOM) -> FluxPipeline:
    return FluxPipeline(loaded, device=torch.device("cpu"), dtype=torch.float32, prompt_cache=prompt_cache)


def job(**changes: Any) -> Job:
    return make_job(model="any", width=128, height=96, steps=2, scope="alice", **changes)


def states(pipeline: FluxPipeline, job: Job) -> tuple[torch.Tensor, torch.Tensor]:
    prompt = pipeline.encode(job).value
    assert isinstance(prompt, Prompt)
    return prompt.text.txt, prompt.text.vec


def counted(pipeline: FluxPipeline) -> tuple[int, int]:
    return pipeline.counters["prompt_cache_hits"], pipeline.counters["prompt_cache_misses"]


def test_a_prompt_out_of_the_cache_has_the_encoders_own_bits(loaded: flux.Pipeline) -> None:
    cached, uncached = wrapped(loaded), wrapped(loaded, prompt_cache=0)
    for prompt in ("a red apple", "a blue boat on a lake, and nothing else", ""):
        expected = states(uncached, job(prompt=prompt))
        for _ in range(2):
            for ours, theirs in zip(states(cached, job(prompt=prompt)), expected, strict=True):
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs)
    assert counted(cached) == (3, 3)
    assert counted(uncached) == (0, 0)


def test_a_picture_does_not_depend_on_whether_its_prompt_was_kept(loaded: flux.Pipeline) -> None:
    finisher = Finisher(Safety(SafetySettings(enabled=False), None), encode_image)
    cached, uncached = wrapped(loaded), wrapped(loaded, prompt_cache=0)
    first, again = (draw(job(num_images=2), pipeline=cached, finisher=finisher) for _ in range(2))
    expected = draw(job(num_images=2), pipeline=uncached, finisher=finisher)
    assert counted(cached) == (1, 1)
    assert first.pictures == again.pictures == expected.pictures
    assert first.notices == again.notices == expected.notices


def test_nobody_gets_what_another_has_brought_about(loaded: flux.Pipeline) -> None:
    pipeline = wrapped(loaded)
    for scope in ("alice", "bob", "", ""):
        pipeline.encode(replace(job(), scope=scope))
    assert counted(pipeline) == (0, 2), "alice's and bob's own; nobody's is not even counted"


def test_drawing_does_not_touch_what_is_kept(loaded: flux.Pipeline) -> None:
    pipeline = wrapped(loaded)
    before = [tensor.clone() for tensor in states(pipeline, job())]
    *_, last = pipeline.denoise(job(), pipeline.encode(job()), index=0)
    pipeline.decode(job(), last.latents)
    assert all(torch.equal(a, b) for a, b in zip(before, states(pipeline, job()), strict=True))


@pytest.mark.parametrize("loaded", ["impasto-mini"], indirect=True)  # whose shape the LoRA at hand has
def test_a_lora_changes_no_words(loaded: flux.Pipeline, tmp_path: Path) -> None:
    pipeline = wrapped(loaded)
    plain = states(pipeline, job())
    styled = states(pipeline, job(loras=(lora(tmp_path, seed=1, extra=True),)))
    assert counted(pipeline) == (1, 1)
    assert all(torch.equal(a, b) for a, b in zip(plain, styled, strict=True))
