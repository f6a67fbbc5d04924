"""Too little memory: before loading, a smaller arrangement is taken and told; while drawing, one request fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from impasto.doctor import Check, examine
from impasto.engine import flux as runner
from impasto.engine.engine import Engine
from impasto.engine.failure import Failure
from impasto.engine.flux import FluxPipeline, plan_for
from impasto.engine.job import JobResult
from impasto.errors import WeightsError
from impasto.flux import offload, quantise, weights
from impasto.flux import pipeline as flux
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import locate
from impasto.flux.memory import is_out_of_memory
from impasto.flux.residency import Residency
from impasto.flux.t5clip import T5ClipTextEncoder
from impasto.flux.transformer import Flux
from impasto.settings import ModelSettings, load

from ..checkpoints import AUTOENCODER, Made, made, write_single
from .conftest import Recorder, make_job

WORDS = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)


@pytest.fixture(scope="module")
def parts() -> Made:
    return made()


@pytest.fixture(scope="module")
def file(parts: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single(tmp_path_factory.mktemp("model"), parts, name="x.safetensors", dtype=torch.bfloat16)


class Cramped(Flux):
    """A transformer on a device that has room for some image tokens, and no more."""

    room = 24
    error: type[Exception] = torch.OutOfMemoryError
    refused = 0

    def velocity(self, img: Tensor, txt: Tensor, pe: Tensor, mods: Any) -> Tensor:
        if len(img) * img.shape[1] > self.room:
            self.refused += 1
            raise self.error("CUDA out of memory" if self.error is torch.OutOfMemoryError else WORDS)
        return super().velocity(img, txt, pe, mods)


def cramped(parts: Made, file: Path) -> tuple[FluxPipeline, Cramped]:
    """A pipeline whose blocks visit the device, which is too small."""
    found = locate(file)
    model = weights.build(lambda: Cramped(parts.small.transformer), weights.transformer_tensors(found), name="cramped")
    offload.install(model, Residency(modulation_on_host=True, streamed=3), torch.device("cpu"))
    loaded = flux.Pipeline(
        parts.small,
        transformer=model,
        autoencoder=weights.build(lambda: Autoencoder(AUTOENCODER), parts.bfl_autoencoder(), name="vae"),
        text=T5ClipTextEncoder.load(found, weights.Target(torch.device("cpu"), torch.float32)),
    )
    return FluxPipeline(loaded, device=torch.device("cpu"), dtype=torch.float32), model


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError], ids=lambda it: it.__name__)
def test_a_picture_that_is_too_large_fails_alone_and_the_next_one_is_drawn(
    parts: Made, file: Path, make_engine: Callable[..., Engine], recorder: Recorder, error: type[Exception]
) -> None:
    pipeline, model = cramped(parts, file)
    model.error = error
    engine = make_engine(pipeline)
    engine.submit(make_job("large", width=256, height=256, steps=2), "large")
    engine.start()
    recorder.wait("large")
    failure = recorder.outcomes["large"]
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retryable) == (500, False)
    assert "ran out of memory drawing 256x256" in failure.message
    assert "image_size" in failure.message
    assert model.refused == 1, "a single picture cannot be halved"
    engine.submit(make_job("small", width=64, height=48, steps=2), "small")
    recorder.wait("small")
    assert isinstance(recorder.outcomes["small"], JobResult)


def test_two_passes_that_do_not_fit_are_halved_and_draw_the_same(parts: Made, file: Path) -> None:
    pipeline, model = cramped(parts, file)
    both = pipeline._pipeline.encode("a fox", negative="a cat")

    def latents() -> Tensor:
        *_, last = pipeline._pipeline.denoise(both, seed=1, index=0, height=48, width=64, steps=2, cfg=3.0)
        return last.latents

    model.room = 24
    roomy = latents()
    assert model.refused == 0
    model.room = 12
    torch.testing.assert_close(latents(), roomy, rtol=1e-4, atol=1e-5)
    assert model.refused == 1, "the batch is halved once a picture"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError(WORDS), True),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_full_memory_is_known_by_whatever_library_says_it(error: Exception, full: bool) -> None:
    assert is_out_of_memory(error) == full


def draw(it: FluxPipeline) -> np.ndarray[Any, Any]:
    job = make_job(width=64, height=48, steps=2)
    *_, last = it.denoise(job, it.encode(job), index=0)
    return it.decode(job, last.latents)


def test_settings_decide_how_weights_are_held_and_the_pipeline_tells(file: Path) -> None:
    full = FluxPipeline.load(ModelSettings(name=str(file), device="cpu", threads=1))
    narrow = FluxPipeline.load(ModelSettings(name=str(file), device="cpu", threads=1, weights_dtype="int8"))
    assert full.residency == "all on the device"
    assert "weights in int8" in narrow.residency
    layers = [each for each in narrow._pipeline._transformer.modules() if isinstance(each, quantise.NarrowLinear)]
    assert layers
    pictures = draw(full).astype(int), draw(narrow).astype(int)
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 8


def test_weights_that_do_not_fit_are_rounded_and_everybody_is_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Free memory is what is measured; here it is between what int8 and what the full weights take."""
    settings = ModelSettings(name=str(file), device="cpu", threads=1)
    full = plan_for(settings)
    narrow = plan_for(settings.model_copy(update={"weights_dtype": "int8"}))
    assert narrow.host < full.host
    monkeypatch.setattr(runner, "available_memory", lambda: full.host - 1)
    with caplog.at_level(logging.WARNING, "impasto.engine"):
        assert "weights in int8" in FluxPipeline.load(settings).residency
    assert "rounded to int8" in caplog.text
    tree = load(environment={}, flags={"data": tmp_path, "server.port": 0, "model.name": str(file)})
    check = {each.name: each for each in examine(tree)}["memory"]
    assert isinstance(check, Check)
    assert check.state == "note"
    assert "weights in int8" in check.found
    assert "model.weights_dtype = full" in check.remedy
    with pytest.raises(WeightsError, match="GiB of memory"):
        plan_for(settings.model_copy(update={"weights_dtype": "full"}))


def test_the_asked_size_of_pictures_is_what_room_is_kept_for(file: Path) -> None:
    small, large = (plan_for(ModelSettings(name=str(file), device="cpu", room_for=side)).host for side in (512, 1024))
    assert large > small


def test_no_half_loaded_model_is_left_when_the_last_part_is_broken(file: Path, parts: Made, tmp_path: Path) -> None:
    """The transformer is whole, T5 is not: nothing is loaded, the part and its first bad key are named."""
    path = write_single(tmp_path, parts, name="x.safetensors")
    t5 = tmp_path / "t5xxl_fp16.safetensors"
    with t5.open("r+b") as handle:
        handle.truncate(t5.stat().st_size // 2)
    with pytest.raises(WeightsError, match=r"t5xxl_fp16\.safetensors: not a complete safetensors file: it ends inside"):
        FluxPipeline.load(ModelSettings(name=str(path), device="cpu"))
