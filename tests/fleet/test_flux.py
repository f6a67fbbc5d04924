"""The real pipeline through engine, runner and dispatcher: the embedded architecture with small random weights."""

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from impasto.engine.drawing import Finisher, draw
from impasto.engine.engine import Engine
from impasto.engine.failure import Failure
from impasto.engine.flux import FluxPipeline
from impasto.engine.job import Job, JobResult
from impasto.engine.loading import load_pipeline
from impasto.engine.safety import Safety
from impasto.files import images
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import EMBEDDED
from impasto.flux.models import IMPASTO_MINI
from impasto.flux.transformer import Flux
from impasto.settings import ModelSettings, SafetySettings
from impasto.store.records import NewRequest, Outcome
from impasto.training.assets import write_config

from .conftest import make_settings, open_house


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    save_file(Flux(IMPASTO_MINI.transformer).state_dict(), folder / "transformer.safetensors")
    save_file(Autoencoder(IMPASTO_MINI.autoencoder).state_dict(), folder / "autoencoder.safetensors")
    for name in ("text_encoder.safetensors", "text_places.safetensors", "tokenizer.json", "upscaler.safetensors"):
        shutil.copyfile(EMBEDDED / IMPASTO_MINI.name / name, folder / name)
    write_config(folder, version="test", scale_factor=0.5, shift_factor=0.1)
    return folder


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> Iterator[FluxPipeline]:
    before = torch.get_num_threads()
    loaded = load_pipeline(ModelSettings(name=str(checkpoint), device="cpu", threads=1))
    assert isinstance(loaded, FluxPipeline)
    yield loaded
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finisher() -> Finisher:
    return Finisher(Safety.load(SafetySettings()), images.encode)


def make_job(request_id: str, **changes: object) -> Job:
    values: dict[str, object] = {
        "request_id": request_id, "model": IMPASTO_MINI.name, "prompt": "a red apple", "width": 256, "height": 192,
        "steps": 3, "guidance": 3.5, "seed": 7, "num_images": 2, **changes,
    }  # fmt: skip
    return Job(**values)  # type: ignore[arg-type]


class Outcomes:
    """The least a sink can be."""

    def __init__(self) -> None:
        self.results: dict[str, JobResult | Failure] = {}
        self.lines: list[str] = []

    def log(self, job: Job, lease: str, message: str, *, level: str = "INFO") -> None:
        self.lines.append(f"{level} {message}")

    def progress(self, job: Job, lease: str, *, image: int, step: int, steps: int) -> None:
        pass

    def done(self, job: Job, lease: str, result: JobResult) -> None:
        self.results[lease] = result

    def failed(self, job: Job, lease: str, failure: Failure) -> None:
        self.results[lease] = failure

    def released(self, job: Job, lease: str) -> None:
        raise AssertionError("nothing is released here")


@pytest.mark.parametrize("overlaps", [True, False])
def test_interleaved_jobs_give_the_bytes_that_each_gives_alone(
    pipeline: FluxPipeline, finisher: Finisher, monkeypatch: pytest.MonkeyPatch, overlaps: bool
) -> None:
    monkeypatch.setattr(pipeline, "overlaps", overlaps)
    jobs = [
        make_job("short", steps=2, num_images=1),
        make_job("long", steps=4, prompt="a blue boat", width=192, height=256),
        make_job("long too", steps=4, seed=2**64 - 1),
    ]
    alone = {job.request_id: draw(job, pipeline=pipeline, finisher=finisher) for job in jobs}
    sink = Outcomes()
    engine = Engine(pipeline=pipeline, finisher=finisher, sink=sink)
    for job in jobs:
        engine.submit(job, job.request_id)
    engine.drain(120)
    engine.start()
    assert engine.join(120)
    for request_id, expected in alone.items():
        result = sink.results[request_id]
        assert isinstance(result, JobResult), result
        assert [picture.data for picture in result.pictures] == [picture.data for picture in expected.pictures]
        assert all(0 < picture.nsfw_score < 1 for picture in result.pictures), "the real network looked"
        assert set(result.timings) == {"inference", "text_encode", "denoise", "decode", "safety", "encode"}


def test_a_prompt_that_is_too_long_is_warned_about(pipeline: FluxPipeline, finisher: Finisher) -> None:
    result = draw(make_job("r", prompt="very " * 100 + "red", steps=1), pipeline=pipeline, finisher=finisher)
    assert [(notice.code, notice.field) for notice in result.notices] == [("prompt_cut", "prompt")]
    assert str(IMPASTO_MINI.max_text_tokens) in result.notices[0].message
    assert draw(make_job("r", steps=1), pipeline=pipeline, finisher=finisher).notices == ()


def test_out_of_memory_is_recognised(pipeline: FluxPipeline) -> None:
    assert pipeline.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert pipeline.is_out_of_memory(refused.value)
    assert not pipeline.is_out_of_memory(RuntimeError("shapes do not match"))
    pipeline.free_memory()


async def test_a_killed_flux_runner_s_picture_is_drawn_again_to_the_same_bytes(
    checkpoint: Path, pipeline: FluxPipeline, finisher: Finisher, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path).model_copy(
        update={
            "model": ModelSettings(name=str(checkpoint), device="cpu", threads=1),
            "safety": SafetySettings(),
        }
    )
    async with open_house(settings) as house:
        await house.until_ready()
        (facts,) = house.dispatcher.runners
        assert facts.models == (IMPASTO_MINI.name,)
        assert facts.device == "cpu"
        assert facts.load_seconds > 0
        request_id = await house.submit(num_inference_steps=20, num_images=2)
        await house.until_drawing(request_id, step=3)
        os.kill(facts.pid, signal.SIGKILL)
        request, result = await house.ended(request_id)
        assert (request.outcome, request.attempt) == (Outcome.OK, 2)
        job = make_job(request_id, width=128, height=96, steps=20)
        expected = draw(job, pipeline=pipeline, finisher=finisher)
        assert house.file_bytes(result) == [picture.data for picture in expected.pictures]


async def test_a_prompt_is_kept_for_the_key_that_sent_it_and_for_no_other(checkpoint: Path, tmp_path: Path) -> None:
    settings = make_settings(tmp_path).model_copy(
        update={"model": ModelSettings(name=str(checkpoint), device="cpu", threads=1)}
    )
    async with open_house(settings) as house:
        await house.until_ready()
        for key_id, store_io in (("alice", True), ("alice", True), ("bob", True), ("alice", False)):
            request = await house.store.submit(
                NewRequest(
                    request_id=str(uuid.uuid4()),
                    endpoint="fal-ai/flux-pro",
                    input={
                        "prompt": "a red apple",
                        "image_size": {"width": 64, "height": 64},
                        "num_inference_steps": 1,
                    },
                    seed=7,
                    base_url="http://127.0.0.1:8000",
                    key_id=key_id,
                    store_io=store_io,
                )
            )
            await house.ended(request.request_id)

        def counted() -> tuple[int, int]:
            (facts,) = house.dispatcher.runners
            return facts.counters.get("prompt_cache_hits", 0), facts.counters.get("prompt_cache_misses", 0)

        await house.until(lambda: counted() == (1, 2))
