"""Who gets what for `acceleration`, and that the result names it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from impasto.engine import acceleration
from impasto.engine.drawing import Finisher, draw
from impasto.engine.flux import FluxPipeline
from impasto.engine.job import Job, JobResult
from impasto.engine.safety import Safety
from impasto.flux import pipeline as flux
from impasto.flux.fp8 import Fp8
from impasto.flux.means import PLAIN, Means
from impasto.settings import ModelSettings, SafetySettings

from .conftest import Recorder, encode_image, make_job

LOOSE: dict[str, Any] = {"step_cache": (0.3, 0.5)}


@pytest.fixture(scope="module")
def loaded() -> flux.Pipeline:
    return flux.Pipeline.load("impasto-mini", device="cpu", dtype=torch.float32, threads=1)


def job(**changes: Any) -> Job:
    return make_job(model="impasto-mini", **{"width": 128, "height": 96, "steps": 10, **changes})


def drawn(loaded: flux.Pipeline, job: Job, **settings: Any) -> JobResult:
    pipeline = FluxPipeline(loaded, device=torch.device("cpu"), dtype=torch.float32, settings=ModelSettings(**settings))
    return draw(job, pipeline=pipeline, finisher=Finisher(Safety(SafetySettings(enabled=False), None), encode_image))


@pytest.mark.parametrize(
    ("setting", "asked", "threshold"),
    [
        ("asked", None, None),
        ("asked", "none", None),
        ("asked", "regular", 0.08),
        ("asked", "high", 0.12),
        ("none", "high", None),
        ("regular", None, 0.08),
        ("high", None, 0.12),
        ("high", "regular", 0.08),
        ("high", "none", None),
    ],
)
def test_the_setting_bounds_and_completes_what_is_asked(setting: str, asked: Any, threshold: float | None) -> None:
    found = acceleration.choose(job(acceleration=asked), ModelSettings(acceleration=setting))  # type: ignore[arg-type]
    assert (found.caching and found.caching.change) == threshold


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"acceleration": "none"}, {"acceleration": "high"}),
        ({"step_cache": (0.0, 0.1)}, {"acceleration": "regular"}),
        ({}, {"acceleration": "high", "steps": 4}),
    ],
)
def test_who_asks_in_vain_is_told_why(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    (notice,) = acceleration.choose(job(**changes), ModelSettings(**settings)).notices
    assert (notice.code, notice.field) == ("field_ignored", "acceleration")


def test_few_steps_that_nobody_asked_to_be_fewer_are_not_worth_a_word() -> None:
    assert acceleration.choose(job(steps=4), ModelSettings(acceleration="high")) == acceleration.EXACT


def test_an_accelerated_result_says_so_and_differs_an_exact_one_does_not(loaded: flux.Pipeline) -> None:
    plain, exact, fast = (drawn(loaded, job(acceleration=asked), **LOOSE) for asked in (None, "none", "high"))
    assert plain.pictures == exact.pictures
    assert plain.notices == exact.notices == ()
    assert fast.pictures != exact.pictures
    (notice,) = fast.notices
    assert (notice.code, notice.field) == ("accelerated", "acceleration")
    assert re.search(r"threshold 0\.5\): [1-9] of 10 steps", notice.message)


def test_a_result_that_came_out_exact_all_the_same_says_that(loaded: flux.Pipeline) -> None:
    asked = job(acceleration="high")
    never = drawn(loaded, asked, step_cache=(1e-9, 1e-9))
    assert never.pictures == drawn(loaded, job()).pictures
    assert [(notice.code, notice.field) for notice in never.notices] == [("field_ignored", "acceleration")]


def test_the_engine_logs_what_was_accelerated(loaded: flux.Pipeline, make_engine: Any, recorder: Recorder) -> None:
    settings = ModelSettings(**LOOSE)  # type: ignore[arg-type]
    engine = make_engine(FluxPipeline(loaded, device=torch.device("cpu"), dtype=torch.float32, settings=settings))
    engine.start()
    engine.submit(job(acceleration="high"), "lease")
    recorder.wait("lease")
    told = [message for _, level, message in recorder.lines if level == "WARN"]
    assert [message.startswith("Drawn with a step cache") for message in told] == [True]


def test_high_multiplies_in_8_bits_where_that_is_there_and_says_so() -> None:
    for asked, fp8 in (("regular", False), ("high", True), (None, False)):
        assert acceleration.choose(job(acceleration=asked), ModelSettings(), fp8=True).fp8 is fp8
    few = acceleration.choose(job(acceleration="high", steps=4), ModelSettings(), fp8=True)
    assert few == acceleration.Speed(fp8=True)
    (notice,) = few.report(4, 0)
    assert notice.message.startswith("Drawn with linears in 8 bits. ")


def test_a_request_of_high_is_drawn_in_8_bits_by_a_model_that_keeps_them(loaded: flux.Pipeline) -> None:
    exact = drawn(loaded, job())
    loaded.means = Means(fp8=Fp8(loaded._transformer))
    try:
        assert drawn(loaded, job(acceleration="regular"), step_cache=(0, 0)).pictures == exact.pictures
        fast = drawn(loaded, job(acceleration="high"), step_cache=(0, 0))
    finally:
        loaded.means = PLAIN
    assert fast.pictures != exact.pictures
    assert "8 bits" in fast.notices[0].message
    assert drawn(loaded, job()).pictures == exact.pictures
