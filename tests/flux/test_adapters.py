"""LoRA files in every dialect against diffusers' own reader, and what taking one away leaves behind."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from twins import relative

from impasto.errors import WeightsError
from impasto.flux import adapters, keys, weights
from impasto.flux.linear import attached, merged
from impasto.flux.models import FLUX1_CANNY, FLUX1_FILL, ModelSpec
from impasto.flux.transformer import Flux

from ..checkpoints import diffusers_transformer, transformer_params
from .test_parity import Inputs

TOLERANCE = 1e-5
RANK, ALPHA = 4, 3.0
PARAMS = transformer_params()
Weights = dict[str, Tensor]


def theirs() -> FluxTransformer2DModel:
    return diffusers_transformer(PARAMS)


@cache
def ours() -> Flux:
    tensors = keys.from_diffusers(theirs().state_dict(), keys.transformer_rows(PARAMS))
    return weights.build(lambda: Flux(PARAMS), tensors, name="transformer")


def shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {n: (m.out_features, m.in_features) for n, m in model.named_modules() if isinstance(m, nn.Linear)}


def pairs(layers: dict[str, tuple[int, int]], down: str, up: str, *, rank: int = RANK, seed: int = 5) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    made: Weights = {}
    for name, (out, width) in layers.items():
        made[name + down] = torch.randn(rank, width, generator=generator) * 0.1
        made[name + up] = torch.randn(out, rank, generator=generator) * 0.1
    return made


def with_alpha(tensors: Weights, up: str) -> Weights:
    return tensors | {k.removesuffix(up) + ".alpha": torch.tensor(ALPHA) for k in tensors if k.endswith(up)}


def peft() -> Weights:
    """Every linear of the model, the last modulation with its exchanged halves among them."""
    layers = {f"transformer.{name}": shape for name, shape in shapes(theirs()).items()}
    return pairs(layers, ".lora_A.weight", ".lora_B.weight")


def kohya() -> Weights:
    blocks = {n: s for n, s in shapes(ours()).items() if n.startswith(("double_blocks", "single_blocks"))}
    layers = {"lora_unet_" + name.replace(".", "_"): shape for name, shape in blocks.items()}
    return with_alpha(pairs(layers, ".lora_down.weight", ".lora_up.weight"), ".lora_up.weight")


def kohya_but_wide() -> Weights:
    """Without the wide layer of single blocks, which diffusers' reader splits by the sizes of the full model only."""
    return {key: tensor for key, tensor in kohya().items() if "linear1" not in key}


def xlabs() -> Weights:
    d = PARAMS.hidden_size
    layers: dict[str, tuple[int, int]] = {}
    for i in range(PARAMS.depth):
        for stream in "12":
            layers[f"double_blocks.{i}.processor.qkv_lora{stream}"] = (3 * d, d)
            layers[f"double_blocks.{i}.processor.proj_lora{stream}"] = (d, d)
    for i in range(PARAMS.depth_single_blocks):
        layers[f"single_blocks.{i}.processor.qkv_lora"] = (3 * d, d)
        layers[f"single_blocks.{i}.processor.proj_lora"] = (d, d + PARAMS.mlp_hidden_size)
    return pairs(layers, ".down.weight", ".up.weight")


def bfl(prefix: str = "") -> Weights:
    layers = {prefix + n: s for n, s in shapes(ours()).items() if n.startswith(("double_blocks", "single_blocks"))}
    return pairs(layers, ".lora_A.weight", ".lora_B.weight")


def stored(tmp_path: Path, tensors: Weights, *, name: str = "lora", metadata: dict[str, str] | None = None) -> Path:
    path = tmp_path / f"{name}.safetensors"
    save_file(tensors, path, metadata=metadata)
    return path


def read(path: Path) -> adapters.Adapter:
    return adapters.read(path, shapes(ours()), PARAMS)


def drawn(sides: adapters.Sides | None = None) -> Tensor:
    with torch.inference_mode(), attached(ours(), sides or {}):
        return INPUTS.ours(ours())


def loaded(path: Path, model: FluxTransformer2DModel, *, scale: float = 1.0) -> Any:
    """`model` with the file as its adapter "one", which diffusers' pipeline has read."""
    pipeline = FluxPipeline(
        scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        transformer=model,
    )  # fmt: skip
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="one")
    pipeline.set_adapters(["one"], [scale])
    return model


