"""LoRA files as programs write them: the same change is the same bytes, and what is not understood is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from impasto.errors import WeightsError
from impasto.flux import adapters, dialects
from impasto.flux.adapters import Limits

from .test_adapters import PARAMS, Weights, bfl, kohya, ours, pairs, peft, read, shapes, stored
from .test_frame import written

D, M = PARAMS.hidden_size, PARAMS.mlp_hidden_size
FUSED = {"img_attn.qkv": (D, D, D), "txt_attn.qkv": (D, D, D), "linear1": (D, D, D, M)}


def split(prefix: str = "transformer.") -> Weights:
    """Every linear of the blocks in BFL's names, the fused ones in parts, as OneTrainer and OMI write them."""
    layers: dict[str, tuple[int, int]] = {}
    for name, (out, width) in shapes(ours()).items():
        sizes = FUSED.get(name.split(".", 2)[-1], ()) if "_blocks." in name else ()
        layers |= {f"{prefix}{name}.{n}": (size, width) for n, size in enumerate(sizes)} or {
            prefix + name: (out, width)
        }
    return pairs(layers, ".lora_down.weight", ".lora_up.weight")


def in_diffusers_names(tensors: Weights, prefix: str = "transformer.") -> Weights:
    """The same change as PEFT writes it."""
    renamed: Weights = {}
    table = dialects.Table(PARAMS, shapes(ours()))
    names = {
        place.order: name for name, place in table.places.items() if "transformer_blocks" in name and not place.swap
    }
    for key, tensor in tensors.items():
        named = dialects.parse(key)
        assert named is not None
        place = table.places[named.layer]
        if place.order in names:
            half = "lora_A" if named.part == "down" else "lora_B"
            renamed[f"{prefix}{names[place.order]}.{half}.weight"] = tensor
        else:
            renamed[key] = tensor
    return renamed


def same(one: adapters.Adapter, other: adapters.Adapter) -> bool:
    """Whether both are the same bytes in the same order."""
    a, b = (adapters.combine([(each, 1.0)]) for each in (one, other))
    return list(a) == list(b) and all(
        torch.equal(a[name].down, b[name].down)
        and all(
            (u.rows, u.ranks) == (v.rows, v.ranks) and torch.equal(u.weight, v.weight)
            for u, v in zip(a[name].ups, b[name].ups, strict=True)
        )
        for name in a
    )


def test_parts_of_fused_layers_are_the_same_bytes_as_the_peft_file(tmp_path: Path) -> None:
    one = read(stored(tmp_path, split(), name="split"))
    other = read(stored(tmp_path, in_diffusers_names(split()), name="peft"))
    assert one.unmatched == other.unmatched == ()
    assert len(one.branches) == len(split()) // 2
    assert same(one, other)
    rows = [b.place.rows for b in one.branches if b.place.layer == "single_blocks.0.linear1"]
    assert rows == [slice(0, D), slice(D, 2 * D), slice(2 * D, 3 * D), slice(3 * D, 3 * D + M)]


@pytest.mark.parametrize(
    "write",
    [
        lambda key: key.replace(".lora_", "_.lora_"),
        lambda key: key.replace(".weight", ".my-style.weight"),
        lambda key: key.replace("transformer.", "transformer._orig_mod."),
        lambda key: key.replace("transformer.", "module.base_model.model."),
        lambda key: key.replace("lora_A", "lora_linear_layer.down").replace("lora_B", "lora_linear_layer.up"),
        lambda key: key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"),
        lambda key: re.sub(r"^transformer\.(.*)\.lora_", lambda m: f"lycoris_{m[1].replace('.', '_')}.lora_", key),
        lambda key: re.sub(r"^transformer\.(.*)\.lora_", lambda m: f"lora_unet_{m[1].replace('.', '_')}_.lora_", key),
    ],
)
def test_what_programs_write_around_a_plain_lora_means_nothing(tmp_path: Path, write: Callable[[str], str]) -> None:
    plain = read(stored(tmp_path, peft(), name="plain"))
    other = read(stored(tmp_path, {write(key): tensor for key, tensor in peft().items()}, name="other"))
    assert other.unmatched == ()
    assert same(plain, other)


LAYER = "double_blocks.0.img_attn.qkv"


