"""What distilling changed: read back beside the weights that it belongs to, and refused where it does not fit them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from impasto.errors import ModelUnavailable, WeightsError
from impasto.flux import weights
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import EMBEDDED, locate
from impasto.flux.distillation import Distilled, difference, read
from impasto.flux.models import IMPASTO_MINI, distilled
from impasto.flux.pipeline import Pipeline
from impasto.flux.stored import InMemory
from impasto.flux.transformer import Flux
from impasto.training.assets import write_config

SMALL = replace(
    IMPASTO_MINI.transformer, hidden_size=64, num_heads=2, axes_dim=(8, 12, 12), depth=1, depth_single_blocks=1
)
LAYER = "single_blocks.0.linear2"


@pytest.fixture
def base() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Flux(SMALL).state_dict()


@pytest.fixture
def tuned(base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base with an embedder and everything else a little changed."""
    torch.manual_seed(1)
    made = Flux(replace(SMALL, guidance_embed=True)).state_dict()
    return made | {key: tensor + 0.02 * torch.randn(tensor.shape) for key, tensor in base.items()}


@pytest.fixture
def merged(base: dict[str, Tensor], tmp_path: Path) -> Callable[[Mapping[str, Tensor]], Distilled]:
    """A change, written to a file and read back beside the base."""

    def read_back(change: Mapping[str, Tensor]) -> Distilled:
        save_file(dict(change), tmp_path / "change.safetensors")
        return read(InMemory(base), tmp_path / "change.safetensors")

    return read_back


Merged = Callable[[Mapping[str, Tensor]], Distilled]


def test_the_changed_weights_come_back_from_half_the_bytes(
    base: dict[str, Tensor], tuned: dict[str, Tensor], merged: Merged
) -> None:
    change = difference(base, tuned)
    assert sum(tensor.nbytes for tensor in change.values()) < 0.6 * sum(2 * tensor.numel() for tensor in tuned.values())
    found = merged(change)
    assert set(found) == set(tuned)
    for key, tensor in tuned.items():
        assert found.shape(key) == tuple(tensor.shape)
        coarse = key not in base or tensor.ndim != 2  # in bf16
        assert torch.allclose(found[key].float(), tensor, rtol=1e-2 if coarse else 0, atol=4e-4), key
    assert f"{LAYER}.diff.weight" in change
    assert f"{LAYER}.weight" not in change


def test_a_model_is_built_of_it(tuned: dict[str, Tensor], base: dict[str, Tensor], merged: Merged) -> None:
    params = replace(SMALL, guidance_embed=True)
    model = weights.build(lambda: Flux(params), merged(difference(base, tuned)), name="it")
    assert model.guidance_in is not None
    assert model.single_blocks[0].linear2.weight.dtype is torch.float32


def test_what_did_not_change_takes_no_bytes(base: dict[str, Tensor]) -> None:
    tuned = base | {f"{LAYER}.bias": base[f"{LAYER}.bias"] + 1}
    assert set(difference(base, tuned)) == {f"{LAYER}.bias"}


def test_a_row_that_did_not_change_is_left_as_it_is(base: dict[str, Tensor], merged: Merged) -> None:
    key = f"{LAYER}.weight"
    changed = base[key].clone()
    changed[1:] += 1.0
    found = merged(difference(base, base | {key: changed}))[key]
    assert torch.equal(found[0], base[key][0])
    assert torch.allclose(found[1:], changed[1:], atol=1e-2)


@pytest.mark.parametrize(
    "broken",
    [
        {f"{LAYER}.diff.weight": torch.zeros(64, 5)},
        {f"{LAYER}.diff.weight": torch.zeros(64)},
        {f"{LAYER}.weight": torch.zeros(64, 320)},
        {"elsewhere.diff.weight": torch.zeros(8, 8)},
    ],
)
def test_a_change_that_is_not_this_models_is_refused(
    base: dict[str, Tensor], tuned: dict[str, Tensor], merged: Merged, broken: dict[str, Tensor]
) -> None:
    with pytest.raises(WeightsError, match=r"change\.safetensors.*diff.*fits no .*weight of the weights beside it"):
        merged(difference(base, tuned) | broken)


def test_a_tensor_that_the_model_has_no_place_for_is_named_by_the_strict_check(merged: Merged) -> None:
    with pytest.raises(WeightsError, match=r"unexpected \(1\): more\.weight"):
        weights.build(lambda: Flux(SMALL), merged({"more.weight": torch.zeros(3)}), name="it")


# ---------------------------------------------------------------- in a checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's folder with a random transformer that was distilled."""
    path = tmp_path_factory.mktemp("checkpoint") / IMPASTO_MINI.name
    path.mkdir()
    torch.manual_seed(0)
    base, tuned = (Flux(spec.transformer).state_dict() for spec in (IMPASTO_MINI, distilled(IMPASTO_MINI)))
    save_file(base, path / IMPASTO_MINI.file("transformer"))
    save_file(difference(base, tuned), path / IMPASTO_MINI.file("distillation"))
    save_file(Autoencoder(IMPASTO_MINI.autoencoder).state_dict(), path / "autoencoder.safetensors")
    for name in ("text_encoder.safetensors", "text_places.safetensors", "tokenizer.json", "upscaler.safetensors"):
        shutil.copyfile(EMBEDDED / IMPASTO_MINI.name / name, path / name)
    write_config(path, version="t", scale_factor=1.0, shift_factor=0.0)
    return path


def test_a_distilled_checkpoint_is_guided_in_one_pass(folder: Path) -> None:
    assert locate(folder).spec.guidance == "distilled"
    pipeline = Pipeline.load(folder, device="cpu")
    conditioning = pipeline.encode("a red apple")
    assert len(conditioning.txt) == 1, "no second pass"

    def latents(guidance: float) -> Tensor:
        steps = pipeline.denoise(conditioning, seed=1, index=0, height=96, width=128, steps=2, guidance=guidance)
        *_, last = steps
        return last.latents

    assert not torch.equal(latents(2.0), latents(5.0))


def test_without_its_file_it_is_guided_by_two(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / IMPASTO_MINI.name
    shutil.copytree(folder, plain, ignore=shutil.ignore_patterns("guidance.safetensors"))
    with pytest.raises(ModelUnavailable, match=r"guidance\.safetensors"):
        locate(plain).verify()
    write_config(plain, version="t", scale_factor=1.0, shift_factor=0.0)
    assert locate(plain).spec.guidance == "cfg"
    assert len(Pipeline.load(plain, device="cpu").encode("a red apple").txt) == 2
