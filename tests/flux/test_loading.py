"""How weights get from files into modules: eight-bit files, shards, pickles, and never twice the memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from impasto import models
from impasto.errors import ModelUnavailable, WeightsError
from impasto.flux import weights
from impasto.flux.checkpoint import locate
from impasto.flux.checks import dry_load
from impasto.flux.models import FLUX1_CANNY, FLUX1_DEV, FLUX1_FILL, FLUX1_KONTEXT, FLUX1_SCHNELL, ModelSpec
from impasto.flux.pipeline import Pipeline
from impasto.flux.stored import StoredFile, open_stored
from impasto.settings import Settings

from ..checkpoints import Made, made, save, write_diffusers, write_single


@pytest.fixture(scope="module")
def parts() -> Made:
    return made()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
def test_narrow_files_hold_what_their_numbers_say(parts: Made, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_single(tmp_path, parts, name="x.safetensors", dtype=dtype)
    loaded = weights.load_transformer(locate(path), weights.CPU).state_dict()
    for key, tensor in parts.bfl().items():
        assert torch.equal(loaded[key], tensor.to(dtype).float()), key


@pytest.mark.parametrize("suffix", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("rows", [False, True])
def test_an_eight_bit_weight_is_scaled_by_the_scale_beside_it(
    parts: Made, suffix: str, rows: bool, tmp_path: Path
) -> None:
    wide = parts.bfl()
    tensors: dict[str, torch.Tensor] = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key, tensor in wide.items():
        if key.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.abs().amax(1) / 448 if rows else tensor.abs().max() / 448
            narrow = tensor / (scale[:, None] if rows else scale)
            tensors[key] = narrow.to(torch.float8_e4m3fn)
            tensors[key.removesuffix("weight") + suffix] = scale
            tensors[key.removesuffix("weight") + "scale_input"] = torch.ones(())
        else:
            tensors[key] = tensor
    path = write_single(tmp_path, parts, name="x.safetensors")
    save_file(tensors, path)
    loaded = weights.load_transformer(locate(path), weights.CPU).state_dict()
    for key, tensor in wide.items():
        error = (loaded[key] - tensor).norm() / tensor.norm()
        assert error < 0.04, f"{key}: e4m3 keeps four bits"


def test_a_marker_of_the_format_is_read_and_no_weight(parts: Made, tmp_path: Path) -> None:
    """What ComfyUI writes today beside an eight-bit weight and its scale."""
    path = write_single(tmp_path, parts, name="x.safetensors")
    wide = parts.bfl()
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in wide.items():
        layer = key.removesuffix(".weight")
        if layer != key and tensor.ndim == 2:
            scale = tensor.abs().max() / 448
            tensors[key], tensors[f"{layer}.weight_scale"] = (tensor / scale).to(torch.float8_e4m3fn), scale
            tensors[f"{layer}.comfy_quant"] = said(b'{"format": "float8_e4m3fn"}')
        else:
            tensors[key] = tensor
    for prefix in ("", "model.diffusion_model."):
        save_file({prefix + key: tensor for key, tensor in tensors.items()}, path)
        loaded = weights.load_transformer(locate(path), weights.CPU).state_dict()
        assert all((loaded[key] - tensor).norm() < 0.04 * tensor.norm() for key, tensor in wide.items())
    for text, complaint in ((b'{"format": "nvfp4"}', "says 'nvfp4'; .*float8_e4m3fn"), (b"[]", "not say a format")):
        save_file(tensors | {"img_in.comfy_quant": said(text)}, path)
        with pytest.raises(WeightsError, match=f"img_in.comfy_quant .*{complaint}"):
            locate(path)


def said(text: bytes) -> torch.Tensor:
    return torch.tensor(list(text), dtype=torch.uint8)


@pytest.mark.parametrize(
    "spec", [FLUX1_DEV, FLUX1_SCHNELL, FLUX1_FILL, FLUX1_CANNY, FLUX1_KONTEXT], ids=lambda spec: spec.name
)
@pytest.mark.parametrize("layout", ["single", "diffusers"])
def test_a_checkpoint_tells_what_it_is(spec: ModelSpec, layout: str, tmp_path: Path) -> None:
    it = made(spec)
    word = spec.name.split("-")[1]
    if layout == "single":
        found = locate(write_single(tmp_path, it, name=f"my-{word}.safetensors"))
    else:
        found = locate(write_diffusers(tmp_path / f"my-{word}", it))
    assert found.spec == it.small


def test_a_single_file_may_have_diffusers_keys(parts: Made, tmp_path: Path) -> None:
    """As SRPO is published."""
    write_single(tmp_path, parts, name="x.safetensors").unlink()
    save(tmp_path / "diffusion_pytorch_model.safetensors", parts.transformer.state_dict(), torch.float32)
    for path in (tmp_path, tmp_path / "diffusion_pytorch_model.safetensors"):
        found = locate(path)
        assert found.spec == parts.small
        assert len(dry_load(found)) == 4
        loaded = weights.load_transformer(found, weights.CPU).state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in parts.bfl().items())


def test_a_truncated_file_names_the_first_bad_key(parts: Made, tmp_path: Path) -> None:
    path = write_single(tmp_path, parts, name="x.safetensors")
    first = min(StoredFile(path).entries.items(), key=lambda item: item[1].start)[0]
    with path.open("r+b") as file:
        file.truncate(StoredFile(path).entries[first].end - 1)
    with pytest.raises(WeightsError, match=f"x.safetensors: not a complete safetensors file: it ends inside {first}"):
        open_stored(path)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"{}x", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "a .2. does not have the bytes"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}', "a .-1. does not have the bytes"),
        (b'{"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}}', "a has dtype Q4"),
        (b'{"a": {"shape": [1]}}', "entry for a is damaged"),
    ],
)
def test_a_damaged_header_is_explained(header: bytes, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(WeightsError, match=complaint):
        open_stored(file)


def test_pickles_are_refused_by_name(parts: Made, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"model\.ckpt: only \.safetensors"):
        locate(tmp_path / "model.ckpt")
    folder = write_diffusers(tmp_path / "flux", parts)
    for file in (folder / "text_encoder_2").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(WeightsError, match=r"text_encoder_2: model\.bin is a pickle"):
        dry_load(locate(folder))


def test_nothing_is_loaded_when_the_last_part_is_missing(parts: Made, tmp_path: Path) -> None:
    path = write_single(tmp_path, parts, name="x.safetensors")
    (tmp_path / "t5xxl_fp16.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="no t5"):
        Pipeline.load(path, device="cpu", dtype=torch.float32)


def test_loading_takes_the_models_memory_once(tmp_path: Path) -> None:
    """A process of its own, 512 MB of weights: the peak grows by these and less than half again, even with q, k and v
    fused on the way.
    """
    save_file({f"t.{i}": torch.ones(2**21, dtype=torch.float32) for i in range(64)}, tmp_path / "x.safetensors")
    code = f"""