@pytest.mark.parametrize(
    ("suffixes", "kind"),
    [
        ((".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"), "GLoRA"),
        ((".weight", ".on_input"), "IA3"),
        ((".ia3_l",), "IA3"),
        ((".weight",), "IA3"),
        ((".vera_lambda_b", ".vera_lambda_d"), "VeRA"),
        ((".oft_R.default.weight",), "OFT"),
        ((".oft_blocks",), "OFT"),
        ((".boft_R",), "BOFT"),
        ((".lokr_w1", ".lokr_w2_a", ".lokr_w2_b"), "LoKr"),
        ((".hada_w1_a", ".hada_w1_b"), "LoHa"),
        ((".lora_magnitude_vector",), "DoRA"),
        ((".lora_magnitude_vector.weight",), "DoRA"),
        ((".lora_magnitude_vector.default.weight",), "DoRA"),
        ((".lora_magnitude_vector.my-style.weight",), "DoRA"),
        ((".lora_magnitude_vector.my-style",), "DoRA"),
        ((".dora_scale",), "DoRA"),
        ((".magnitude",), "DoRA"),
        ((".lora_mid.weight",), "lora_mid"),
        ((".scale_weight",), "scaled 8 bits"),
    ],
)
@pytest.mark.parametrize("prefix", ["lycoris_", "transformer.", "diffusion_model.", "base_model.model."])
def test_another_kind_of_adapter_is_refused_by_its_name(
    tmp_path: Path, suffixes: tuple[str, ...], kind: str, prefix: str
) -> None:
    """Also where the rest of the file is a plain LoRA, which would be drawn without what is not understood."""
    layer = prefix + (LAYER.replace(".", "_") if prefix.endswith("_") else LAYER)
    tensors: Weights = {layer + suffix: torch.zeros(3 * D) for suffix in suffixes}
    for name, rest in (("alone", {}), ("beside", pairs({layer: (3 * D, D)}, ".lora_A.weight", ".lora_B.weight"))):
        with pytest.raises(WeightsError, match=rf"{name}\.safetensors: its kind is .*{kind}") as caught:
            read(stored(tmp_path, tensors | rest, name=name))
        assert "for another" not in caught.value.message


def test_full_differences_of_weights_are_refused_and_those_of_norms_have_no_effect(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="its kind is full difference of weights"):
        read(stored(tmp_path, {f"diffusion_model.{LAYER}.diff": torch.zeros(3 * D, D)}))
    extra = {f"diffusion_model.{LAYER}.diff_b": torch.zeros(3 * D),
             "diffusion_model.double_blocks.0.img_attn.norm.key_norm.diff": torch.zeros(8)}  # fmt: skip
    assert read(stored(tmp_path, bfl("diffusion_model.") | extra)).unmatched == tuple(sorted(extra))


def test_a_dora_that_only_its_header_names_is_refused(tmp_path: Path) -> None:
    config = {"lora_adapter_metadata": json.dumps({"transformer.use_dora": True})}
    with pytest.raises(WeightsError, match="its kind is DoRA"):
        read(stored(tmp_path, peft(), metadata=config))


def test_a_file_most_of_whose_keys_are_not_understood_is_refused(tmp_path: Path) -> None:
    """A part of a fused layer that does not exist, or halves by another word: most of the change would be lost."""
    odd = {re.sub(r"(qkv|linear1)\.", r"\1.part", key): tensor for key, tensor in split().items()}
    with pytest.raises(WeightsError, match=r"of its .* keys name layers of this model in a way that is not understood"):
        read(stored(tmp_path, {key: tensor for key, tensor in odd.items() if "mlp" not in key and "mod" not in key}))
    few = dict(list(split().items())[:4]) | {key.replace("lora_", "lara_"): t for key, t in split().items()}
    with pytest.raises(WeightsError, match="not understood"):
        read(stored(tmp_path, few))


def test_keys_of_other_networks_do_not_count_against_a_lora(tmp_path: Path) -> None:
    """Text encoders, and blocks that a cut-down model does not have."""
    extra = {f"lora_te1_text_model_encoder_layers_{i}_mlp_fc1.lora_down.weight": torch.zeros(2, 2) for i in range(99)}
    extra |= {f"lora_unet_single_blocks_{i}_linear2.lora_down.weight": torch.zeros(2, 2) for i in range(30, 99)}
    assert len(read(stored(tmp_path, kohya() | extra)).unmatched) == len(extra)


