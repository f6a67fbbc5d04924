"""The published checkpoints, at full size: files with their keys, shapes and bytes, but holes instead of numbers.

Keys, sizes and configurations of [dev], [schnell], Fill and Depth are those of the published index files (see
`fixtures/published.json`). Canny, Kontext, Krea, Redux, CLIP and the autoencoder are derived: from Depth's and [dev]'s
configuration, and from the configurations of transformers and diffusers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import CLIPTextConfig, CLIPTextModel, SiglipVisionConfig, SiglipVisionModel, T5Config, T5EncoderModel

from impasto.errors import ModelUnavailable, WeightsError
from impasto.flux import keys
from impasto.flux.checkpoint import locate
from impasto.flux.checks import dry_load, verify
from impasto.flux.models import FLUX1_DEV, MODELS, ModelSpec
from impasto.flux.shapes import cut_down

from ..checkpoints import clip_published, t5_published

FIXTURES = Path(__file__).parent / "fixtures"
PUBLISHED: dict[str, dict[str, Any]] = json.loads((FIXTURES / "published.json").read_text())["published"]
TRANSFORMER_KEYS = (FIXTURES / "transformer_keys.txt").read_text().splitlines()
T5_KEYS = (FIXTURES / "t5_keys.txt").read_text().splitlines()
GUIDANCE = "time_text_embed.guidance_embedder."

LIKE = {  # which published configuration a model has; the last three are derived
    "flux.1-dev": "dev",
    "flux.1-schnell": "schnell",
    "flux.1-fill-dev": "Fill-dev",
    "flux.1-depth-dev": "Depth-dev",
    "flux.1-canny-dev": "Depth-dev",
    "flux.1-kontext-dev": "dev",
    "flux.1-krea-dev": "dev",
}
SPECS = [MODELS[name] for name in LIKE]
every_model = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)

Shapes = dict[str, tuple[int, ...]]


def shapes_of(state: Mapping[str, torch.Tensor]) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@cache
def transformer(name: str) -> Shapes:
    config = {key: value for key, value in PUBLISHED[name]["config"].items() if not key.startswith("_")}
    with torch.device("meta"):
        return shapes_of(FluxTransformer2DModel(**config).state_dict())


@cache
def others() -> dict[str, Shapes]:
    """Autoencoder, CLIP-L, T5-XXL, SigLIP and Redux as their libraries make them from the published configurations."""
    vae = {key: value for key, value in PUBLISHED["dev"]["vae"].items() if not key.startswith("_")}
    with torch.device("meta"):
        t5 = T5EncoderModel(
            T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                     feed_forward_proj="gated-gelu", tie_word_embeddings=False)
        )  # fmt: skip
        clip = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
        siglip = SiglipVisionModel(
            SiglipVisionConfig(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
                               image_size=384, patch_size=14)
        )  # fmt: skip
        return {
            "vae": shapes_of(AutoencoderKL(**vae).state_dict()),
            "t5": shapes_of(t5_published(t5.state_dict())),
            "clip": shapes_of(clip_published(clip.state_dict())),
            "image_encoder": {f"vision_model.{key.removeprefix('vision_model.')}": shape
                              for key, shape in shapes_of(siglip.state_dict()).items()},
            "redux": shapes_of(ReduxImageEncoder().state_dict()),
        }  # fmt: skip


def hollow(path: Path, tensors: Shapes, *, dtype: str = "BF16", size: int = 2) -> None:
    """A safetensors file of the true length whose numbers are a hole in the file: it takes no space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header, end = dict[str, Any](), 0
    for key, shape in tensors.items():
        start, end = end, end + size * math.prod(shape)
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def hollow_diffusers(folder: Path, name: str) -> None:
    """The folder as published: the transformer in three shards with its index, configurations beside."""
    tensors, published = transformer(name), PUBLISHED[name]
    shards = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    split = {shard: dict(list(tensors.items())[i::3]) for i, shard in enumerate(shards)}
    for shard, part in split.items():
        hollow(folder / "transformer" / shard, part)
    index = {"weight_map": {key: shard for shard, part in split.items() for key in part}}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "transformer" / "config.json").write_text(json.dumps(published["config"]))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": published["pipeline"]}))
    hollow(folder / "vae" / "diffusion_pytorch_model.safetensors", others()["vae"])
    (folder / "vae" / "config.json").write_text(json.dumps(published["vae"]))
    hollow_encoders(folder)


