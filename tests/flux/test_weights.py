"""Loading is strict and explains itself; the encoder and the upscaler are what their sources say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from impasto.errors import ConfigError, ModelUnavailable, WeightsError
from impasto.flux import checkpoint, checks, precision, weights
from impasto.flux.models import IMPASTO_MINI
from impasto.flux.text import MiniLMTextEncoder
from impasto.flux.upscale import Upscaler
from impasto.training.assets import write_config

SHIPPED = checkpoint.EMBEDDED / IMPASTO_MINI.name


@pytest.fixture(scope="module")
def encoder() -> MiniLMTextEncoder:
    return MiniLMTextEncoder.load(SHIPPED)


def test_a_report_names_everything_that_does_not_fit_at_once() -> None:
    tensors = {"weight": torch.zeros(3, 2), "extra": torch.zeros(5)}
    with pytest.raises(WeightsError) as caught:
        weights.build(lambda: nn.Linear(2, 4), tensors, name="part.safetensors")
    assert caught.value.message.splitlines() == [
        "part.safetensors: 2 tensors wanted, 2 found.",
        "  missing (1): bias [4]",
        "  unexpected (1): extra [5]",
        "  wrong shape (1): weight is [3, 2], must be [4, 2]",
    ]


def test_a_long_report_is_counted_not_listed() -> None:
    with pytest.raises(WeightsError, match=r"missing \(20\): .*, and 12 more"):
        weights.build(lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(10))), {}, name="x")


def test_a_built_module_holds_exactly_the_tensors_in_the_asked_dtype() -> None:
    tensors = {"weight": torch.randn(4, 2), "bias": torch.randn(4)}
    target = weights.Target(torch.device("cpu"), torch.bfloat16)
    module = weights.build(lambda: nn.Linear(2, 4), tensors, name="x", target=target)
    assert torch.equal(module.weight, tensors["weight"].bfloat16())
    assert not module.training
    assert not module.weight.requires_grad
    tensors["bias"].zero_()
    assert module.bias.abs().max() > 0, "the module must not share memory with the file"


def test_a_folder_of_shards_reads_as_one(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "m-00001-of-00002.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "m-00002-of-00002.safetensors")
    save_file({"c": torch.ones(3)}, tmp_path / "stray.safetensors")
    index = {"weight_map": {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors"}}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    assert set(weights.read(tmp_path)) == {"a", "b"}
    (tmp_path / "m-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"shards that are not there: m-00002-of-00002\.safetensors"):
        weights.read(tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"only \.safetensors"):
        weights.read(tmp_path / "model.pt")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match=r"x\.safetensors: not a complete safetensors file"):
        weights.read(path)


def test_nothing_there_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        weights.read(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"holds no \.safetensors"):
        weights.read(tmp_path)
    with pytest.raises(ModelUnavailable, match=r"neither a config\.json nor"):
        checkpoint.locate(tmp_path)


def test_verify_reads_every_file(folder: Path) -> None:
    assert checks.verify(folder).startswith("impasto-mini test: 6 files, ")


def test_a_checkpoint_from_before_places_were_read_needs_no_file_for_it(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.name not in {"text_places.safetensors", "config.json"}:
            shutil.copyfile(file, tmp_path / file.name)
    write_config(tmp_path, version="old", scale_factor=0.5, shift_factor=0.1)
    assert checks.verify(tmp_path).startswith("impasto-mini old: 5 files, ")
    assert MiniLMTextEncoder.load(tmp_path).places is None


def test_text_states_are_normalised_tokens_and_zeros(encoder: MiniLMTextEncoder) -> None:
    states = encoder.encode(["a red apple on a blue background", ""])
    assert states.counts == (9, 2)
    for i, count in enumerate(states.counts):
        tokens = states.txt[i, :count]
        torch.testing.assert_close(tokens.mean(-1), torch.zeros(count), rtol=0, atol=1e-5)
        torch.testing.assert_close(tokens.var(-1, correction=0), torch.ones(count), rtol=1e-3, atol=0)
        # not to the bit: a word of no place gets a trace of all of them
        torch.testing.assert_close(states.vec[i], tokens.mean(0), rtol=0, atol=1e-3)
        assert states.txt[i, count:].abs().max() == 0


def test_a_batch_encodes_what_each_prompt_alone_does(encoder: MiniLMTextEncoder) -> None:
    prompts = ["a red apple", "two cats under a tree, watercolour", ""]
    together = encoder.encode(prompts)
    for i, prompt in enumerate(prompts):
        torch.testing.assert_close(together.txt[i], encoder.encode([prompt]).txt[0], rtol=1e-4, atol=1e-4)


def test_text_states_know_what_words_mean(encoder: MiniLMTextEncoder) -> None:
    """The shipped weights are a language model's, not noise: a puppy is nearer to a dog than to a lorry."""
    vec = encoder.encode(["a puppy", "a dog", "a lorry"]).vec
    assert F.cosine_similarity(vec[0], vec[1], dim=0) > F.cosine_similarity(vec[0], vec[2], dim=0) + 0.1


def test_a_prompt_is_not_case_sensitive(encoder: MiniLMTextEncoder) -> None:
    assert torch.equal(encoder.encode(["A Red Apple"]).txt, encoder.encode(["a red apple"]).txt)


@torch.inference_mode()
def test_the_upscaler_sharpens_what_interpolation_blurs() -> None:
    """A disc, shrunk and upscaled again: it stays the same disc, and its edge is steeper than bicubic interpolation
    leaves it.
    """
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    disc = torch.sigmoid(80 - ((x - 120) ** 2 + (y - 130) ** 2).sqrt()).expand(1, 3, -1, -1)
    small = F.avg_pool2d(disc, 4)
    upscaler = weights.build(Upscaler, weights.read(SHIPPED / "upscaler.safetensors"), name="upscaler")
    ours, bicubic = upscaler(small), F.interpolate(small, scale_factor=4.0, mode="bicubic")
    assert (ours - disc).abs().mean() < 0.01
    assert steepness(ours) > 1.5 * steepness(bicubic)


def steepness(picture: torch.Tensor) -> float:
    return picture[0, 0, 130].diff().abs().max().item()


def test_bf16_is_chosen_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"avx2", "avx512f"}))
    assert precision.choose_dtype("cpu") == torch.float32
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"avx2", "avx512_bf16"}))
    assert precision.choose_dtype("cpu") == torch.bfloat16


def test_a_missing_gpu_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device cuda: .* Set model\.device to auto or cpu"):
        precision.choose_device("cuda")


def test_the_processor_is_asked() -> None:
    assert precision.cpu_features() <= {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
    assert precision.cores() >= 1