def test_one_layer_twice_is_refused(tmp_path: Path) -> None:
    twice = bfl() | {f"diffusion_model.{key}": tensor for key, tensor in bfl().items()}
    with pytest.raises(WeightsError, match="the same part of one layer twice"):
        read(stored(tmp_path, twice))
    part = pairs({f"{LAYER}.1": (D, D)}, ".lora_A.weight", ".lora_B.weight")
    with pytest.raises(WeightsError, match=f"changes {LAYER} as a whole and in parts"):
        read(stored(tmp_path, bfl() | part))
    named: Weights = {}
    for name in ("first", "second"):
        named |= pairs({LAYER: (3 * D, D)}, f".lora_A.{name}.weight", f".lora_B.{name}.weight")
    with pytest.raises(WeightsError, match=r"several adapters \(first, second\)"):
        read(stored(tmp_path, named))


def test_a_control_lora_is_named(tmp_path: Path) -> None:
    wide = pairs({"img_in": (D, 2 * PARAMS.in_channels)}, ".lora_A.weight", ".lora_B.weight")
    with pytest.raises(WeightsError, match="control LoRA: it widens the first layer from 64 to 128"):
        read(stored(tmp_path, bfl() | wide))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("controlnet_blocks.0.weight", "a ControlNet"),
        ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion"),
        ("emb_params", "an embedding"),
        ("decoder.up.0.block.0.conv1.weight", "an autoencoder"),
    ],
)
def test_a_file_that_is_no_adapter_is_named(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(WeightsError, match=f"no layer of this model is named in it, so it is {said}"):
        read(stored(tmp_path, {name: torch.zeros(2, 2)}))
    with pytest.raises(WeightsError, match="its kind is checkpoint with whole weights"):
        read(stored(tmp_path, dict(ours().state_dict())))


# ------------------------------------------------------------ bounds, told from the header


def overlapping(path: Path, layers: int, *, shared: int) -> Path:
    """A file of `layers` tensors that all say the same `shared` bytes are theirs."""
    entry = {"dtype": "F8_E4M3", "shape": [shared // D, D], "data_offsets": [0, shared]}
    return written(path, {f"double_blocks.{i}.lora_A.weight": entry for i in range(layers)}, bytes(shared))


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="overlap in the file"):
        read(overlapping(tmp_path / "x.safetensors", 200, shared=100 * D))


def judged(tensors: Weights, tmp_path: Path, /, **limits: int) -> adapters.Plan:
    return adapters.plan(stored(tmp_path, tensors), shapes(ours()), PARAMS, limits=Limits(**limits))


def test_a_lora_is_bound_in_bytes_rank_and_tensors_before_it_is_read(tmp_path: Path) -> None:
    tensors = kohya()
    halves = [tensor for key, tensor in tensors.items() if not key.endswith(".alpha")]
    float_bytes = sum(4 * tensor.numel() for tensor in halves)
    narrow = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in tensors.items()}
    for each in (tensors, narrow):  # what counts is what it becomes, not what it is in the file
        plan = judged(each, tmp_path, float_bytes=float_bytes, rank=4, tensors=len(tensors))
        assert plan.float_bytes == float_bytes
        assert plan.read().nbytes == float_bytes
        with pytest.raises(WeightsError, match=r"MiB in float32, more than .*setting model\.lora_mb"):
            judged(each, tmp_path, float_bytes=float_bytes - 1)
    with pytest.raises(WeightsError, match=r"has rank 4, more than the 3 .*setting model\.lora_rank"):
        judged(tensors, tmp_path, rank=3)
    with pytest.raises(WeightsError, match=r"tensors are more than the 5 .*setting model\.lora_tensors"):
        judged(tensors, tmp_path, tensors=5)


@pytest.mark.parametrize("shape", [(0,), (2,), (1000, 1000), (1, 0)])
def test_an_alpha_is_a_single_number(tmp_path: Path, shape: tuple[int, ...]) -> None:
    key = f"{LAYER}.alpha"
    pair = pairs({LAYER: (3 * D, D)}, ".lora_A.weight", ".lora_B.weight")
    with pytest.raises(WeightsError, match=r"alpha .* must be a single number"):
        read(stored(tmp_path, pair | {key: torch.ones(shape)}))
    assert len(read(stored(tmp_path, pair | {key: torch.ones(1, 1)})).branches) == 1


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, odd: float) -> None:
    tensors = bfl()
    next(iter(tensors.values()))[0, 0] = odd
    with pytest.raises(WeightsError, match="not finite"):
        read(stored(tmp_path, tensors))


def test_halves_in_integers_are_refused(tmp_path: Path) -> None:
    integers: dict[str, Tensor] = {key: tensor.to(torch.int8) for key, tensor in bfl().items()}
    with pytest.raises(WeightsError, match="stored in integers"):
        read(stored(tmp_path, integers))