def hollow_encoders(folder: Path) -> None:
    hollow(folder / "text_encoder" / "model.safetensors", others()["clip"])
    t5 = others()["t5"]
    for i in (1, 2):
        hollow(folder / "text_encoder_2" / f"model-0000{i}-of-00002.safetensors", dict(list(t5.items())[i - 1 :: 2]))


def hollow_single(folder: Path, spec: ModelSpec, *, dtype: str = "BF16", size: int = 2) -> Path:
    hollow(folder / spec.files[0].name, bfl(spec), dtype=dtype, size=size)
    hollow(folder / "ae.safetensors", bfl_autoencoder(), dtype="F32", size=4)
    hollow_encoders(folder)
    return folder / spec.files[0].name


def bfl(spec: ModelSpec) -> Shapes:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in transformer(LIKE[spec.name]).items()}
    return shapes_of(keys.from_diffusers(tensors, keys.transformer_rows(spec.transformer)))


def bfl_autoencoder() -> Shapes:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in others()["vae"].items()}
    return shapes_of(keys.from_diffusers(tensors, keys.autoencoder_rows(FLUX1_DEV.autoencoder)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_has_the_published_keys_and_bytes(name: str) -> None:
    """What the test below is made from is itself what was published."""
    expected = [key for key in TRANSFORMER_KEYS if name != "schnell" or not key.startswith(GUIDANCE)]
    assert sorted(transformer(name)) == expected
    assert 2 * sum(map(math.prod, transformer(name).values())) == PUBLISHED[name]["transformer_bytes"]
    assert sorted(others()["t5"]) == T5_KEYS
    width = 4 if name == "Depth-dev" else 2  # Depth's repository keeps T5 in float32
    assert width * sum(map(math.prod, others()["t5"].values())) == PUBLISHED[name]["t5_bytes"]


@every_model
def test_single_file_keys_are_those_that_diffusers_converts(spec: ModelSpec) -> None:
    """diffusers' own converter of BFL's files is the judge of BFL's key names."""
    single = {key: torch.empty(shape, device="meta") for key, shape in bfl(spec).items()}
    assert shapes_of(convert_flux_transformer_checkpoint_to_diffusers(single)) == transformer(LIKE[spec.name])
    autoencoder = {key: torch.empty(shape, device="meta") for key, shape in bfl_autoencoder().items()}
    config = {key: value for key, value in PUBLISHED["dev"]["vae"].items() if not key.startswith("_")}
    assert shapes_of(convert_ldm_vae_checkpoint(autoencoder, config)) == others()["vae"]


@every_model
@pytest.mark.parametrize("layout", ["diffusers", "single"])
def test_a_full_size_checkpoint_loads_dry(spec: ModelSpec, layout: str, tmp_path: Path) -> None:
    folder = tmp_path / spec.name
    if layout == "diffusers":
        hollow_diffusers(folder, LIKE[spec.name])
        found = locate(folder)
    else:
        found = locate(hollow_single(folder, spec))
    assert found.spec.name == spec.name
    assert found.spec.transformer == spec.transformer
    assert found.spec.autoencoder == FLUX1_DEV.autoencoder
    parts = {part.role: part for part in dry_load(found)}
    assert parts["transformer"].size == PUBLISHED[LIKE[spec.name]]["transformer_bytes"]
    assert parts["t5"].size == PUBLISHED["dev"]["t5_bytes"]
    assert set(parts) == {"transformer", "autoencoder", "clip", "t5"}


def test_redux_beside_a_model_is_found_and_checked(tmp_path: Path) -> None:
    path = hollow_single(tmp_path, FLUX1_DEV)
    hollow(tmp_path / "flux1-redux-dev.safetensors", others()["redux"])
    hollow(tmp_path / "image_encoder" / "model.safetensors", others()["image_encoder"])
    parts = {part.role: part for part in dry_load(locate(path))}
    assert parts["redux"].size == 2 * (1152 * 12288 + 12288 + 12288 * 4096 + 4096)
    assert parts["image_encoder"].parameters > 400e6


def test_eight_bit_files_are_half_the_bytes(tmp_path: Path) -> None:
    path = hollow_single(tmp_path, FLUX1_DEV, dtype="F8_E4M3", size=1)
    assert dry_load(locate(path))[0].size * 2 == PUBLISHED["dev"]["transformer_bytes"]
    assert "complete" in verify(path)


def test_an_all_in_one_file_is_taken_apart(tmp_path: Path) -> None:
    parts = {"model.diffusion_model.": bfl(FLUX1_DEV), "vae.": bfl_autoencoder()}
    parts |= {"text_encoders.clip_l.transformer.": others()["clip"]}
    parts |= {"text_encoders.t5xxl.transformer.": others()["t5"]}
    whole = {prefix + key: shape for prefix, part in parts.items() for key, shape in part.items()}
    hollow(tmp_path / "flux1-dev-fp8.safetensors", whole, dtype="F8_E4M3", size=1)
    found = locate(tmp_path / "flux1-dev-fp8.safetensors")
    assert {part.path for part in dry_load(found)} == {tmp_path / "flux1-dev-fp8.safetensors"}


def test_a_file_with_holes_among_its_blocks_is_reported_not_taken_for_a_smaller_model(tmp_path: Path) -> None:
    path = hollow_single(tmp_path, FLUX1_DEV)
    gone = ("double_blocks.3.", "double_blocks.7.")
    hollow(path, {key: shape for key, shape in bfl(FLUX1_DEV).items() if not key.startswith(gone)})
    with pytest.raises(WeightsError, match=r"blocks are missing between others: double_blocks\.3, double_blocks\.7\."):
        locate(path)


@pytest.mark.parametrize("cut", [(8, 38), (8, 10), (19, 1)])
def test_contiguous_blocks_are_a_model_that_was_cut_down(cut: tuple[int, int], tmp_path: Path) -> None:
    """As two published ones, of 8 double blocks."""
    path = hollow_single(tmp_path, FLUX1_DEV)
    small = replace(FLUX1_DEV.transformer, depth=cut[0], depth_single_blocks=cut[1])
    gone = (*(f"double_blocks.{i}." for i in range(cut[0], 19)), *(f"single_blocks.{i}." for i in range(cut[1], 38)))
    hollow(path, {key: shape for key, shape in bfl(FLUX1_DEV).items() if not key.startswith(gone)})
    found = locate(path)
    assert found.spec.transformer == small
    assert f"{cut[0]} of 19 double blocks and {cut[1]} of 38 single blocks" in cut_down(small)
    assert cut_down(FLUX1_DEV.transformer) == ""
    assert [part.role for part in dry_load(found)] == ["transformer", "autoencoder", "clip", "t5"]


def test_what_does_not_fit_is_reported_whole(tmp_path: Path) -> None:
    path = hollow_single(tmp_path, FLUX1_DEV)
    tensors = {
        key: shape
        for key, shape in bfl(FLUX1_DEV).items()
        if not key.startswith("single_blocks.37.") or key == "single_blocks.37.linear1.bias"
    }
    tensors["txt_in.weight"] = (3072, 4095)
    hollow(path, tensors | {"model_ema.decay": (1,)})
    with pytest.raises(WeightsError) as caught:
        dry_load(locate(path))
    report = caught.value.message.splitlines()
    assert report[0].endswith("flux1-dev.safetensors: 780 tensors wanted, 774 found.")
    assert report[1].startswith("  missing (7): single_blocks.37.")
    assert report[2] == "  unexpected (1): model_ema.decay [1]"
    assert report[3] == "  wrong shape (1): txt_in.weight is [3072, 4095], must be [3072, 4096]"


def test_a_missing_text_encoder_says_where_it_is_looked_for(tmp_path: Path) -> None:
    path = hollow_single(tmp_path, FLUX1_DEV)
    for file in (tmp_path / "text_encoder_2").iterdir():
        file.unlink()
    (tmp_path / "text_encoder_2").rmdir()
    with pytest.raises(ModelUnavailable, match=r"no t5 in .*text_encoder_2 or t5xxl\*\.safetensors"):
        dry_load(locate(path))
