"""Weights in 8 bits: fp8 files as they are, wider ones rounded row by row; LoRAs leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from impasto.flux import placing, quantise, weights
from impasto.flux.checkpoint import locate
from impasto.flux.linear import attached
from impasto.flux.quantise import NarrowLinear
from impasto.flux.residency import Kept, Residency

from ..checkpoints import Made, made, write_diffusers, write_single
from .test_offload import BF16, CPU, lora, run

FP8, INT8 = Residency(kept="fp8"), Residency(kept="int8")


@pytest.fixture(scope="module")
def parts() -> Made:
    return made()


@pytest.fixture(scope="module")
def wide(parts: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single(tmp_path_factory.mktemp("wide"), parts, name="x.safetensors", dtype=torch.bfloat16)


def scaled(parts: Made, path: Path, *, rows: bool = False, dtype: torch.dtype = torch.float8_e4m3fn) -> Path:
    """An fp8 file as they are published, with a scale beside each weight of the blocks; the rest in bf16."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in parts.bfl().items():
        if key.endswith(".weight") and "_blocks" in key:
            scale = tensor.abs().amax(1) / 448 if rows else tensor.abs().max() / 448
            tensors[key] = (tensor / (scale[:, None] if rows else scale)).to(dtype)
            tensors[key.removesuffix("weight") + "scale_weight"] = scale
        else:
            tensors[key] = tensor.bfloat16()
    write_single(path.parent, parts, name=path.name)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize("stored", ["bare", "tensor", "rows", "e5m2", "diffusers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_file_in_fp8_is_kept_so_and_draws_what_its_widened_weights_draw_to_the_bit(
    parts: Made, stored: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    if stored == "diffusers":
        path = write_diffusers(tmp_path / "flux", parts, dtype=torch.float8_e4m3fn)
    elif stored == "bare":
        path = write_single(tmp_path, parts, name="x.safetensors", dtype=torch.float8_e4m3fn)
    else:
        kind = torch.float8_e5m2 if stored == "e5m2" else torch.float8_e4m3fn
        path = scaled(parts, tmp_path / "x.safetensors", rows=stored == "rows", dtype=kind)
    found, target = locate(path), weights.Target(CPU, dtype)
    assert quantise.stored_as(weights.transformer_tensors(found)) == "fp8"
    narrow = placing.load_transformer(found, target, FP8)
    assert torch.equal(run(narrow), run(weights.load_transformer(found, target)))
    for name, layer in narrow.named_modules():
        if isinstance(layer, torch.nn.Linear) and "_blocks" in name:
            assert isinstance(layer, NarrowLinear), name
            assert layer.weight.dtype.itemsize == 1
            assert layer.is_scaled == (stored not in {"bare", "diffusers"})


@pytest.mark.parametrize(("kept", "bound"), [("int8", 0.008), ("fp8", 0.03)])
def test_wide_weights_are_rounded_row_by_row(parts: Made, wide: Path, kept: Kept, bound: float) -> None:
    model = placing.load_transformer(locate(wide), weights.CPU, Residency(kept=kept))
    count = 0
    for key, tensor in parts.bfl().items():
        if not (key.endswith(".weight") and "_blocks" in key):
            continue
        layer = model.get_submodule(key.removesuffix(".weight"))
        assert isinstance(layer, NarrowLinear)
        assert layer.weight.dtype == quantise.DTYPES[kept]
        exact = tensor.bfloat16().float()
        largest = exact.abs().amax(1, keepdim=True)
        found = quantise.widened(layer.weight, layer.weight_scale, torch.float32)
        if kept == "int8":
            assert ((found - exact).abs() <= largest / 127 * 0.5001).all(), "half a step of each row's own scale"
        torch.testing.assert_close(found.abs().amax(1, keepdim=True), largest, rtol=1e-6, atol=0)
        assert (found - exact).norm() / exact.norm() < bound, key
        count += 1
    assert count > 10
    apart = run(model) - run(weights.load_transformer(locate(wide), weights.CPU))
    assert 0 < apart.norm() / run(model).norm() < 2 * bound


def test_a_row_of_zeros_stays_one() -> None:
    weight = torch.randn(4, 8)
    weight[2] = 0
    for kept in ("int8", "fp8"):
        found = quantise.widened(*quantise.rounded(weight, kept), torch.float32)
        assert found.isfinite().all()
        assert (found[2] == 0).all()


@pytest.mark.parametrize("chunk", [16, 2**22])
def test_how_much_is_rounded_at_a_time_changes_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(37, 16).bfloat16()
    whole = quantise.rounded(weight, "int8")
    wide = quantise.widened(*whole, torch.bfloat16)
    monkeypatch.setattr(quantise, "_AT_ONCE", chunk)
    parts = quantise.rounded(weight, "int8")
    assert torch.equal(parts[0], whole[0])
    assert torch.equal(parts[1], whole[1])
    assert torch.equal(quantise.widened(*parts, torch.bfloat16), wide)


@pytest.mark.parametrize("residency", [INT8, FP8, Residency(kept="int8", modulation_on_host=True, streamed=3)],
                         ids=lambda it: it.words)  # fmt: skip
def test_a_lora_on_narrow_weights_is_added_and_taken_away_without_a_trace(wide: Path, residency: Residency) -> None:
    model = placing.load_transformer(locate(wide), weights.CPU, residency)
    stored = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    before, sides = run(model), lora(model)
    changed = run(model, sides)
    assert not torch.equal(changed, before)
    assert torch.equal(run(model), before)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor.view(torch.uint8), stored[key].view(torch.uint8)), key
    layer = model.get_submodule("single_blocks.0.linear1")
    x = torch.randn(3, layer.in_features)
    plain = layer(x)
    with attached(model, sides):
        side = sides["single_blocks.0.linear1"]
        torch.testing.assert_close(layer(x) - plain, x @ side.down.T @ side.ups[0].weight.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kept", ["int8", "fp8"])
def test_narrow_weights_that_visit_draw_what_resident_ones_draw_to_the_bit(
    wide: Path, parts: Made, kept: Kept, tmp_path: Path
) -> None:
    for path in (wide, scaled(parts, tmp_path / "scaled.safetensors")):
        resident = placing.load_transformer(locate(path), BF16, Residency(kept=kept))
        for mapped in (False, True):
            away = Residency(kept=kept, modulation_on_host=True, streamed=2, mapped=mapped)
            assert torch.equal(run(placing.load_transformer(locate(path), BF16, away)), run(resident))


def test_fp8_leaves_what_the_file_holds_wide(parts: Made, tmp_path: Path) -> None:
    """A file whose maker kept some layers in bf16: these are not rounded behind his back."""
    tensors = {key: tensor.bfloat16() for key, tensor in parts.bfl().items()}
    for key in tensors:
        if key.endswith("mlp.0.weight") or key.endswith("linear1.weight"):
            tensors[key] = tensors[key].to(torch.float8_e4m3fn)
    path = write_single(tmp_path, parts, name="x.safetensors")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    model = placing.load_transformer(locate(path), BF16, FP8)
    kinds = {name.rpartition(".")[2] if "linear" in name else name.partition(".0.")[2]
             for name, layer in model.named_modules() if isinstance(layer, NarrowLinear)}  # fmt: skip
    assert kinds == {"img_mlp.0", "txt_mlp.0", "linear1"}
    assert torch.equal(run(model), run(weights.load_transformer(locate(path), BF16)))


def test_embedders_and_the_last_layer_stay_wide(wide: Path) -> None:
    model = placing.load_transformer(locate(wide), BF16, INT8)
    narrow = {name.partition(".")[0] for name, each in model.named_modules() if isinstance(each, NarrowLinear)}
    assert narrow == {"double_blocks", "single_blocks"}


def test_rounding_a_model_takes_half_its_bytes_and_no_more_on_the_way(tmp_path: Path) -> None:
    """A process of its own, 256 MB of bf16 as int8: the peak is the narrow weights and a few pieces."""
    code = """
import sys, torch
from pathlib import Path
from impasto.flux import quantise, weights
from impasto.flux.models import TransformerParams
from impasto.flux.residency import Residency
from impasto.flux.stored import open_stored
from impasto.flux.transformer import Flux
from safetensors.torch import save_file
from torch import nn
params = TransformerParams(64, 64, 64, 64, 1024, 4.0, 8, 1, 5, (16, 56, 56), 10_000, True, False)
path = Path(sys.argv[1])
def held(name): return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(name))
def load():
    stored = open_stored(path)
    keys = quantise.layers(stored, "int8")
    source = quantise.Narrowed(stored, keys, "int8", torch.device("cpu"))
    return weights.build(lambda: quantise.narrowed(Flux(params), keys, "int8"), source, name="x",
                         target=weights.Target(torch.device("cpu"), torch.bfloat16))
if sys.argv[2] == "write":
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in Flux(params).state_dict().items()}
    save_file({k: torch.ones(s, dtype=torch.bfloat16) for k, s in shapes.items()}, path)
else:
    quantise.rounded(torch.randn(8, 8), "int8")
    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    model = load()
    size = sum(p.nbytes for p in model.parameters())
    assert size > 80e6
    print((held("VmHWM") - before) / size)
"""
    peak = ""
    for verb in ("write", "read"):
        command = [sys.executable, "-c", code, str(tmp_path / "x.safetensors"), verb]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        peak = done.stdout
    assert float(peak) < 2.5, "3 or more: the wide model was there as a whole"