def judged(path: Path, *, scale: float = 1.0) -> Tensor:
    """The same through diffusers: its pipeline reads the file, its transformer is called."""
    model = loaded(path, theirs(), scale=scale)
    with torch.inference_mode():
        return INPUTS.theirs(model)


INPUTS = Inputs.make(PARAMS, height=96, width=128)


@pytest.mark.parametrize("make", [peft, kohya_but_wide, xlabs], ids=lambda make: make.__name__)
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_a_dialect_changes_what_diffusers_changes(tmp_path: Path, make: Callable[[], Weights], scale: float) -> None:
    path = stored(tmp_path, make())
    adapter = read(path)
    assert adapter.unmatched == ()
    changed = drawn(adapters.combine([(adapter, scale)]))
    assert relative(changed, judged(path, scale=scale)) < TOLERANCE
    assert relative(changed, drawn()) > 1e-2, "a LoRA without effect would prove nothing"


def test_alpha_of_the_header_counts_as_in_diffusers(tmp_path: Path) -> None:
    one = "single_transformer_blocks.1.proj_out"
    config = {"transformer.r": RANK, "transformer.lora_alpha": 6, "transformer.alpha_pattern": {one: 2},
              "transformer.target_modules": sorted(shapes(theirs()))}  # fmt: skip
    path = stored(tmp_path, peft(), metadata={"format": "pt", "lora_adapter_metadata": json.dumps(config)})
    assert relative(drawn(adapters.combine([(read(path), 1.0)])), judged(path)) < TOLERANCE


@pytest.mark.parametrize("rooted", [False, True], ids=["plain", "rslora"])
@pytest.mark.parametrize("saved", ["pipeline", "transformer"])
def test_files_that_diffusers_writes_count_as_what_it_trained(tmp_path: Path, rooted: bool, saved: str) -> None:
    """With the words of PEFT's configuration below `transformer.` and without; rsLoRA divides by the rank's root."""
    model = theirs()
    proj = "single_transformer_blocks.1.proj_out"
    config = LoraConfig(r=RANK, lora_alpha=6, alpha_pattern={proj: 2}, target_modules=["to_q", proj],
                        use_rslora=rooted, init_lora_weights=False)  # fmt: skip
    model.add_adapter(config)
    if saved == "pipeline":
        metadata = _collate_lora_metadata({"transformer": model})
        FluxPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(model), **metadata)
    else:
        model.save_lora_adapter(tmp_path)
    sides = adapters.combine([(read(next(tmp_path.glob("*.safetensors"))), 1.0)])
    rows = PARAMS.hidden_size
    query = merged(torch.zeros(3 * rows, rows), sides["double_blocks.0.img_attn.qkv"])[:rows]
    last = merged(torch.zeros(rows, rows + PARAMS.mlp_hidden_size), sides["single_blocks.1.linear2"])
    modules: Any = model
    assert relative(query, modules.transformer_blocks[0].attn.to_q.get_delta_weight("default")) < TOLERANCE
    assert relative(last, modules.get_submodule(proj).get_delta_weight("default")) < TOLERANCE


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "unet.", "lycoris_"])
@pytest.mark.parametrize("name", ["", ".default", ".default_0"])
@pytest.mark.parametrize("ends", [(), (1, 1)], ids=["linear", "convolution"])
def test_what_programs_write_around_the_same_names(
    tmp_path: Path, prefix: str, name: str, ends: tuple[int, ...]
) -> None:
    layer = "double_blocks.0.img_mod.lin"
    plain = pairs({layer: shapes(ours())[layer]}, ".lora_A.weight", ".lora_B.weight")
    written = {
        prefix + (layer.replace(".", "_") if prefix.endswith("_") else layer) + f".lora_{half}{name}.weight":
        tensor.reshape(*tensor.shape, *ends)
        for half, tensor in zip("AB", plain.values(), strict=True)
    }  # fmt: skip
    one, other = (read(stored(tmp_path, t, name=n)) for n, t in (("plain", plain), ("written", written)))
    (expected,), (found,) = one.branches, other.branches
    assert other.unmatched == ()
    assert found.place == expected.place
    assert torch.equal(found.down, expected.down)
    assert torch.equal(found.up, expected.up)


