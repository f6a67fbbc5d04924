"""What the pipeline promises: steps, sizes, determinism, guidance, and errors that help."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from impasto.errors import ModelUnavailable, WeightsError
from impasto.flux.box import Box
from impasto.flux.models import IMPASTO_MINI
from impasto.flux.pipeline import Pipeline, Pixels, Step

SIZES = [
    (512, 512),
    (1024, 1024),
    (1024, 768),
    (1024, 576),
    (768, 1024),
    (576, 1024),
    (2048, 512),
    (600, 500),
    (96, 64),
]


def draw(
    pipeline: Pipeline, prompt: str = "a red fox", *, height: int = 64, width: int = 64, **kwargs: float
) -> Pixels:
    arguments = {"seed": 7, "index": 0, "steps": 3, "guidance": 3.5} | kwargs
    *_, last = pipeline.denoise(pipeline.encode(prompt), height=height, width=width, **arguments)
    return pipeline.decode(last.latents, height=height, width=width)


def test_denoise_yields_exactly_the_asked_steps_down_to_sigma_zero(pipeline: Pipeline) -> None:
    steps = list(pipeline.denoise(pipeline.encode("a cat"), seed=1, index=0, height=512, width=512, steps=5))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert {step.total for step in steps} == {5}
    sigmas = [step.sigma for step in steps]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[-1] == 0.0
    assert steps[0].latents.shape == (1, 16, 32, 32)


def test_the_default_number_of_steps_is_the_models(pipeline: Pipeline) -> None:
    steps = list(pipeline.denoise(pipeline.encode("a cat"), seed=1, index=0, height=64, width=64))
    assert len(steps) == IMPASTO_MINI.default_steps


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_decode_returns_exactly_the_asked_size(pipeline: Pipeline, width: int, height: int) -> None:
    native = pipeline.spec.native_size.native(height, width)
    pixels = pipeline.decode(torch.randn(1, 16, native[0] // 8, native[1] // 8), height=height, width=width)
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8


def test_the_same_request_gives_the_same_bytes(pipeline: Pipeline) -> None:
    assert draw(pipeline).tobytes() == draw(pipeline).tobytes()


@pytest.mark.parametrize("change", [{"seed": 8}, {"index": 1}, {"steps": 4}, {"guidance": 1.0}, {"guidance": 5.0}])
def test_every_argument_counts(pipeline: Pipeline, change: dict[str, float]) -> None:
    assert draw(pipeline).tobytes() != draw(pipeline, **change).tobytes()


def test_the_prompt_counts(pipeline: Pipeline) -> None:
    assert draw(pipeline).tobytes() != draw(pipeline, "a blue boat").tobytes()


def test_interleaved_samples_equal_samples_drawn_alone(pipeline: Pipeline) -> None:
    alone = [draw(pipeline, prompt, index=i) for i, prompt in enumerate(("a red fox", "a boat", "a red fox"))]
    running: list[Iterator[Step]] = [
        pipeline.denoise(pipeline.encode(p), seed=7, index=i, height=64, width=64, steps=3, guidance=3.5)
        for i, p in enumerate(("a red fox", "a boat", "a red fox"))
    ]
    for _ in range(3):
        last = [next(sample) for sample in running]
        last[0].preview()
    together = [pipeline.decode(step.latents, height=64, width=64) for step in last]
    assert [pixels.tobytes() for pixels in together] == [pixels.tobytes() for pixels in alone]


def test_guidance_is_the_published_combination_of_two_passes(pipeline: Pipeline) -> None:
    """After one step from sigma 1 to 0 the latents are linear in the guidance scale: g = 1 is the prompt alone."""

    def one_step(guidance: float) -> torch.Tensor:
        arguments = {"seed": 3, "index": 0, "height": 64, "width": 64, "steps": 1}
        (step,) = pipeline.denoise(pipeline.encode("a fox"), guidance=guidance, **arguments)
        return step.latents

    one, two, three = one_step(1.0), one_step(2.0), one_step(3.0)
    assert (two - one).abs().max() > 1e-3
    torch.testing.assert_close(three - two, two - one, rtol=1e-4, atol=1e-4)


def test_the_last_preview_is_the_picture_itself(pipeline: Pipeline) -> None:
    *_, last = pipeline.denoise(pipeline.encode("a cat"), seed=1, index=0, height=576, width=1024, steps=2)
    preview = last.preview()
    assert preview.shape == (144, 256, 3)
    small = pipeline.decode(last.latents, height=144, width=256)
    assert np.abs(preview.astype(int) - small.astype(int)).max() <= 1


def test_encode_counts_tokens_and_says_when_a_prompt_was_cut(pipeline: Pipeline) -> None:
    short, long = pipeline.encode("a red apple"), pipeline.encode("very " * 50 + "old tree")
    assert (short.tokens, short.truncated) == (5, False)
    assert (long.tokens, long.truncated) == (32, True)
    assert short.txt.shape == (2, 32, 384)
    assert short.vec.shape == (2, 384)
    assert short.txt[0, 5:].abs().max() == 0


def test_a_prompt_is_encoded_alike_whatever_else_is_encoded(pipeline: Pipeline) -> None:
    first = pipeline.encode("a red apple")
    pipeline.encode("something else entirely")
    assert torch.equal(first.txt, pipeline.encode("a red apple").txt)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_box_has_the_asked_ratio_and_lies_inside(width: int, height: int) -> None:
    native = IMPASTO_MINI.native_size.native(height, width)
    box = Box.within(*native, height=height, width=width)
    assert (box.right - box.left) / (box.bottom - box.top) == pytest.approx(width / height)
    assert min(box.top, box.left) >= 0
    assert box.bottom <= native[0]
    assert box.right <= native[1]


def test_a_model_that_does_not_come_along_names_its_files() -> None:
    with pytest.raises(ModelUnavailable, match=r"flux1-dev\.safetensors, ae\.safetensors"):
        Pipeline.load("flux.1-dev")


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ModelUnavailable, match="impasto-mini"):
        Pipeline.load("no-such-model")


def test_an_empty_checkpoint_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "flux1-schnell.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"flux1-schnell\.safetensors: not a safetensors file: it is empty"):
        Pipeline.load(tmp_path)


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "upscaler.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="no upscaler in"):
        Pipeline.load(tmp_path / "copy")


def test_a_changed_file_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "transformer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(WeightsError, match=r"transformer\.safetensors: SHA-256 is"):
        Pipeline.load(tmp_path / "copy")


def test_an_incomplete_config_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "config.json"
    config = json.loads(file.read_text())
    del config["autoencoder"]["scale_factor"]
    file.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"config\.json: needs version, autoencoder\.scale_factor"):
        Pipeline.load(tmp_path / "copy")
