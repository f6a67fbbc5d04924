"""What distilling changed: read back beside the weights that it belongs to, and refused where it does not fit them."""

from __future__ import annotations

import shutil
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
from impasto.flux.distillation import DOWN, UP, Distilled, difference, read
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
    """The base with an embedder, other biases and, in every matrix, a change of rank 3."""
    torch.manual_seed(1)
    made = Flux(replace(SMALL, guidance_embed=True)).state_dict()
    for key, tensor in base.items():
        out, width = tensor.shape if tensor.ndim == 2 else (0, 0)
        change = 0.1 * torch.randn(out, 3) @ torch.randn(3, width) if out else 0.01 * torch.randn(tensor.shape)
        made[key] = tensor + change
    return made


def merged(base: dict[str, Tensor], change: dict[str, Tensor]) -> Distilled:
    return Distilled(InMemory(base), InMemory(change), name="it")


def test_a_change_of_few_ranks_comes_back_from_less_than_half_the_bytes(
    base: dict[str, Tensor], tuned: dict[str, Tensor]
) -> None:
    change = difference(base, tuned, rank=4)
    assert sum(t.numel() for t in change.values()) < 0.5 * sum(t.numel() for t in tuned.values())
    found = merged(base, change)
    assert set(found) == set(tuned)
    for key, tensor in tuned.items():
        assert found.shape(key) == tuple(tensor.shape)
        assert torch.allclose(found[key], tensor, atol=1e-4), key
    assert f"{LAYER}{DOWN}" in change
    assert f"{LAYER}.weight" not in change


def test_what_did_not_change_takes_no_bytes(base: dict[str, Tensor]) -> None:
    tuned = base | {f"{LAYER}.bias": base[f"{LAYER}.bias"] + 1}
    assert set(difference(base, tuned, rank=4)) == {f"{LAYER}.bias"}


def test_a_rank_that_saves_nothing_keeps_the_matrix_whole(base: dict[str, Tensor], tuned: dict[str, Tensor]) -> None:
    change = difference(base, tuned, rank=10_000)
    assert not any(key.endswith((DOWN, UP)) for key in change)
    assert all(torch.equal(merged(base, change)[key], tensor) for key, tensor in tuned.items())


def test_a_change_that_is_too_much_for_its_rank_is_the_nearest_of_that_rank(base: dict[str, Tensor]) -> None:
    torch.manual_seed(2)
    key = f"{LAYER}.weight"
    wanted = torch.randn(base[key].shape)
    got = merged(base, difference(base, base | {key: base[key] + wanted}, rank=4))[key] - base[key]
    u, s, vh = torch.linalg.svd(wanted, full_matrices=False)
    assert torch.allclose(got, (u[:, :4] * s[:4]) @ vh[:4], atol=1e-3)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({f"{LAYER}{UP}": None}, "half of a layer's change is missing"),
        ({f"{LAYER}{DOWN}": None}, "half of a layer's change is missing"),
        ({f"{LAYER}{UP}": torch.zeros(64, 5)}, "does not fit"),
        ({f"{LAYER}{UP}": torch.zeros(63, 4)}, "does not fit"),
        ({f"{LAYER}{DOWN}": torch.zeros(4)}, "does not fit"),
        ({f"{LAYER}.weight": torch.zeros(64, 320)}, "does not fit"),
        ({f"elsewhere{DOWN}": torch.zeros(4, 8), f"elsewhere{UP}": torch.zeros(8, 4)}, "does not fit elsewhere.weight"),
    ],
)
def test_a_change_that_is_not_this_models_is_refused(
    base: dict[str, Tensor], tuned: dict[str, Tensor], tmp_path: Path, broken: dict[str, Tensor | None], said: str
) -> None:
    change = difference(base, tuned, rank=4) | broken
    file = tmp_path / "change.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in change.items() if tensor is not None}, file)
    with pytest.raises(WeightsError, match=rf"change\.safetensors.*{said}"):
        read(InMemory(base), file)


def test_a_tensor_that_the_model_has_no_place_for_is_named_by_the_strict_check(base: dict[str, Tensor]) -> None:
    found = merged(base, {"more.weight": torch.zeros(3)})
    with pytest.raises(WeightsError, match=r"unexpected \(1\): more\.weight"):
        weights.build(lambda: Flux(SMALL), found, name="it")


# ---------------------------------------------------------------- in a checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's folder with a random transformer that was distilled."""
    path = tmp_path_factory.mktemp("checkpoint") / IMPASTO_MINI.name
    path.mkdir()
    torch.manual_seed(0)
    base, tuned = (Flux(spec.transformer).state_dict() for spec in (IMPASTO_MINI, distilled(IMPASTO_MINI)))
    save_file(base, path / IMPASTO_MINI.file("transformer"))
    change = {key: tensor.contiguous() for key, tensor in difference(base, tuned, rank=16).items()}
    save_file(change, path / IMPASTO_MINI.file("distillation"))
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