@pytest.mark.parametrize("own", ["transformer.", "lora_transformer_"])
def test_a_file_that_says_the_same_in_two_dialects_counts_once(tmp_path: Path, own: str) -> None:
    """Query, key and value by diffusers' names, and once more as the one layer that they are for kohya."""
    rows, flat = PARAMS.hidden_size, own == "lora_transformer_"
    down, up = (".lora_down.weight", ".lora_up.weight") if flat else (".lora_A.weight", ".lora_B.weight")
    layers = {f"transformer_blocks.0.attn.to_{letter}": (rows, rows) for letter in "qkv"}
    layers = {own + (name.replace(".", "_") if flat else name): shape for name, shape in layers.items()}
    once = pairs(layers, down, up)
    fused = "lora_unet_double_blocks_0_img_attn_qkv"
    again = {
        fused + ".lora_down.weight": torch.cat([once[name + down] for name in layers]),
        fused + ".lora_up.weight": torch.block_diag(*(once[name + up] for name in layers)),
        fused + ".alpha": torch.tensor(3.0 * RANK),
    }
    one, both = read(stored(tmp_path, once, name="one")), read(stored(tmp_path, once | again, name="both"))
    assert both.unmatched == tuple(sorted(again))
    changes = [
        merged(torch.zeros(3 * rows, rows), adapters.combine([(each, 1.0)])["double_blocks.0.img_attn.qkv"])
        for each in (one, both)
    ]
    assert torch.equal(*changes)
    assert changes[0].norm() > 0


@pytest.mark.parametrize("spec", [FLUX1_FILL, FLUX1_CANNY], ids=lambda spec: spec.name)
def test_a_lora_of_dev_fits_the_wider_input_of_its_siblings(tmp_path: Path, spec: ModelSpec) -> None:
    """Hyper-FLUX and others change the first layer, whose channels behind the noise they know nothing of."""
    params = transformer_params(spec)
    path = stored(tmp_path, {key: tensor for key, tensor in peft().items() if "x_embedder" in key})
    with torch.device("meta"):
        wide = shapes(Flux(params))
    sides = adapters.combine([(adapters.read(path, wide, params), 1.0)])
    referee = loaded(path, diffusers_transformer(params)).x_embedder.get_delta_weight("one")
    assert referee.shape[1] > PARAMS.in_channels
    assert relative(merged(torch.zeros(wide["img_in"]), sides["img_in"]), referee) < TOLERANCE


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "base_model.model."])
def test_bfl_names_mean_the_same_layers_as_kohyas(tmp_path: Path, prefix: str) -> None:
    """diffusers reads these names only with a control LoRA's other tensors, so kohya's dialect is the referee."""
    named = bfl(prefix)
    flat = {
        "lora_unet_" + k.removeprefix(prefix).rpartition(".lora_")[0].replace(".", "_")
        + (".lora_down.weight" if "lora_A" in k else ".lora_up.weight"): v
        for k, v in named.items()
    }  # fmt: skip
    one, other = (read(stored(tmp_path, t, name=n)) for n, t in (("bfl", named), ("kohya", flat)))
    assert torch.equal(drawn(adapters.combine([(one, 1.0)])), drawn(adapters.combine([(other, 1.0)])))


def test_several_at_once_are_the_sum_of_their_scaled_changes(tmp_path: Path) -> None:
    first, second = read(stored(tmp_path, peft(), name="a")), read(stored(tmp_path, kohya(), name="b"))
    sides = adapters.combine([(first, 0.5), (second, -0.75)])
    model = weights.build(lambda: Flux(PARAMS), ours().state_dict(), name="merged")
    for name, side in sides.items():
        layer = model.get_submodule(name)
        layer.weight = nn.Parameter(merged(layer.weight, side), requires_grad=False)
    with torch.inference_mode():
        assert relative(drawn(sides), INPUTS.ours(model)) < TOLERANCE


def test_taking_a_lora_away_restores_every_bit(tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in ours().state_dict().items()}
    plain = drawn()
    sides = adapters.combine([(read(stored(tmp_path, peft())), 1.0)])
    assert not torch.equal(drawn(sides), plain)
    assert torch.equal(drawn(), plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours().state_dict().items())
    with pytest.raises(RuntimeError), attached(ours(), sides):
        raise RuntimeError
    assert torch.equal(drawn(), plain), "an error in the middle of a step takes the LoRA away, too"
    with pytest.raises(AttributeError), attached(ours(), sides | {"no.such.layer": next(iter(sides.values()))}):
        pass
    assert torch.equal(drawn(), plain), "one that cannot be attached leaves nothing attached"
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours().state_dict().items())


def test_a_scale_of_zero_is_no_lora(tmp_path: Path) -> None:
    assert adapters.combine([(read(stored(tmp_path, kohya())), 0.0)]) == {}