import torch
from pathlib import Path
from torch import nn
from impasto.flux import keys, weights
from impasto.flux.stored import open_stored
class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.t = nn.ParameterList(nn.Parameter(torch.empty(2**23)) for _ in range(16))
rows = [keys.Row(f"t.{{i}}", tuple(f"t.{{4 * i + j}}" for j in range(4))) for i in range(16)]
def held(name): return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(name))
weights.build(lambda: nn.Linear(2, 2), {{"weight": torch.ones(2, 2), "bias": torch.ones(2)}}, name="first")
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
stored = keys.Converted(open_stored(Path({str(tmp_path / "x.safetensors")!r})), rows)
bag = weights.build(Bag, stored, name="bag")
assert bag.t[15].sum() == 2**23
print((held("VmHWM") - before) / (512 * 2**20))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) < 1.5


def cached(source: Path, hub: Path, repository: str) -> Path:
    """A repository's snapshot as huggingface_hub caches it: relative links to files that have a hash for a name."""
    snapshot, blobs = (hub / f"models--{repository.replace('/', '--')}" / part for part in ("snapshots/0a1b", "blobs"))
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(each for each in source.rglob("*") if each.is_file())):
        blob, link = blobs / f"{number:064x}", snapshot / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        file.rename(blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_snapshot_in_the_hubs_cache_is_a_folder_like_any_other(parts: Made, tmp_path: Path) -> None:
    source = write_single(tmp_path / "source", parts, name="flux1-dev.safetensors").parent
    snapshot = cached(source, tmp_path / "hub", "black-forest-labs/FLUX.1-dev")
    whole = ["transformer", "autoencoder", "clip", "t5"]
    for path in (snapshot, snapshot / "flux1-dev.safetensors"):
        found = locate(path)
        assert found.spec == parts.small
        assert [part.role for part in dry_load(found)] == whole
    settings = Settings(data=tmp_path / "data")
    models.add(settings, snapshot / "flux1-dev.safetensors", name="mine", sums=False)
    kept = locate("mine", models=settings.models_folder)
    assert kept.file == snapshot / "flux1-dev.safetensors"
    assert [part.role for part in dry_load(kept)] == whole


def test_a_link_to_a_single_file_finds_the_parts_beside_the_file(parts: Made, tmp_path: Path) -> None:
    file = write_single(tmp_path / "weights", parts, name="portraits.safetensors")
    link = tmp_path / "portraits.safetensors"
    link.symlink_to(file)
    for folder in (None, tmp_path / "models"):
        assert [part.path.parent for part in dry_load(locate(link, models=folder))][1:] == [file.parent] * 3


@pytest.mark.parametrize("layout", ["single", "diffusers"])
def test_a_snapshots_repository_says_what_its_shapes_do_not(layout: str, tmp_path: Path) -> None:
    it = made(FLUX1_CANNY)
    if layout == "single":
        source = write_single(tmp_path / "source", it, name="model.safetensors").parent
    else:
        source = write_diffusers(tmp_path / "source", it)
    found = locate(cached(source, tmp_path / "hub", "somebody/FLUX.1-Canny-dev"))
    assert found.spec.name == FLUX1_CANNY.name


def eight_bit(parts: Made, scale_of: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    """The transformer with its matrices in fp8, each with a scale of the shape that `scale_of` gives."""
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in parts.bfl().items():
        if key.endswith(".weight") and tensor.ndim == 2:
            tensors[key] = tensor.to(torch.float8_e4m3fn)
            tensors[key.removesuffix("weight") + "weight_scale"] = scale_of(tensor).contiguous()
        else:
            tensors[key] = tensor
    return tensors


@pytest.mark.parametrize(
    "scale_of",
    [
        lambda weight: torch.ones(weight.shape[0] // 8, weight.shape[1] // 8),
        lambda weight: torch.ones(weight.shape[0] + 1),
        lambda weight: torch.ones(1, weight.shape[0]),
        lambda weight: torch.ones(weight.shape[0], dtype=torch.uint8),
    ],
    ids=["blocks", "another count", "columns", "integers"],
)
def test_checking_refuses_scales_that_loading_cannot_multiply_by(
    parts: Made, scale_of: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    path = write_single(tmp_path, parts, name="x.safetensors")
    save_file(eight_bit(parts, scale_of), path)
    with pytest.raises(WeightsError, match=r"x\.safetensors: .* has a scale of .*block-scaled fp8"):
        dry_load(locate(path))


@pytest.mark.parametrize(
    "scale_of",
    [lambda weight: torch.ones(()), lambda weight: torch.ones(1, 1), lambda weight: torch.ones(weight.shape[0], 1)],
    ids=["number", "matrix of one", "rows"],
)
def test_what_checking_accepts_loads(
    parts: Made, scale_of: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    path = write_single(tmp_path, parts, name="x.safetensors")
    save_file(eight_bit(parts, scale_of), path)
    assert len(dry_load(locate(path))) == 4
    loaded = weights.load_transformer(locate(path), weights.CPU).state_dict()
    assert all(torch.equal(loaded[key], t.to(torch.float8_e4m3fn).float()) for key, t in parts.bfl().items()
               if key.endswith(".weight") and t.ndim == 2)  # fmt: skip


def test_parts_of_a_fused_layer_may_be_stored_in_different_widths(parts: Made, tmp_path: Path) -> None:
    """Query in 8 bits, key in others, value in 16: torch joins them only after they are widened."""
    write_single(tmp_path, parts, name="x.safetensors").unlink()
    kinds = {"to_q": torch.float8_e4m3fn, "to_k": torch.float8_e5m2, "to_v": torch.bfloat16}
    theirs = {
        key: tensor.to(next((kind for word, kind in kinds.items() if f"{word}.weight" in key), torch.float32))
        for key, tensor in parts.transformer.state_dict().items()
    }
    save_file({key: tensor.contiguous().clone() for key, tensor in theirs.items()}, tmp_path / "x.safetensors")
    assert len(dry_load(locate(tmp_path / "x.safetensors"))) == 4
    loaded = weights.load_transformer(locate(tmp_path / "x.safetensors"), weights.CPU).state_dict()
    one = "transformer_blocks.0.attn.to_{}.weight"
    expected = torch.cat([theirs[one.format(letter)].float() for letter in "qkv"])
    assert torch.equal(loaded["double_blocks.0.img_attn.qkv.weight"], expected)


def test_sft_is_safetensors(parts: Made, tmp_path: Path) -> None:
    path = write_single(tmp_path, parts, name="flux1-dev.safetensors")
    for name in ("flux1-dev", "ae", "clip_l", "t5xxl_fp16"):
        (tmp_path / f"{name}.safetensors").rename(tmp_path / f"{name}.sft")
    for place in (path.with_suffix(".sft"), tmp_path):
        found = locate(place)
        assert found.spec == parts.small
        assert [part.path.suffix for part in dry_load(found)] == [".sft"] * 4


def test_shards_without_an_index_must_all_be_there(parts: Made, tmp_path: Path) -> None:
    folder = write_diffusers(tmp_path / "flux", parts)
    (index,) = (folder / "transformer").glob("*.index.json")
    index.unlink()
    assert dry_load(locate(folder))
    last = max((folder / "transformer").glob("*.safetensors"))
    last.unlink()
    with pytest.raises(WeightsError, match=f"shards that are not there: {last.stem}"):
        dry_load(locate(folder))


def test_a_checkpoint_of_another_kind_is_named_with_what_to_fetch(parts: Made, tmp_path: Path) -> None:
    path = write_single(tmp_path, parts, name="x.safetensors")
    tensors = parts.bfl()
    packed = "double_blocks.0.img_attn.qkv.weight"
    save_file(tensors | {f"{packed}.quant_state.bitsandbytes__nf4": torch.zeros(2, dtype=torch.uint8)}, path)
    with pytest.raises(WeightsError, match=r"NF4 \(bitsandbytes\).*fetch the file in 16 bits"):
        dry_load(locate(path))
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match="a Git LFS pointer"):
        locate(path)
    path.with_suffix(".gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(WeightsError, match="a GGUF file"):
        locate(path.with_suffix(".gguf"))
    save_file({"double_blocks.0.img_attn.qkv.lora_A.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelUnavailable, match="It is a LoRA"):
        locate(path)
