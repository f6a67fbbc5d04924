"""LoRAs of requests, through the engine, on the embedded architecture: whose change is on whose picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from impasto.engine.engine import Engine
from impasto.engine.failure import Failure
from impasto.engine.flux import FluxPipeline
from impasto.engine.job import Job, JobResult, LoraInput
from impasto.engine.loras import Bounds, Loras
from impasto.errors import ModelError, ServiceUnavailable
from impasto.flux import pipeline as flux
from impasto.flux.adapters import Limits
from impasto.flux.models import IMPASTO_MINI
from impasto.flux.transformer import Flux
from impasto.settings import ModelSettings

from .conftest import Recorder, make_job


@pytest.fixture(scope="module")
def loaded() -> Iterator[flux.Pipeline]:
    before = torch.get_num_threads()
    yield flux.Pipeline.load("impasto-mini", device="cpu", dtype=torch.float32, threads=1)
    torch.set_num_threads(before)


@pytest.fixture
def pipeline(loaded: flux.Pipeline) -> FluxPipeline:
    return FluxPipeline(loaded, device=torch.device("cpu"), dtype=torch.float32)


def lora(folder: Path, *, seed: int, scale: float = 1.0, wide: int = 0, extra: bool = False) -> LoraInput:
    """Of the embedded model's shape, in BFL's dialect; `wide`: that much too wide."""
    with torch.device("meta"):
        model = Flux(IMPASTO_MINI.transformer)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name.startswith("single_blocks"):
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, layer.in_features + wide, generator=generator) * 0.05
            tensors[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, 4, generator=generator) * 0.05
    if extra:
        tensors |= {f"text_encoder.layer{i}.lora_A.weight": torch.zeros(2, 2) for i in range(7)}
    path = folder / f"{seed}.safetensors"
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return LoraInput(path=str(path), digest=digest, scale=scale, name=f"https://loras.example/{seed}.safetensors")


def job(request_id: str = "r1", **changes: Any) -> Job:
    return make_job(request_id, model="impasto-mini", **{"width": 128, "height": 96, "steps": 5, **changes})


def solo(pipeline: FluxPipeline, job: Job) -> np.ndarray[Any, Any]:
    *_, last = pipeline.denoise(job, pipeline.encode(job), index=0)
    return pipeline.decode(job, last.latents)


def test_requests_that_take_turns_draw_what_each_draws_alone(
    pipeline: FluxPipeline, make_engine: Callable[..., Engine], recorder: Recorder, tmp_path: Path
) -> None:
    one, other = lora(tmp_path, seed=1, scale=0.8), lora(tmp_path, seed=2)
    jobs = {"none": job("none"), "one": job("one", loras=(one,)), "both": job("both", loras=(one, other))}
    alone: dict[str, bytes] = {}
    for name, each in jobs.items():
        engine = make_engine(pipeline)
        engine.start()
        engine.submit(each, f"alone-{name}")
        recorder.wait(f"alone-{name}")
        result = recorder.outcomes[f"alone-{name}"]
        assert isinstance(result, JobResult)
        alone[name] = result.pictures[0].data
    assert len(set(alone.values())) == 3
    recorder.steps.clear()
    engine = make_engine(pipeline)
    for name, each in jobs.items():
        engine.submit(each, name)
    engine.start()
    recorder.wait(*jobs)
    turns = [lease for lease, _, _ in recorder.steps]
    assert turns != sorted(turns, key=list(jobs).index), "the requests must have taken turns"
    for name in jobs:
        result = recorder.outcomes[name]
        assert isinstance(result, JobResult)
        assert result.pictures[0].data == alone[name]


def test_a_picture_without_a_lora_is_the_same_before_and_after_one(pipeline: FluxPipeline, tmp_path: Path) -> None:
    before = solo(pipeline, job())
    assert not np.array_equal(solo(pipeline, job(loras=(lora(tmp_path, seed=3),))), before)
    assert np.array_equal(solo(pipeline, job()), before)


def test_unmatched_keys_are_a_warning_that_lists_some(pipeline: FluxPipeline, tmp_path: Path) -> None:
    (notice,) = pipeline.encode(job(loras=(lora(tmp_path, seed=4, extra=True),))).notices
    assert (notice.code, notice.field) == ("lora_keys_unmatched", "loras")
    assert "4.safetensors, 7 keys" in notice.message
    assert "text_encoder.layer0.lora_A.weight" in notice.message
    assert "and 2 more" in notice.message


def test_a_lora_of_another_model_is_a_422_on_loras(
    pipeline: FluxPipeline, make_engine: Callable[..., Engine], recorder: Recorder, tmp_path: Path
) -> None:
    engine = make_engine(pipeline)
    engine.start()
    engine.submit(job(loras=(lora(tmp_path, seed=1), lora(tmp_path, seed=5, wide=8))), "wrong")
    recorder.wait("wrong")
    failure = recorder.outcomes["wrong"]
    assert isinstance(failure, Failure)
    assert failure.status == 422
    (item,) = failure.body["detail"]
    assert item["loc"] == ["body", "loras", "1", "path"], "which of them it is"
    assert "https://loras.example/5.safetensors cannot be used with impasto-mini" in item["msg"]
    assert "for another model" in item["msg"]


def test_a_lora_is_read_once_and_the_least_recently_used_goes_first(loaded: flux.Pipeline, tmp_path: Path) -> None:
    first, second, third = (lora(tmp_path, seed=seed) for seed in (6, 7, 8))
    loras = Loras(loaded, Bounds(kept=int(2.5 * loaded.read_lora(Path(first.path)).nbytes)))
    for each in (first, second, first, third):  # the third drives out the second
        loras.apply((each,))
    for each in (first, second, third):
        Path(each.path).unlink()
    loras.apply((first, third))
    with pytest.raises(ServiceUnavailable, match="no longer on this machine"):
        loras.apply((second,))


def test_a_pickle_under_another_name_is_refused(loaded: flux.Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x80\x04" + b"x" * 100)
    with pytest.raises(ModelError, match=r"https://loras\.example/a cannot be used"):
        Loras(loaded).apply((LoraInput(path=str(path), digest="d", scale=1.0, name="https://loras.example/a"),))


def test_onetrainers_split_layers_draw_the_bytes_of_the_peft_file(pipeline: FluxPipeline, tmp_path: Path) -> None:
    d, m = IMPASTO_MINI.transformer.hidden_size, IMPASTO_MINI.transformer.mlp_hidden_size
    names = {"attn.to_q": 0, "attn.to_k": 1, "attn.to_v": 2, "proj_mlp": 3}
    generator = torch.Generator().manual_seed(9)
    files: dict[str, dict[str, torch.Tensor]] = {"peft": {}, "split": {}}
    for name, part in sorted(names.items()):
        down = torch.randn(4, d, generator=generator) * 0.05
        up = torch.randn(m if part == 3 else d, 4, generator=generator) * 0.05
        theirs, ours = f"transformer.single_transformer_blocks.1.{name}", f"transformer.single_blocks.1.linear1.{part}"
        files["peft"] |= {f"{theirs}.lora_A.weight": down, f"{theirs}.lora_B.weight": up}
        files["split"] |= {
            f"{ours}.lora_down.weight": down,
            f"{ours}.lora_up.weight": up,
            f"{ours}.alpha": torch.tensor(4.0),
        }
    drawn: dict[str, bytes] = {}
    for name, tensors in files.items():
        save_file(tensors, tmp_path / name)
        given = LoraInput(path=str(tmp_path / name), digest=name, scale=1.0, name=name)
        drawn[name] = solo(pipeline, job(loras=(given,), steps=2)).tobytes()
    assert drawn["split"] == drawn["peft"]
    assert drawn["split"] != solo(pipeline, job(steps=2)).tobytes()


def test_the_loras_of_a_request_are_bound_together_before_one_is_read(loaded: flux.Pipeline, tmp_path: Path) -> None:
    first, second = (lora(tmp_path, seed=seed) for seed in (11, 12))
    one = loaded.plan_lora(Path(first.path)).float_bytes
    assert Loras(loaded, Bounds(together=2 * one)).apply((first, second)).sides
    for given in ((first, second), (first, first)):
        with pytest.raises(ModelError, match=r"setting model\.loras_mb") as caught:
            Loras(loaded, Bounds(together=2 * one - 1)).apply(given)
        assert caught.value.status == 422
        assert caught.value.items[0]["loc"] == ["body", "loras", "1", "path"]
    with pytest.raises(ModelError, match=r"setting model\.lora_mb") as caught:
        Loras(loaded, Bounds(each=Limits(float_bytes=one - 1))).apply((first,))
    assert caught.value.items[0]["loc"] == ["body", "loras", "0", "path"]


def test_bounds_follow_from_the_memory_plan_unless_they_are_set() -> None:
    mib, gib = 2**20, 2**30
    small = Bounds.of(ModelSettings(), parameters=25_000_000, free=100 * gib)
    assert (small.each.float_bytes, small.together) == (100_000_000, 200_000_000), "the model's own weights"
    large = Bounds.of(ModelSettings(), parameters=12_000_000_000, free=8 * gib)
    assert (large.each.float_bytes, large.together, large.kept) == (2 * gib, 2 * gib, 2 * gib), "a quarter of the room"
    tight = Bounds.of(ModelSettings(), parameters=25_000_000, free=0)
    assert (tight.each.float_bytes, tight.together, tight.kept) == (64 * mib, 64 * mib, 64 * mib)
    said = Bounds.of(ModelSettings(lora_mb=3, loras_mb=5, lora_rank=7, lora_tensors=9), parameters=1, free=gib)
    assert (said.each, said.together) == (Limits(float_bytes=3 * mib, rank=7, tensors=9), 5 * mib)