def test_keys_without_a_layer_are_told(tmp_path: Path) -> None:
    extra = {"text_encoder.layers.0.q.lora_A.weight": torch.zeros(2, 4), "odd": torch.zeros(1),
             "transformer.norm_out.linear.lora_A.weight": torch.zeros(RANK, PARAMS.hidden_size)}  # fmt: skip
    kept = {k: v for k, v in peft().items() if "norm_out" not in k}
    adapter = read(stored(tmp_path, kept | extra))
    assert adapter.unmatched == tuple(sorted(extra))


def test_a_lora_of_another_architecture_is_refused(tmp_path: Path) -> None:
    foreign = pairs({"lora_unet_down_blocks_0_attentions_0_proj_in": (8, 8)}, ".lora_down.weight", ".lora_up.weight")
    with pytest.raises(WeightsError, match=r"lora\.safetensors: no layer of this model.*down_blocks_0"):
        read(stored(tmp_path, foreign))
    wide = replace(PARAMS, hidden_size=256, num_heads=4)
    layers = {f"transformer.{n}": s for n, s in shapes(diffusers_transformer(wide)).items()}
    with pytest.raises(WeightsError, match="do not fit a layer of 128 x"):
        read(stored(tmp_path, pairs(layers, ".lora_A.weight", ".lora_B.weight")))


@pytest.mark.parametrize(("suffix", "kind"), [(".lokr_w1", "LoKr"), (".hada_w1_a", "LoHa"), (".dora_scale", "DoRA")])
def test_other_kinds_are_refused_by_name(tmp_path: Path, suffix: str, kind: str) -> None:
    with pytest.raises(WeightsError, match=kind):
        read(stored(tmp_path, kohya() | {"lora_unet_single_blocks_0_linear1" + suffix: torch.zeros(4, 4)}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda header: header.update({"__metadata__": None}),
        lambda header: header.update({"__metadata__": ["a"]}),
        lambda header: header.update({"__metadata__": {"lora_adapter_metadata": "[" * 100_000}}),
        lambda header: next(iter(header.values())).update(shape=[0, 2**70]),
        lambda header: next(iter(header.values())).update(shape=[float("inf")]),
        lambda header: next(iter(header.values())).update(data_offsets=[float("inf"), 0]),
        lambda header: next(iter(header.values())).update(data_offsets=None),
        lambda header: header.update({"x": "y"}),
    ],
)
def test_a_header_of_nonsense_is_a_damaged_file(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    whole = stored(tmp_path, kohya()).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header.pop("__metadata__", None)
    damage(header)
    text = json.dumps(header).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    with pytest.raises(WeightsError, match=r"odd\.safetensors"):
        read(path)


def test_an_endless_alpha_is_refused(tmp_path: Path) -> None:
    header = {"lora_adapter_metadata": '{"transformer.lora_alpha": 1e999}'}
    with pytest.raises(WeightsError, match="is no number"):
        read(stored(tmp_path, peft(), metadata=header))


@pytest.mark.parametrize("change", [{".lora_down.weight": (0, 1), ".lora_up.weight": (1, 0)}, {".alpha": (0,)}])
def test_shapes_without_numbers_are_refused(tmp_path: Path, change: dict[str, tuple[int, ...]]) -> None:
    tensors = kohya()
    for key in list(tensors):
        for suffix, sides in change.items():
            if key.endswith(suffix):
                kept = tuple(have if want else 0 for have, want in zip(tensors[key].shape or (1,), sides, strict=True))
                tensors[key] = torch.zeros(kept)
    with pytest.raises(WeightsError, match=r"lora\.safetensors"):
        read(stored(tmp_path, tensors))


def test_keys_are_shown_as_text_of_a_bearable_length(tmp_path: Path) -> None:
    long = "k" * 100_000
    adapter = read(stored(tmp_path, kohya() | {long: torch.zeros(1)}))
    assert adapter.unmatched == ("k" * 120 + "…",)
    assert adapters.shown("a\ud800b") == "a?b"
    with pytest.raises(WeightsError) as caught:
        read(stored(tmp_path, {long: torch.zeros(1)}))
    assert len(caught.value.message) < 400


def test_pickles_and_damaged_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.pt", "a.safetensors", "a.BIN"):
        (tmp_path / name).write_bytes(pickle.dumps({}))
        with pytest.raises(WeightsError, match="pickle"):
            read(tmp_path / name)
    whole = stored(tmp_path, kohya()).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        read(tmp_path / "cut.safetensors")
